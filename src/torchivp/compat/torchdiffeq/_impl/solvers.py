"""Names of ``torchdiffeq._impl.solvers``."""

from ..adaptive import AdaptiveStepsizeEventODESolver, AdaptiveStepsizeODESolver
from ..fixed import FixedGridODESolver

__all__ = ["AdaptiveStepsizeEventODESolver", "AdaptiveStepsizeODESolver", "FixedGridODESolver"]
