"""Methods of the engine made of what torchdiffeq's users bring: step functions, tableaus, a linear interpolant."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..._types import Rows, Time
from ...field import Field, time_dtype
from ...methods import DenseOutput, ExplicitRungeKutta, History, Method, Step, Tableau
from ...span import Span


class StepFunction(Method):
    """torchdiffeq's ``_step_func(func, t0, dt, t1, y0) -> (dy, f0)`` as a method.

    Its slopes are ``f0``, ``dy / dt`` and, where somebody looks inside the step, the slope at its end.

    Args:
        step_func: the function.
        func: its first argument.
        order: of the method.
        dtype: of the times it gets.
    """

    def __init__(self, step_func: Callable[..., Any], func: Callable[..., Any], order: int, dtype: torch.dtype):
        self.step_func = step_func
        self.func = func
        self.order = order
        self.dtype = dtype

    def needs_slope(self, history: History) -> bool:
        return False

    def step(self, field: Field, span: Span, y: Rows, history: History) -> Step:
        t0, t1 = (_tensor(t, y).to(self.dtype) for t in (span.t, span.t1))
        dy, f0 = self.step_func(self.func, t0, t1 - t0, t1, field.layout.unravel(y))
        dy = dy.reshape(1, -1).to(y)
        mean = dy / _like(span.dt, y)
        start = mean if f0 is None else f0.reshape(1, -1).to(mean)
        return Step(y + dy, torch.cat([start, mean]), y.new_tensor([[0.0, 1.0]]), None, ())

    def dense(self, field: Field, span: Span, y: Rows, step: Step) -> Step:
        (end,) = field.times(span, torch.zeros(1, dtype=time_dtype(y.device), device=y.device))
        k = torch.cat([step.k, field(end, step.y1)])
        return step._replace(k=k, weights=y.new_tensor([[1.0, 0.0, 0.0], [-2.0, 3.0, -1.0], [1.0, -2.0, 1.0]]))


def method_from(butcher: Any, mid: Tensor | None, order: int) -> ExplicitRungeKutta:
    """An adaptive method from torchdiffeq's tableau.

    Args:
        butcher: ``alpha [s-1]``, ``beta`` (s-1 rows), ``c_sol [s]``, ``c_error [s]``.
        mid: weights ``[s]`` of the middle of the step; None for cubic Hermite interpolation.
        order: of the method, which is also the exponent of the step-size control.
    """
    b = tuple(butcher.c_sol.tolist())
    tableau = Tableau(
        order=order,
        c=(0.0, *butcher.alpha.tolist()),
        a=((), *(tuple(row.tolist()) for row in butcher.beta)),
        b=b,
        b_err=tuple(butcher.c_error.tolist()),
        error_order=order,
    )
    if tableau.fsal and mid is not None and len(mid) == tableau.stages:
        tableau = replace(tableau, dense=_quartic(b, tuple(mid.tolist()), min(order, 4)))
    return type("UserTableau", (ExplicitRungeKutta,), {"tableau": tableau})()


def _quartic(b: tuple[float, ...], mid: tuple[float, ...], order: int) -> DenseOutput:
    """The quartic through both ends' values and slopes and the value in the middle."""
    n = len(b)
    f0 = [float(i == 0) for i in range(n)]
    f1 = [float(i == n - 1) for i in range(n)]
    rows = zip(b, mid, f0, f1)
    square, cube, fourth = zip(
        *(
            (-5 * y + 16 * m - 4 * s + e, 14 * y - 32 * m + 5 * s - 3 * e, -8 * y + 16 * m - 2 * s + 2 * e)
            for y, m, s, e in rows
        )
    )
    return DenseOutput(order=order, weights=(tuple(f0), square, cube, fourth))


def _tensor(t: Time, y: Tensor) -> Tensor:
    return t if isinstance(t, Tensor) else torch.full((), t, dtype=time_dtype(y.device), device=y.device)


def _like(t: Time, y: Tensor) -> Time:
    return t.to(y.real.dtype) if isinstance(t, Tensor) else t
