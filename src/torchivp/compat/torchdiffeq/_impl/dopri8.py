"""Names of ``torchdiffeq._impl.dopri8``."""

from ..adaptive import Dopri8Solver

_DOPRI8_TABLEAU = Dopri8Solver.tableau
_C_mid = Dopri8Solver.mid

__all__ = ["_C_mid", "_DOPRI8_TABLEAU", "Dopri8Solver"]
