"""The integral for the parameters, beside a backward solve."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..loop import TakenStep


class StageIntegral:
    """The integral of ``adjoint . df/dp``, by the method's own weights: a quadrature beside the solve.

    Every evaluation gets a number, which travels through the method as one more entry of the slope. After an accepted step
    the entries say which evaluations its slopes are, and so which integrands count.

    Args:
        params: the integrals are shaped like these.
    """

    def __init__(self, params: Sequence[Tensor]):
        self.totals = [torch.zeros_like(p) for p in params]
        self.integrands: dict[int, list[Tensor | None]] = {}
        self.count = 0

    def note(self, integrands: list[Tensor | None]) -> float:
        """Number of these integrands."""
        self.count += 1
        self.integrands[self.count] = integrands
        return float(self.count)

    def took(self, taken: TakenStep) -> None:
        """Add up an accepted step; let go of integrands that no later step can use."""
        step = taken.step
        weights = step.weights.detach().sum(0)[: len(step.k)].real
        rows = torch.cat([step.k, *(slope for _, slope in step.history)])
        unused = weights.new_zeros(len(rows) - len(weights))
        numbers = torch.stack([rows[:, -1].real.to(torch.float64), torch.cat([weights, unused]).to(torch.float64)])
        entries = [(round(abs(tag)), weight) for tag, weight in numbers.T.tolist()]
        for tag, weight in entries:
            if weight:
                add_up(self.totals, self.integrands[tag], taken.span.size * weight)
        self.integrands = {tag: self.integrands[tag] for tag, _ in entries}


def add_up(totals: list[Tensor], integrands: Sequence[Tensor | None], weight: float) -> None:
    """Add ``weight * integrands`` to the totals, in place."""
    pairs = [(x, g) for x, g in zip(totals, integrands) if g is not None]
    if pairs:
        torch._foreach_add_([x for x, _ in pairs], [g for _, g in pairs], alpha=weight)
