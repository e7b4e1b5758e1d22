"""The initial value problem as the library sees it: one row of numbers, increasing times, a field."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from operator import lt
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ._types import PyTree, Rows, Time, VectorField
from .errors import InputError, InputTypeError
from .field import Field, time_dtype
from .solution import Resume
from .span import OneSpan, Span
from .state import Layout, as_state, from_numpy
from .tolerance import Norm, Tolerance, norm_for, rms_norm
from .transforms import as_float, batched, recorded


class Clock:
    """Times of the loop, as floats or, where the user's times may carry gradients, as tensors that do.

    Step sizes are constants: a step point moves with ``t[0]``, unless the step landed on one of the user's times.

    Args:
        times: the user's times, increasing, float64 ``[T]`` on the CPU (its values are read in
            every step); None where no gradient is wanted.
        moves_with_start: the solve starts at ``times[0]`` (a resumed one starts where the other ended).
    """

    def __init__(self, times: Tensor | None, moves_with_start: bool = True):
        self.times = times
        self.moves_with_start = moves_with_start
        if times is not None:
            self.exact = dict(zip(times.detach().tolist(), times.unbind(0)))
            self.shift = times[0] - times[0].detach() if moves_with_start else torch.zeros_like(times[0])

    def with_times(self, times: Tensor | None) -> Clock:
        """The same clock with the gradients of other tensors, or without."""
        return Clock(times, self.moves_with_start)

    def timed(self, span: OneSpan) -> OneSpan:
        """The span with times that carry gradients, where they are wanted."""
        if self.times is None:
            return span
        return span._replace(t=self(span.t), t1=self(span.t1))

    def __call__(self, t: float) -> Time:
        if self.times is None:
            return t
        exact = self.exact.get(t)
        return self.shift + t if exact is None else exact


@dataclass(frozen=True)
class Problem:
    """dy/dt = f(t, y), y(t[0]) = y0.

    Attributes:
        field: the vector field in rows and increasing time.
        y0: ``[1, D]``.
        t: the times asked for, strictly increasing floats (``direction`` times the user's).
        clock: turns such a float into a time with gradient.
        direction: -1 where the user's times decrease.
        tolerance: what is small.
        resume: where an earlier solve stopped, to go on from there.
    """

    field: Field
    layout: Layout
    y0: Rows
    t: list[float]
    clock: Clock
    direction: int
    tolerance: Tolerance
    resume: Resume | None = None

    def __post_init__(self) -> None:
        self.field.tolerance = self.tolerance  # implicit methods stop their iterations by it

    @property
    def t0(self) -> float:
        """Where the solve starts."""
        return self.t[0] if self.resume is None else self.resume.t

    def finite_start(self) -> Rows:
        """``y0`` for a first look at ``f``, which is never shown numbers that are not finite."""
        return torch.where(torch.isfinite(self.y0.detach()), self.y0, 0.0)

    def timed(self, span: Span) -> Span:
        """The span with times that carry gradients, where they are wanted."""
        return self.clock.timed(span)

    def frozen(self) -> Problem:
        """The same problem without gradients of its start and times."""
        return replace(self, y0=self.y0.detach(), clock=self.clock.with_times(None))


def make_problem(
    f: VectorField,
    y0: PyTree,
    t: Any,
    args: PyTree = None,
    *,
    rtol: PyTree = 1e-5,
    atol: PyTree = 1e-7,
    norm: str | Callable[[PyTree], Tensor] = "rms",
    resume: Resume | None = None,
    broadcast: bool = False,
) -> Problem:
    """Check the input of the front door and bring it into the library's form."""
    if not callable(f):
        raise InputTypeError(f"f is a {type(f).__name__}, which cannot be called. Give a function f(t, y).")
    state = as_state(y0)
    layout = Layout(state)
    times = as_times(t, layout.device)
    if batched(times):
        raise InputError(
            "The times t differ from row to row of torch.func.vmap, but with a multistep method, start= or on_step= the rows "
            "take their steps together. Take a Runge-Kutta method such as 'tsit5' without these two, or loop over the rows."
        )
    direction = -1 if len(times) > 1 and bool(times[0] > times[1]) else 1
    if len(times) == 1 and resume is not None:
        direction = resume.direction
    inside = times if direction > 0 else -times
    floats = inside.detach().tolist()
    check_monotone(floats, direction)
    return Problem(
        field=Field(f, layout, direction, () if args is None else (args,), broadcast),
        layout=layout,
        y0=layout.ravel(state).clone(),  # f may write into the state it gets; y0 stays the user's
        t=floats,
        clock=Clock(inside.cpu() if may_carry_gradient(inside) else None, resume is None),
        direction=direction,
        tolerance=make_tolerance(rtol, atol, layout, norm_for(norm, layout)),
        resume=resume,
    )


def may_carry_gradient(times: Tensor) -> bool:
    """Whether times have to stay tensors. Inside a transform they cannot be asked: another one around it may want them."""
    return times.requires_grad or recorded()


def as_times(t: Any, device: torch.device) -> Tensor:
    """The user's times as a 1-D tensor of the library's time dtype; a number alone is a span from 0 to it."""
    if isinstance(t, np.ndarray | np.generic):
        t = from_numpy(t, "t")
    if not isinstance(t, Tensor):
        try:
            with_tensors = isinstance(t, list | tuple) and any(isinstance(x, Tensor) for x in t)
            t = _stack(t) if with_tensors else torch.tensor(t, dtype=torch.float64)
        except (TypeError, ValueError, RuntimeError):
            raise InputTypeError(
                f"t is {_short(t)}, which does not read as times. Give a sequence of numbers, a 1-D tensor, or (t0, t1)."
            ) from None
    if t.is_complex() or t.dtype == torch.bool:
        raise InputTypeError(f"t has dtype {t.dtype}, but times are real numbers. Give a floating point tensor.")
    if t.dim() == 0:
        nowhere = not batched(t) and float(t.detach()) == 0
        t = t.reshape(1) if nowhere else torch.stack([torch.zeros_like(t), t])
    if t.dim() != 1 or t.numel() == 0:
        raise InputError(
            f"t has shape {tuple(t.shape)}, but times are one sequence of at least one number. Give (t0, t1), or all the "
            f"times at which you want the solution, as a 1-D tensor."
        )
    return t.to(device=device, dtype=time_dtype(device))


def listed(times: Any, name: str) -> list[float]:
    """The numbers in ``times``, an argument of this name."""
    if isinstance(times, Tensor):
        times = times.detach().cpu()
    try:
        if times is None:
            raise TypeError
        return np.asarray(times, dtype=float).reshape(-1).tolist()
    except (TypeError, ValueError):
        raise InputTypeError(
            f"{name} is {reprlib.repr(times)}, which does not read as times. Give a number, a sequence of numbers, or a tensor."
        ) from None


def _stack(t: Sequence[Any]) -> Tensor:
    return torch.stack([torch.as_tensor(x, dtype=torch.float64) for x in t])


def _short(x: object) -> str:
    text = repr(x)
    return f"the {type(x).__name__} {text if len(text) < 80 else text[:76] + ' ...'}"


def check_monotone(t: Sequence[float], direction: int) -> None:
    increasing = all(map(lt, t, t[1:]))
    if not increasing and not (len(t) == 2 and t[0] == t[1]):
        i = next(i for i in range(len(t)) if not t[i] < t[i + 1])
        raise InputError(
            f"t must be strictly increasing or strictly decreasing, but t[{i}]={direction * t[i]:g} is followed by "
            f"t[{i + 1}]={direction * t[i + 1]:g}. Sort the times and drop duplicates: `t = torch.unique(t)`."
        )
    if not all(map(math.isfinite, t)):
        raise InputError("t holds nan or inf. Give finite times; to integrate until something happens, use `events`.")


def make_tolerance(rtol: PyTree, atol: PyTree, layout: Layout, norm: Norm = rms_norm) -> Tolerance:
    """The tolerance in the layout of the state, checked.

    ``atol`` is raised to the smallest normal number, so that with ``atol=0`` an entry that is and stays zero passes.
    """
    for name, value in (("rtol", rtol), ("atol", atol)):
        if isinstance(value, int | float) and not value >= 0:
            raise InputError(f"{name}={value} is no tolerance. Give a positive number, such as 1e-5.")
    working = layout.dtype.to_real()
    if isinstance(atol, int | float):
        absolute = torch.full((), float(atol), dtype=working, device=layout.device)
    else:
        absolute = layout.broadcast(atol, "atol", working)
    relative = float(rtol) if isinstance(rtol, int | float) else layout.broadcast(rtol, "rtol", working)
    if not any(isinstance(x, int | float) and x > 0 for x in (rtol, atol)):
        check_not_both_zero(absolute, relative, layout)
    return Tolerance(relative, absolute.clamp(min=torch.finfo(working).tiny), norm)


def check_not_both_zero(atol: Tensor, rtol: Tensor | float, layout: Layout) -> None:
    neither = ((atol == 0) & torch.as_tensor(rtol == 0, device=layout.device)).expand(1, layout.size)
    if as_float(neither.any()):
        raise InputError(
            f"rtol and atol are both 0 in {layout.describe(neither)}, and no error is as small as that. Give a positive rtol "
            f"or atol there, such as 1e-5."
        )
