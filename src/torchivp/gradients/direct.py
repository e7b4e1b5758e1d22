"""``gradient="direct"``: autograd through the loop. Exact, composable, and as hungry for memory as a deep network."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..errors import GradientError
from ..plan import Plan
from ..problem import Problem
from ..runners.eager import Run
from .base import Gradient


@dataclass(frozen=True)
class Direct(Gradient):
    """Autograd records every accepted step."""

    def integrate(self, problem: Problem, plan: Plan) -> Run:
        """Solve with autograd watching (or not, under ``torch.no_grad``)."""
        resume = problem.resume
        unrecorded = resume is not None and bool(resume.history) and not resume.recorded
        if torch.is_grad_enabled() and problem.y0.requires_grad and unrecorded:
            raise GradientError(
                "A reversible or multistep method was resumed, and what it carries from step to step has no gradient, "
                "because the solve before had another gradient than 'direct'. Use gradient='direct' for both solves, or a "
                "Runge-Kutta method."
            )
        return plan.run(problem, plan)
