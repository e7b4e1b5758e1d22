"""The integral for the parameters, beside a backward solve."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from .._types import BackwardRow, Rows
from ..loop import TakenStep
from ..trajectory import Piece
from .stored import value


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

    def took(self, taken: TakenStep, points: PointIntegral) -> None:
        """Add up an accepted step; let go of integrands that no later step can use.

        Args:
            points: do it instead for a method whose ``k`` are no evaluations.
        """
        if not taken.plan.method.k_are_slopes:
            self.integrands = {}
            points.took(taken)
            return
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


class PointIntegral:
    """The integral of ``adjoint . df/dp`` over every step by Gauss quadrature, on the step's polynomials.

    Args:
        evaluate: the forward slope with its graph, at a time and a state as the forward solve has them.
        state, adjoint: at a time, of a row of the backward solve.
        params: the integrals are by these; ``totals`` are shaped like them.
    """

    def __init__(
        self,
        evaluate: Callable[[float, Rows], Rows],
        state: Callable[[float, BackwardRow], Rows],
        adjoint: Callable[[BackwardRow], Rows],
        params: Sequence[Tensor],
        totals: list[Tensor],
    ):
        self.evaluate, self.state, self.adjoint = evaluate, state, adjoint
        self.params, self.totals = params, totals

    def took(self, taken: TakenStep) -> None:
        """Add up an accepted step."""
        if not self.totals:
            return
        step, span = taken.look_inside(), taken.span
        piece = Piece(span, taken.y0, step.k, step.weights)
        nodes, weights = np.polynomial.legendre.leggauss((taken.plan.method.order + 1) // 2)
        for node, weight in zip(nodes.tolist(), weights.tolist()):
            t = float(span.t) + 0.5 * (1 + node) * span.size
            row = value(piece, t)
            slope = self.evaluate(-t, self.state(-t, row))
            if slope.requires_grad:
                cotangent = self.adjoint(row)
                grads = torch.autograd.grad(slope, self.params, cotangent, allow_unused=True, retain_graph=True)
                add_up(self.totals, grads, 0.5 * weight * span.size)


def add_up(totals: list[Tensor], integrands: Sequence[Tensor | None], weight: float) -> None:
    """Add ``weight * integrands`` to the totals, in place."""
    pairs = [(x, g) for x, g in zip(totals, integrands) if g is not None]
    if pairs:
        torch._foreach_add_([x for x, _ in pairs], [g for _, g in pairs], alpha=weight)
