"""Compare gradients of two ways to compute them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Loss = Callable[[str], Tensor]
"""A loss computed with the gradient method of that name."""


def gradients(loss: Tensor, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Gradients of every input; zeros where the loss does not depend on one."""
    grads = torch.autograd.grad(loss, inputs, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for g, x in zip(grads, inputs)]


def weighted(*values: Tensor) -> Tensor:
    """A scalar in which every entry counts, each with another weight."""
    total = torch.zeros((), dtype=torch.float64)
    for x in values:
        real = torch.view_as_real(x) if x.is_complex() else x
        weights = torch.linspace(0.5, 1.5, real.numel(), dtype=torch.float64).view(real.shape)
        total = total + (weights * torch.sin(1.3 * real + 0.4)).sum()
    return total


def assert_agree(
    loss: Loss, inputs: Sequence[Tensor], tol: float = 1e-12, ways: Sequence[str] = ("direct", "discrete")
) -> None:
    """Values are the same to the last bit; gradients to ``tol`` of the norm, input by input, and none is zero."""
    first, second = (loss(way) for way in ways)
    assert torch.equal(first, second)
    for i, (a, b) in enumerate(zip(gradients(first, inputs), gradients(second, inputs))):
        norm = float(torch.linalg.vector_norm(a))
        assert norm > 0, f"input {i} has no gradient at all: nothing is tested"
        assert float(torch.linalg.vector_norm(a - b)) <= tol * norm, f"input {i}: {a} and {b}"
