"""Names of ``torchdiffeq._impl.bosh3``."""

from ..adaptive import Bosh3Solver

_BOGACKI_SHAMPINE_TABLEAU = Bosh3Solver.tableau
_BS_C_MID = Bosh3Solver.mid

__all__ = ["_BS_C_MID", "_BOGACKI_SHAMPINE_TABLEAU", "Bosh3Solver"]
