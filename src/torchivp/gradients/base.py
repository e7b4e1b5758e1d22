"""What every way to differentiate offers: run a solve, and put its gradient on what comes out."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch

from ..errors import GradientError
from ..plan import Plan
from ..problem import Problem
from ..runners.eager import Run
from ..transforms import recorded, reverse_transformed


class Gradient(ABC):
    """A way to differentiate a solve. Subclasses are final dataclasses of settings."""

    @abstractmethod
    def integrate(self, problem: Problem, plan: Plan) -> Run:
        """Solve; the outcome carries the gradient. The values are those of every other way, to the last bit."""


def nothing_to_do() -> bool:
    """Whether the plain loop will do: without autograd, or because a transform (or forward mode) has to see every step."""
    return recorded() or not torch.is_grad_enabled()


def refuse_reverse_transforms(gradient: Gradient) -> None:
    """Raise inside ``torch.func.grad`` and its kin, for gradients with a backward pass of their own."""
    if reverse_transformed() and torch.is_grad_enabled():
        raise GradientError(
            f"gradient={type(gradient).__name__.lower()!r} has a backward pass of its own, which torch.func.grad, vjp and jacrev "
            f"cannot look into. Write gradient='discrete' (or 'direct'), or differentiate with torch.autograd.grad."
        )
