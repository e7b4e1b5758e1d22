"""Names of ``torchdiffeq._impl.event_handling``."""

from ..functions import combine_event_functions
from ..stepping import find_event

__all__ = ["combine_event_functions", "find_event"]
