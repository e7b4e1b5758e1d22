"""Explicit Runge-Kutta methods: one step function for every tableau."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from .._types import Rows
from ..field import Field, time_dtype
from ..span import Span
from ..transforms import outside_of_transforms
from .base import History, Method, Step
from .stages import Stages
from .tableau import DenseOutput, Row, Tableau, hermite


class ExplicitRungeKutta(Method):
    """An explicit Runge-Kutta method; a subclass is its tableau and nothing else."""

    tableau: ClassVar[Tableau]

    @property
    def order(self) -> int:  # type: ignore[override]
        return self.tableau.order

    @property
    def error_order(self) -> int | None:  # type: ignore[override]
        return self.tableau.error_order

    def step(self, field: Field, span: Span, y: Rows, history: History) -> Step:
        rk = coefficients(self.tableau, y.dtype, y.device)
        times = field.times(span, rk.from_end)
        slope, stage = history[0][1], y
        stages = Stages(slope, len(rk.a) + 1)
        for a, t in zip(rk.a, times):
            stage = combine(y, a, stages.k, span)
            slope = field(t, stage)
            stages.add(slope)
        k = stages.k
        y1 = stage if rk.fsal else combine(y, rk.b, k, span)
        error = None if rk.b_err is None else error_estimate(y, rk.b_err, k, span)
        error_lower = None if rk.b_err_lower is None else error_estimate(y, rk.b_err_lower, k, span)
        history = ((span.t1, stages.kept(slope)),) if rk.fsal else ()
        return Step(y1, k, rk.weights, error, history, rk.fsal, error_lower)

    def interpolant(self, dtype: torch.dtype, device: torch.device) -> Tensor:
        """The weights of its interpolant, ``[P, S]``."""
        return coefficients(self.tableau, dtype, device).weights

    def dense(self, field: Field, span: Span, y: Rows, step: Step) -> Step:
        rk = coefficients(self.tableau, y.dtype, y.device)
        if not rk.dense_a:
            return step
        k, history, ready = step.k, step.history, step.ready
        for i, (a, t) in enumerate(zip(rk.dense_a, field.times(span, rk.dense_from_end))):
            slope = field(t, combine(y, a, k, span))
            k = torch.cat([k, slope])
            if i == rk.end_slope:  # the next step need not ask for it again
                history, ready = ((span.t1, slope.clone()),), True
        return step._replace(k=k, history=history, ready=ready)


def combine(y: Rows, weights: Tensor, k: Tensor, span: Span) -> Rows:
    """``y + dt * weights @ k``: ``[1, D]`` from weights ``[1, s]`` and slopes ``[s, D]``."""
    return span.advance(y, torch.mm(weights, k))


def error_estimate(y: Rows, weights: Tensor, k: Tensor, span: Span) -> Rows:
    """``dt * weights @ k``, a constant of the gradient (``y`` only lends its shape)."""
    return span.increment(y, weights, k)


class _Coefficients(NamedTuple):
    """A tableau as tensors of one dtype on one device; ``end_slope``: which extra stage is the slope at the end, if one is."""

    fsal: bool
    from_end: Tensor
    a: tuple[Tensor, ...]
    b: Tensor
    b_err: Tensor | None
    b_err_lower: Tensor | None
    weights: Tensor
    dense_from_end: Tensor
    dense_a: tuple[Tensor, ...]
    end_slope: int | None


@lru_cache(maxsize=256)
@outside_of_transforms
def coefficients(tableau: Tableau, dtype: torch.dtype, device: torch.device) -> _Coefficients:
    dense = tableau.dense or hermite(tableau)
    row = partial(as_row, dtype=dtype, device=device)
    return _Coefficients(
        fsal=tableau.fsal,
        from_end=counted_from_end(tableau.c[1:], device),
        a=tuple(row(a) for a in tableau.a[1:]),
        b=row(tableau.b),
        b_err=None if tableau.b_err is None else row(tableau.b_err),
        b_err_lower=None if tableau.b_err_lower is None else row(tableau.b_err_lower),
        weights=interpolant_weights(dense, dtype, device),
        dense_from_end=counted_from_end(dense.c, device),
        dense_a=tuple(row(a) for a in dense.a),
        end_slope=dense.end_slope(tableau.b),
    )


def as_row(numbers: Row, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Exact numbers as a tensor ``[1, n]``."""
    return torch.tensor([[float(x) for x in numbers]], dtype=torch.float64).to(device=device, dtype=dtype)


def counted_from_end(nodes: Row, device: torch.device) -> Tensor:
    """``c - 1`` of the nodes, for ``Field.times``."""
    return torch.tensor([float(c - 1) for c in nodes], dtype=torch.float64).to(device=device, dtype=time_dtype(device))


def interpolant_weights(dense: DenseOutput, dtype: torch.dtype, device: torch.device) -> Tensor:
    """``[P, S]``, in double precision where large weights cancel (the polynomials are rounded afterwards)."""
    weights = torch.tensor([[float(x) for x in row] for row in dense.weights], dtype=torch.float64)
    if float(weights.abs().max()) > 100:
        dtype = torch.promote_types(dtype, time_dtype(device))
    return weights.to(device=device, dtype=dtype)
