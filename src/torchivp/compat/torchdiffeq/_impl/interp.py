"""Names of ``torchdiffeq._impl.interp``: the quartic through both ends of a step and its middle."""

from ..stepping import interp_evaluate as _interp_evaluate
from ..stepping import interp_fit as _interp_fit

__all__ = ["_interp_evaluate", "_interp_fit"]
