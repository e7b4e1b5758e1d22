"""Names of ``torchdiffeq._impl.dopri5``."""

from ..adaptive import Dopri5Solver

_DORMAND_PRINCE_SHAMPINE_TABLEAU = Dopri5Solver.tableau
DPS_C_MID = Dopri5Solver.mid

__all__ = ["DPS_C_MID", "_DORMAND_PRINCE_SHAMPINE_TABLEAU", "Dopri5Solver"]
