"""Backward differentiation of orders 1 to 5, which chooses its order as it goes."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .._types import Rows
from ..errors import InputError
from ..field import Field
from ..linalg import Linear
from ..linalg.kept import Place, kept_matrix
from ..linalg.newton import constant
from ..span import Span
from ..transforms import as_float
from .base import History, Method, Step
from .diagonal_rk import Stage

KAPPA = (0.0, -0.1850, -1 / 9, -0.0823, -0.0415, 0.0, 0.0)  # the last one: an order that is estimated, never taken
GAMMA = tuple(sum(1 / j for j in range(1, k + 1)) for k in range(7))
ERROR = tuple(kappa * gamma + 1 / (k + 1) for k, (kappa, gamma) in enumerate(zip(KAPPA, GAMMA)))
_CAUTION = (1.3, 1.2, 1.4)  # for going down, staying, going up: the larger, the less likely


class BDF(Method):
    """Numerical differentiation formulas (NDF) with a fixed leading coefficient.

    Card: orders 1 to ``max_order``, chosen after every step; one implicit stage a step; the interpolant is the polynomial
    through the newest states, of the order of the step. A-stable up to order 2. What is carried are past states at
    their own times; a step of order k puts the polynomial through k + 1 of them on an equidistant grid of its own
    size, so that steps may have any size. It holds k + 2 states: with the newest one, enough to see what order k + 1 would have
    done. The first step takes a point on the tangent for its past.

    Args:
        max_order: never go above; 2 where the Jacobian has eigenvalues near the imaginary axis.

    Source: L. F. Shampine, M. W. Reichelt, The MATLAB ODE Suite (1997), doi:10.1137/S1064827594276424.
    """

    weights_depend_on_times = True
    by_rows = False
    carries = "past states: bdf"
    uses_jacobian = True
    k_are_slopes = False
    error_order = 2  # of the first step; every step says its own

    def __init__(self, max_order: int = 5):
        if not 1 <= max_order <= 5:
            raise InputError(f"max_order={max_order}: only the orders 1 to 5 are stable enough. Choose one of them.")
        self.max_order = max_order

    @property
    def order(self) -> int:  # type: ignore[override]
        return self.max_order

    def needs_slope(self, history: History) -> bool:
        return not history

    def step(self, field: Field, span: Span, y: Rows, history: History) -> Step:
        past = history if len(history) > 1 else tangent(span, y, history)
        order = max(1, len(past) - 1)
        nodes = nodes_of(span, past)
        states = torch.cat([y, *(x for _, x in past)])
        to_grid = differences(nodes[: order + 1], order).to(y)
        grid = torch.mm(to_grid, states[: order + 1])  # prediction, sum of gamma_m times differences, last difference
        predicted, change, last = grid[0:1], grid[1:2], grid[2:3]
        gamma = 1 / ((1 - KAPPA[order]) * GAMMA[order])
        from_end = torch.zeros(1, dtype=torch.float64, device=y.device)
        (t,), (t_inside,) = field.times(span, from_end), span.times(from_end)
        stage = Stage(field, span, predicted - gamma * change, gamma, t, t_inside)
        guess = span.rate(change).detach()
        place = Place(span.begins, t_inside.detach(), predicted.detach(), guess)
        matrix = kept_matrix(field, place, gamma * as_float(span.dt), Linear.shifted)
        root = stage.root(matrix.solve, y, constant(guess), 1.0)
        matrix.served(root.remains)
        y1 = stage.state(stage.with_gradient(root.x))
        with torch.no_grad():
            off = y1 - predicted
            further = y1 - torch.mm(lagrange_at(nodes, nodes.new_ones(1)).to(y), states) if len(past) > order else None
            chosen = self.next_order(field, y, y1, order, (off + last, off, further))
        k, weights = interpolant(span, y, y1, past, order)
        kept = ((span.t, y), *past)[: chosen + 1]
        return Step(
            y1, k, weights, ERROR[order] * off, kept, solved=root.found, error_order=order + 1,
            origin=matrix.origin, old_matrix=matrix.old,
        )  # fmt: skip

    def next_order(self, field: Field, y: Rows, y1: Rows, order: int, changes: tuple[Rows, Rows, Rows | None]) -> int:
        """The order that allows the longest step.

        Args:
            changes: the differences of ``y1`` that are the errors of orders ``order - 1``, ``order`` and ``order + 1``, but
                for their constants.
        """
        best, longest = order, 0.0
        for k, change, caution in zip((order - 1, order, order + 1), changes, _CAUTION):
            if change is None or not 1 <= k <= self.max_order:
                continue
            ratio = field.tolerance.ratio(ERROR[k] * change, y, y1)
            factor = max(ratio, 1e-100) ** (-1 / (k + 1)) / caution if math.isfinite(ratio) else 0.0
            if factor > longest:
                best, longest = k, factor
        return best

    def __repr__(self) -> str:
        return f"BDF(max_order={self.max_order})"


def tangent(span: Span, y: Rows, history: History) -> History:
    """A past for the first step: one step back along the slope."""
    return ((span.t - span.dt, span.advance(y, -history[0][1])),)


def nodes_of(span: Span, past: History) -> Tensor:
    """Where the start and the past lie, in steps from the start (float64, with the gradient of the times)."""

    def back(t: Any) -> Tensor:
        return torch.as_tensor((t - span.t) / span.dt, dtype=torch.float64).cpu()

    return torch.stack([torch.zeros((), dtype=torch.float64), *(back(t) for t, _ in past)])


def lagrange_at(nodes: Tensor, x: Tensor) -> Tensor:
    """``[X, N]``: values at ``x`` of the polynomial through values at ``nodes``."""
    itself = torch.eye(len(nodes), dtype=torch.bool)
    above = torch.where(itself, 1.0, x.view(-1, 1, 1) - nodes).prod(-1)
    return above / torch.where(itself, 1.0, nodes.unsqueeze(1) - nodes).prod(-1)


def differences(nodes: Tensor, order: int) -> Tensor:
    """``[3, order + 1]``: on the grid of the step, from values at ``nodes``: the value at its end, the sum of ``GAMMA[m]`` times
    the m-th backward difference at its start, and the last of these differences."""
    values = lagrange_at(nodes, torch.arange(1, -order - 1, -1, dtype=torch.float64))
    rows, change = values[1:], torch.zeros_like(values[0])
    for gamma in GAMMA[1 : order + 1]:
        rows = rows[:-1] - rows[1:]
        change = change + gamma * rows[0]
    return torch.stack([values[0], change, rows[0]])


def interpolant(span: Span, y: Rows, y1: Rows, past: History, order: int) -> tuple[Tensor, Tensor]:
    """Slopes of the chords from the start to the other states, and the polynomial through all of them."""
    others = past[: order - 1]
    nodes = torch.cat([torch.ones(1, dtype=torch.float64), nodes_of(span, others)[1:]])
    powers = nodes.unsqueeze(1) ** torch.arange(1, order + 1)
    chords = [span.rate(x - y) for x in (y1, *(x for _, x in others))]
    return torch.cat(chords), torch.linalg.inv(powers).to(device=y.device, dtype=y.real.dtype)
