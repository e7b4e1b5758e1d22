"""Adams methods on any grid: the slopes of the past, integrated exactly as a polynomial."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from .._types import Rows, Time
from ..errors import InputError
from ..field import Field, time_dtype
from ..span import Span
from .base import History, Method, Step
from .erk.dopri8 import Dopri8
from .erk.rk4 import RK4
from .explicit_rk import combine


class ExplicitAdams(Method):
    """Adams-Bashforth of order ``order``, on any grid.

    Card: order 4 unless said otherwise (1 to 12); one evaluation a step; the first steps are taken by a Runge-Kutta method
    of at least the same order (rk4, or dopri8 above order 4, which limits orders above 9 to 9); the interpolant is
    the method's own polynomial, of the same order. Coefficients are computed for the actual step sizes, exactly.

    Args:
        order: number of past slopes that are used.

    Source: E. Hairer, S. P. Nørsett, G. Wanner, Solving Ordinary Differential Equations I, section III.5,
    doi:10.1007/978-3-540-78862-1.
    """

    weights_depend_on_times = True
    by_rows = False

    def __init__(self, order: int = 4):
        self.order = _checked(order)
        self.starter = RK4() if order <= 4 else Dopri8()

    def step(self, field: Field, span: Span, y: Rows, history: History) -> Step:
        if len(history) < self.order:
            return first_steps(self.starter, field, span, y, history, self.order)
        history = history[: self.order]
        weights = polynomial_weights(span, [t for t, _ in history], y)
        k = torch.cat([slope for _, slope in history])
        return Step(combine(y, weights.sum(0, keepdim=True), k, span), k, weights, None, history)

    def __repr__(self) -> str:
        return f"ExplicitAdams(order={self.order})"


class ImplicitAdams(Method):
    """Adams-Moulton of order ``order``, predicted by Adams-Bashforth and corrected by fixed-point iteration.

    Card: order 4 unless said otherwise (2 to 12); ``corrections + 1`` evaluations a step; start, interpolant and source as
    ``ExplicitAdams``.

    Args:
        order: order of the corrector; it uses ``order - 1`` past slopes and the new one.
        corrections: evaluations of the corrector in each step.
        converged: ``(old, new, i) -> bool``, asked after correction i: stop early. Costs a host synchronisation each time.
    """

    weights_depend_on_times = True
    by_rows = False

    def __init__(
        self, order: int = 4, corrections: int = 2, converged: Callable[[Rows, Rows, int], bool] | None = None
    ):
        self.order = _checked(order)
        if order < 2:
            raise InputError(
                "ImplicitAdams(order=1) is the implicit Euler method by fixed-point iteration. Take order >= 2."
            )
        self.corrections = corrections
        self.converged = converged
        self.starter = RK4() if order <= 4 else Dopri8()

    def step(self, field: Field, span: Span, y: Rows, history: History) -> Step:
        past = self.order - 1
        if len(history) < past:
            return first_steps(self.starter, field, span, y, history, past)
        history = history[:past]
        times = [t for t, _ in history]
        k = torch.cat([slope for _, slope in history])
        y1 = combine(y, polynomial_weights(span, times, y).sum(0, keepdim=True), k, span)
        weights = polynomial_weights(span, [span.t1, *times], y)
        total = weights.sum(0, keepdim=True)
        (end,) = field.times(span, torch.zeros(1, dtype=time_dtype(y.device), device=y.device))
        for i in range(self.corrections):
            slopes = torch.cat([field(end, y1), k])
            old, y1 = y1, combine(y, total, slopes, span)
            if self.converged is not None and self.converged(old, y1, i):
                break
        return Step(y1, slopes, weights, None, history)

    def __repr__(self) -> str:
        return f"ImplicitAdams(order={self.order}, corrections={self.corrections})"


def _checked(order: int) -> int:
    if not 1 <= order <= 12:
        raise InputError(
            f"order={order}: Adams methods of order 1 to 12 exist here. Above 8 they gain little; try 4 to 6."
        )
    return order


def first_steps(starter: Method, field: Field, span: Span, y: Rows, history: History, keep: int) -> Step:
    """A Runge-Kutta step while the past is too short; its slope at the start joins the past."""
    step = starter.step(field, span, y, history[:1])
    step = starter.dense(field, span, y, step)
    newest = step.history[:1] if step.ready else ()
    return step._replace(history=(*newest, *history)[:keep], ready=bool(newest))


def polynomial_weights(span: Span, times: Sequence[Time], y: Rows) -> Tensor:
    """``[P, P]`` weights: y0 + dt * sum_p theta^p sum_j W[p-1, j] k_j integrates the polynomial through the slopes k_j.

    Args:
        times: where the P slopes were taken.
        y: gives dtype and device.
    """
    start, end, *past = (float(t.detach()) if isinstance(t, Tensor) else t for t in (span.t, span.t1, *times))
    theta = (np.array(past) - start) / (end - start)
    weights = torch.from_numpy(lagrange(theta) / np.arange(1, len(theta) + 1)[:, None])
    if any(isinstance(t, Tensor) for t in (span.t, span.t1, *times)):
        weights = weights + gradient_of_weights(span, times)
    return weights.to(device=y.device, dtype=y.dtype)


def gradient_of_weights(span: Span, times: Sequence[Time]) -> Tensor:
    """Zeros ``[P, P]`` that carry the gradient of the weights with respect to the times."""
    nodes = torch.stack([torch.as_tensor(t, dtype=torch.float64) for t in times]).cpu()
    theta = (nodes - torch.as_tensor(span.t).cpu()) / torch.as_tensor(span.dt).cpu()
    powers = [torch.ones_like(theta)]
    for _ in times[1:]:
        powers.append(powers[-1] * theta)
    weights = torch.linalg.inv(torch.stack(powers)).T / torch.arange(1, len(times) + 1, dtype=torch.float64).unsqueeze(
        1
    )
    return weights - weights.detach()


def lagrange(nodes: np.ndarray) -> np.ndarray:
    """Coefficients ``[P, P]`` of the Lagrange polynomials: column j is 1 at node j, 0 at the others; row p belongs to x^p."""
    gaps = nodes[:, None] - nodes
    np.fill_diagonal(gaps, 1.0)
    columns = np.zeros((len(nodes), len(nodes)))
    columns[0] = 1.0
    for i, node in enumerate(nodes):  # multiply every column but the i-th by (x - node)
        product = -node * columns
        product[1:] += columns[:-1]
        product[:, i] = columns[:, i]
        columns = product
    return columns / gaps.prod(axis=1)
