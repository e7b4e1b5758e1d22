"""Adaptive steps one at a time, as torchdiffeq takes them: for programs that do so by hand or override a part of it.

Everywhere else the engine takes the steps. These land on no output time: they go past it and interpolate, as torchdiffeq's.
"""

from __future__ import annotations

import math
from collections import namedtuple
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ...errors import InputError
from .errors import MaxStepsExceeded, NonFiniteState, OutsideInterval, StepUnderflow
from .functions import Perturb

RungeKuttaState = namedtuple("RungeKuttaState", "y1, f1, t0, t1, dt, interp_coeff")


def runge_kutta_step(
    func: Callable[..., Any], y0: Tensor, f0: Tensor, t0: Tensor, dt: Tensor, t1: Tensor, tableau: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One step of an explicit Runge-Kutta method in torchdiffeq's form.

    Args:
        func: ``func(t, y, *, perturb)``.
        y0, f0: state and slope at ``t0``.
        t0, dt, t1: 0-d; ``t1`` is ``t0 + dt``.
        tableau: ``alpha [s-1]``, ``beta`` (s-1 rows), ``c_sol [s]``, ``c_error [s]``.

    Returns:
        state, last slope and error estimate at ``t1``, and all slopes ``[*shape, s]``.
    """
    t0, dt, t1 = (t.to(y0.real.dtype) for t in (t0, dt, t1))
    slopes, stage = [f0], y0
    for alpha, row in zip(tableau.alpha.tolist(), tableau.beta):
        stage = y0 + dt * _combine(row, slopes)
        at_end = alpha == 1
        slopes.append(func(t1 if at_end else t0 + alpha * dt, stage, perturb=Perturb.PREV if at_end else Perturb.NONE))
    stage_is_end = tableau.c_sol[-1] == 0 and torch.equal(tableau.c_sol[:-1], tableau.beta[-1])
    y1 = stage if stage_is_end else y0 + dt * _combine(tableau.c_sol, slopes)
    return y1, slopes[-1], dt * _combine(tableau.c_error, slopes), torch.stack(slopes, dim=-1)


def _combine(weights: Tensor, slopes: list[Tensor]) -> Tensor:
    return (torch.stack(slopes, dim=-1) * weights[: len(slopes)].to(slopes[0].real)).sum(dim=-1)


@torch.no_grad()
def select_initial_step(
    func: Callable[..., Any], t0: Tensor, y0: Tensor, order: int, rtol: Any, atol: Any, norm: Callable[[Tensor], Any],
    f0: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Hairer's first step, as a 0-d tensor of ``t0``'s dtype (a constant of the gradient).

    Source: E. Hairer, S. P. Nørsett, G. Wanner, Solving Ordinary Differential Equations I, section II.4,
    doi:10.1007/978-3-540-78862-1.
    """
    f0 = func(t0, y0) if f0 is None else f0
    scale = atol + rtol * y0.abs()
    d0, d1 = (float(norm(x / scale)) for x in (y0, f0))
    h0 = 1e-6 if min(d0, d1) < 1e-5 else 0.01 * d0 / d1
    d2 = float(norm((func(t0 + h0, y0 + h0 * f0) - f0) / scale)) / h0
    h1 = max(1e-6, 1e-3 * h0) if max(d1, d2) <= 1e-15 else (0.01 / max(d1, d2)) ** (1 / (order + 1))
    return torch.as_tensor(min(100 * h0, h1)).to(t0)


def compute_error_ratio(
    error_estimate: Tensor, rtol: Any, atol: Any, y0: Tensor, y1: Tensor, norm: Callable[[Tensor], Any]
) -> Any:
    """Error over tolerance: a step is good enough at 1 or less."""
    return abs(norm(error_estimate / (atol + rtol * torch.maximum(y0.abs(), y1.abs()))))


@torch.no_grad()
def optimal_step_size(
    last_step: Tensor, error_ratio: Any, safety: Any, ifactor: Any, dfactor: Any, order: int
) -> Tensor:
    """The next step: ``safety * error_ratio ** (-1 / order)`` times the last, within [dfactor, ifactor]."""
    ratio = float(error_ratio)
    if ratio == 0:
        return last_step * ifactor
    lowest = 1.0 if ratio < 1 else float(dfactor)
    return last_step * min(float(ifactor), max(lowest, float(safety) * ratio ** (-1 / order)))


def interp_fit(y0: Tensor, y1: Tensor, y_mid: Tensor, f0: Tensor, f1: Tensor, dt: Tensor) -> list[Tensor]:
    """Coefficients of ``1, x, .., x^4`` (x from 0 to 1 over the step) from values at both ends and the middle, and slopes."""
    to_end, to_middle = y1 - y0, y_mid - y0
    square = 16 * to_middle - 5 * to_end + dt * (f1 - 4 * f0)
    cube = 14 * to_end - 32 * to_middle + dt * (5 * f0 - 3 * f1)
    fourth = 16 * to_middle - 8 * to_end + 2 * dt * (f1 - f0)
    return [y0, dt * f0, square, cube, fourth]


def interp_evaluate(coefficients: Sequence[Tensor], t0: Tensor, t1: Tensor, t: Tensor) -> Tensor:
    """The polynomial at time ``t`` in ``[t0, t1]``."""
    if not bool((t0 <= t) & (t <= t1)):
        raise OutsideInterval(f"invalid interpolation, fails `t0 <= t <= t1`: {t0}, {t}, {t1}")
    x = ((t - t0) / (t1 - t0)).to(coefficients[0].real.dtype)
    value = coefficients[-1]
    for coefficient in reversed(coefficients[:-1]):
        value = coefficient + x * value
    return value


@torch.no_grad()
def bisect(
    interp_fn: Callable[[Tensor], Tensor], sign0: Tensor, t0: Tensor, t1: Tensor, event_fn: Callable[..., Any], tol: Any
) -> Tensor:
    """The time in ``[t0, t1]`` where ``event_fn`` loses the sign ``sign0``, to ``tol``."""
    for _ in range(max(0, math.ceil(math.log2(float(t1 - t0) / float(tol))))):
        middle = (t0 + t1) / 2
        before = torch.sign(event_fn(middle, interp_fn(middle))) == sign0
        t0, t1 = torch.where(before, middle, t0), torch.where(before, t1, middle)
    return (t0 + t1) / 2


def find_event(
    interp_fn: Callable[[Tensor], Tensor], sign0: Tensor, t0: Tensor, t1: Tensor, event_fn: Callable[..., Any], tol: Any
) -> tuple[Tensor, Tensor]:
    """Time and state of the sign change of ``event_fn`` on ``interp_fn`` between ``t0`` and ``t1``, to ``tol``."""
    event_t = bisect(interp_fn, sign0, t0, t1, event_fn, tol)
    return event_t, interp_fn(event_t)


class Stepwise:
    """torchdiffeq's hooks of an adaptive solver. ``rk_state`` is where it stands, from ``_before_integrate(t)`` on."""

    func: Any
    y0: Tensor
    norm: Callable[[Tensor], Any]
    dtype: torch.dtype
    order: int
    tableau: Any
    mid: Tensor | None
    rtol: Any
    atol: Any
    min_step: Tensor
    max_step: Tensor
    first_step: Any
    step_t: Tensor | None
    jump_t: Tensor | None
    safety: Tensor
    ifactor: Tensor
    dfactor: Tensor
    max_num_steps: int
    rk_state: RungeKuttaState

    def _before_integrate(self, t: Tensor) -> None:
        """The first slope, the first step size, and the times to land on."""
        t0, y0 = t[0], self.y0
        f0 = self.func(t0, y0)
        if self.first_step is None:
            dt = select_initial_step(self.func, t0, y0, self.order - 1, self.rtol, self.atol, self.norm, f0=f0)
        else:
            dt = torch.as_tensor(self.first_step, dtype=self.dtype, device=y0.device)
        self.rk_state = RungeKuttaState(y0, f0, t0, t0, dt, [y0] * 5)
        self.step_t, self.jump_t = landings(self.step_t, self.jump_t, t0)

    def _advance(self, next_t: Tensor) -> Tensor:
        """The state at ``next_t``, after as many steps as it takes to get there."""
        self._step_while(lambda: bool(next_t > self.rk_state.t1))
        return self._value_at(next_t)

    def _advance_until_event(self, event_fn: Callable[..., Tensor]) -> tuple[Tensor, Tensor]:
        """Time and state where ``event_fn`` first changes its sign."""

        def sign() -> Tensor:
            return torch.sign(event_fn(self.rk_state.t1, self.rk_state.y1))

        sign0 = sign()
        if bool(sign0 == 0):
            return self.rk_state.t1, self.rk_state.y1
        self._step_while(lambda: bool(sign() == sign0))
        return find_event(self._value_at, sign0, self.rk_state.t0, self.rk_state.t1, event_fn, self.atol)

    def _step_while(self, condition: Callable[[], bool]) -> None:
        steps = 0
        while condition():
            if steps >= self.max_num_steps:
                raise MaxStepsExceeded(
                    f"max_num_steps exceeded ({steps}>={self.max_num_steps}). The solve stands at t={self.rk_state.t1:g}. "
                    f"Loosen rtol and atol, or raise max_num_steps."
                )
            self.rk_state = self._adaptive_step(self.rk_state)
            steps += 1

    def _value_at(self, t: Tensor) -> Tensor:
        return interp_evaluate(self.rk_state.interp_coeff, self.rk_state.t0, self.rk_state.t1, t)

    def _adaptive_step(self, rk_state: RungeKuttaState) -> RungeKuttaState:
        """One attempted step; the state after it, or the same with a smaller ``dt``."""
        y0, f0, _, t0, dt, coefficients = rk_state
        dt = (dt if bool(torch.isfinite(dt)) else self.min_step).clamp(self.min_step, self.max_step)
        self.func.callback_step(t0, y0, dt)
        free = t0 + dt
        if not bool(free > t0):
            raise StepUnderflow(f"underflow in dt {dt.item()}. The step no longer moves the time t={t0.item():g}.")
        if not bool(torch.isfinite(y0).all()):
            raise NonFiniteState(f"non-finite values in state `y`: {y0}. Check func near t={t0.item():g}.")
        t1, on_jump = self._landing(t0, free)
        dt = dt if t1 is free else t1 - t0
        y1, f1, error, k = runge_kutta_step(self.func, y0, f0, t0, dt, t1, self.tableau)
        ratio = compute_error_ratio(error, self.rtol, self.atol, y0, y1, self.norm)
        dt_next = optimal_step_size(dt, ratio, self.safety, self.ifactor, self.dfactor, self.order)
        dt_next = dt_next.clamp(self.min_step, self.max_step)
        if not (bool(ratio <= 1) or bool(dt <= self.min_step)):
            self.func.callback_reject_step(t0, y0, dt)
            return RungeKuttaState(y0, f0, t0, t0, dt_next, coefficients)
        self.func.callback_accept_step(t0, y0, dt)
        coefficients = self._interp_fit(y0, y1, k, dt)
        if on_jump:
            f1 = self.func(t1, y1, perturb=Perturb.NEXT)
        return RungeKuttaState(y1, f1, t0, t1, dt_next, coefficients)

    def _landing(self, t0: Tensor, t1: Tensor) -> tuple[Tensor, bool]:
        """Where a step from ``t0`` to ``t1`` has to end, and whether ``func`` jumps there."""
        on_jump = False
        for times, jumps in ((self.step_t, False), (self.jump_t, True)):
            for t in () if times is None else times[(times > t0) & (times <= t1)][:1]:
                t1, on_jump = t, jumps
        return t1, on_jump

    def _interp_fit(self, y0: Tensor, y1: Tensor, k: Tensor, dt: Tensor) -> list[Tensor]:
        """The step's polynomial, from its ends and its middle."""
        dt, f0, f1 = dt.to(y0.real.dtype), k[..., 0], k[..., -1]
        if self.mid is None:
            y_mid = (y0 + y1) / 2 + dt / 8 * (f0 - f1)
        else:
            y_mid = y0 + dt * (k * self.mid.to(y0.real)).sum(dim=-1)
        return interp_fit(y0, y1, y_mid, f0, f1, dt)


def landings(step_t: Tensor | None, jump_t: Tensor | None, t0: Tensor) -> tuple[Tensor, Tensor]:
    """``step_t`` and ``jump_t`` from the start on, sorted; empty where there are none."""
    if step_t is None and jump_t is None:
        return t0.new_zeros(0), t0.new_zeros(0)
    found = [t0.new_zeros(0) if x is None else x[x >= t0].sort().values for x in (step_t, jump_t)]
    if len(torch.cat(found).unique()) < sum(len(x) for x in found):
        raise InputError("`step_t` and `jump_t` must not have any repeated elements between them.")
    return found[0], found[1]
