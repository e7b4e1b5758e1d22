"""Names of ``torchdiffeq._impl.scipy_wrapper``."""

from ..scipy import ScipyWrapperODESolver

__all__ = ["ScipyWrapperODESolver"]
