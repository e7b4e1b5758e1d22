"""Who decides how long a step is."""

from .base import Controller, Verdict
from .fixed import FixedSteps
from .initial_step import initial_step
from .limits import Limits
from .pid import PI, PID, I

__all__ = ["Controller", "FixedSteps", "I", "Limits", "PI", "PID", "Verdict", "initial_step"]
