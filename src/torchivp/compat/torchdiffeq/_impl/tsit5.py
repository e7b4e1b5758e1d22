"""Names of ``torchdiffeq._impl.tsit5``."""

from ..adaptive import Tsit5Solver

_TSIT5_TABLEAU = Tsit5Solver.tableau
_TSIT5_C_MID = Tsit5Solver.mid

__all__ = ["_TSIT5_C_MID", "_TSIT5_TABLEAU", "Tsit5Solver"]
