"""What every way to differentiate offers: run a solve, and put its gradient on what comes out."""

from __future__ import annotations

from abc import ABC, abstractmethod

from ..plan import Plan
from ..problem import Problem
from ..runners.eager import Run


class Gradient(ABC):
    """A way to differentiate a solve. Subclasses are final dataclasses of settings."""

    @abstractmethod
    def integrate(self, problem: Problem, plan: Plan) -> Run:
        """Solve; the outcome carries the gradient. The values are those of every other way, to the last bit."""
