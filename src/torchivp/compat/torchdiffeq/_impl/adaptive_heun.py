"""Names of ``torchdiffeq._impl.adaptive_heun``."""

from ..adaptive import AdaptiveHeunSolver

_ADAPTIVE_HEUN_TABLEAU = AdaptiveHeunSolver.tableau
_AH_C_MID = AdaptiveHeunSolver.mid

__all__ = ["_AH_C_MID", "_ADAPTIVE_HEUN_TABLEAU", "AdaptiveHeunSolver"]
