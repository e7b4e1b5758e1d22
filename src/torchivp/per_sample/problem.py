"""A batch of initial value problems as the library sees it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._types import PyTree, Rows, VectorField
from ..errors import InputError, InputTypeError
from ..field import Field, time_dtype
from ..problem import Problem, make_tolerance, may_carry_gradient
from ..span import RowSpan
from ..state import Layout, as_state, from_numpy
from ..tolerance import Tolerance
from .tolerance import RowTolerance, of_rows


class RowClock:
    """Times of the loop ``[B]``; where the user's times may carry gradients, with theirs.

    Args:
        times: the user's times, increasing in every row, float64 ``[B, T]``; None where no gradient is wanted.
    """

    def __init__(self, times: Tensor | None):
        self.times = times
        if times is not None:
            self.values = times.detach().contiguous()
            self.shift = times[:, 0] - self.values[:, 0]

    def with_times(self, times: Tensor | None) -> RowClock:
        """The same clock with the gradients of other tensors, or without."""
        return RowClock(times)

    def timed(self, span: RowSpan) -> RowSpan:
        """The spans with times that carry gradients, where they are wanted."""
        if self.times is None:
            return span
        return span.with_times(self(span.t), self(span.t1))

    def __call__(self, t: Tensor) -> Tensor:
        return t if self.times is None else self.at(t, torch.arange(len(t), device=t.device))

    def at(self, t: Tensor, rows: Tensor) -> Tensor:
        """Times ``t [n]`` of these rows ``[n]`` with their gradients."""
        if self.times is None:
            return t
        column = (
            torch.searchsorted(self.values[rows], t.contiguous().unsqueeze(1))
            .squeeze(1)
            .clamp(max=self.values.shape[1] - 1)
        )
        exact = self.values[rows, column] == t
        return torch.where(exact, self.times[rows, column], t + self.shift[rows])


@dataclass(frozen=True)
class RowsProblem(Problem):
    """dy/dt = f(t, y) for B rows, each with its own start, times and direction.

    Attributes:
        y0: ``[1, B * D]``.
        t: the times asked for, strictly increasing, float64 ``[B, T]`` (``direction`` times the user's).
        direction: 1 or -1 for each row, ``[B]``.
    """

    y0: Rows
    t: Tensor  # type: ignore[assignment]
    clock: RowClock  # type: ignore[assignment]
    direction: Tensor  # type: ignore[assignment]
    tolerance: Tolerance

    @property
    def t0(self) -> Tensor:  # type: ignore[override]
        return self.t[:, 0].contiguous()


def make_rows_problem(
    f: VectorField,
    y0: PyTree,
    t: Any,
    args: PyTree,
    *,
    batch_dims: int,
    couple: bool,
    norm: str | Callable[[PyTree], Tensor] = "rms",
    rtol: PyTree,
    atol: PyTree,
) -> RowsProblem:
    """Check the input of the front door and bring it into the library's form."""
    if not callable(f):
        raise InputTypeError(f"f is a {type(f).__name__}, which cannot be called. Give a function f(t, y).")
    state = as_state(y0)
    layout = Layout(state, batch_dims)
    if layout.rows == 0:
        raise InputError(f"y0 has a batch of shape {tuple(layout.batch)}, which holds no row. Give at least one.")
    times = row_times(t, layout)
    inside, direction = forward(times)
    tolerance = make_tolerance(rtol, atol, layout)
    return RowsProblem(
        field=Field(f, layout, direction, () if args is None else (args,)),
        layout=layout,
        y0=layout.ravel(state).clone(),  # f may write into the state it gets; y0 stays the user's
        t=inside.detach(),
        clock=RowClock(inside if may_carry_gradient(inside) else None),
        direction=direction,
        tolerance=RowTolerance(tolerance.rtol, tolerance.atol, of_rows(layout.rows, couple, norm), str(norm), couple),
    )


def row_times(t: Any, layout: Layout) -> Tensor:
    """The user's times as ``[B, T]``: from ``[T]``, shared by all rows, ``[*batch, T]``, a number, or a pair ``(t0, t1)`` in
    which either may differ from row to row."""
    if isinstance(t, tuple | list) and len(t) == 2 and any(isinstance(x, Tensor) and x.dim() for x in t):
        t = torch.stack(torch.broadcast_tensors(*(torch.as_tensor(x, dtype=torch.float64) for x in t)), dim=-1)
    if isinstance(t, np.ndarray | np.generic):
        t = from_numpy(t, "t")
    if not isinstance(t, Tensor):
        try:
            t = torch.as_tensor(t, dtype=torch.float64)
        except (TypeError, ValueError, RuntimeError):
            raise InputTypeError(
                f"t is a {type(t).__name__} that does not read as times. Give (t0, t1), a tensor [T] for all rows, or "
                f"[{', '.join(map(str, layout.batch))}, T] with times for each."
            ) from None
    if t.is_complex() or t.dtype == torch.bool:
        raise InputTypeError(f"t has dtype {t.dtype}, but times are real numbers. Give a floating point tensor.")
    if t.dim() == 0:
        t = torch.stack([torch.zeros_like(t), t])
    given = t.shape[:-1]
    if given not in ((), layout.batch) or t.shape[-1] == 0:
        raise InputError(
            f"t has shape {tuple(t.shape)}, but the batch has shape {tuple(layout.batch)}. Give times [T] for all rows, or "
            f"{[*layout.batch, 'T']} with times for each."
        )
    times = t.to(device=layout.device, dtype=time_dtype(layout.device))
    return times.expand(*layout.batch, -1).reshape(layout.rows, -1)


def forward(times: Tensor) -> tuple[Tensor, Tensor]:
    """The user's times ``[B, T]`` as the library counts them, increasing, and the direction of each row ``[B]``."""
    direction = torch.where(times[:, -1] < times[:, 0], -1.0, 1.0).to(times.dtype).detach()
    inside = times * direction.unsqueeze(1)
    check_monotone(inside.detach(), direction)
    return inside, direction


def check_monotone(times: Tensor, direction: Tensor) -> None:
    """Raise unless the times of every row increase (inside the library); two equal ones are a solve of no length."""
    if not bool(torch.isfinite(times).all()):
        raise InputError("t holds nan or inf. Give finite times; to integrate until something happens, use `events`.")
    good = times[:, 1:] > times[:, :-1]
    if times.shape[1] == 2:
        good = good | (times[:, 1:] == times[:, :-1])
    if not bool(good.all()):
        row, i = (~good).nonzero()[0].tolist()
        a, b = (float(direction[row] * times[row, j]) for j in (i, i + 1))
        raise InputError(
            f"The times of each row must be strictly increasing or strictly decreasing, but in row {row} t[{i}]={a:g} is "
            f"followed by t[{i + 1}]={b:g}. Sort them and drop duplicates."
        )
