"""Rosenbrock methods: one step function for every tableau."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from .._types import Rows
from ..field import Field
from ..linalg import linearise
from ..span import Span
from ..transforms import outside_of_transforms
from .base import History, Method, Step
from .explicit_rk import as_row, combine, counted_from_end, error_estimate, interpolant_weights
from .rosenbrock_tableau import RosenbrockTableau
from .tableau import DenseOutput


class Rosenbrock(Method):
    """A Rosenbrock method; a subclass is its tableau and nothing else.

    A step solves as many linear systems as it has stages, all with ``I - gamma dt J`` of the exact Jacobian where the step
    starts. Nothing is iterated. The slopes ``k`` of its ``Step`` are these solutions.
    """

    tableau: ClassVar[RosenbrockTableau]
    uses_jacobian = True
    k_are_slopes = False

    @property
    def order(self) -> int:  # type: ignore[override]
        return self.tableau.order

    @property
    def error_order(self) -> int | None:  # type: ignore[override]
        return self.tableau.error_order

    def step(self, field: Field, span: Span, y: Rows, history: History) -> Step:
        rb = coefficients(self.tableau, y.dtype, y.device)
        slope = history[0][1]
        linear = linearise(field, span, y, slope)
        system = linear.shifted(rb.gamma * span.sizes(y))
        by_time = None if linear.at_time is None else span.scale(linear.at_time)
        k = system.solve(rb.gamma * drifting(slope, rb.d[0], by_time))
        for a, coupling, d, t in zip(rb.a, rb.coupling, rb.d[1:], field.times(span, rb.from_end)):
            stage = combine(y, a, k, span)
            slope = field(t, stage)
            right = torch.addmm(drifting(slope, d, by_time), coupling, k)
            k = torch.cat((k, system.solve(rb.gamma * right)))
        y1 = stage if rb.fsal else combine(y, rb.b, k, span)
        error = error_estimate(y, rb.b_err, k, span)
        history = ((span.t1, slope.clone()),) if rb.fsal else ()
        return Step(y1, k, rb.weights, error, history, ready=rb.fsal)

    def interpolant(self, dtype: torch.dtype, device: torch.device) -> Tensor:
        """The weights of its interpolant, ``[P, S]``."""
        return coefficients(self.tableau, dtype, device).weights


def drifting(slope: Rows, d: float, by_time: Rows | None) -> Rows:
    """``slope + d dt f_t``."""
    return slope if by_time is None or d == 0 else slope + d * by_time


class _Coefficients(NamedTuple):
    """A tableau as tensors of one dtype on one device."""

    fsal: bool
    gamma: float
    d: tuple[float, ...]
    from_end: Tensor
    a: tuple[Tensor, ...]
    coupling: tuple[Tensor, ...]
    b: Tensor
    b_err: Tensor
    weights: Tensor


@lru_cache(maxsize=64)
@outside_of_transforms
def coefficients(tableau: RosenbrockTableau, dtype: torch.dtype, device: torch.device) -> _Coefficients:
    row = partial(as_row, dtype=dtype, device=device)
    return _Coefficients(
        fsal=tableau.fsal,
        gamma=float(tableau.gamma),
        d=tuple(map(float, tableau.d)),
        from_end=counted_from_end(tableau.c[1:], device),
        a=tuple(row(a) for a in tableau.a[1:]),
        coupling=tuple(row(c) for c in tableau.coupling[1:]),
        b=row(tableau.b),
        b_err=row(tableau.b_err),
        weights=interpolant_weights(DenseOutput(tableau.dense_order, tableau.dense), dtype, device),
    )
