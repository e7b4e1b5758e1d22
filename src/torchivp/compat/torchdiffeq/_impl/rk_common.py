"""Names of ``torchdiffeq._impl.rk_common``."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..adaptive import ButcherTableau as _ButcherTableau
from ..adaptive import RKAdaptiveStepsizeODESolver
from ..functions import Perturb

_RungeKuttaState = namedtuple("_RungeKuttaState", "y1, f1, t0, t1, dt, interp_coeff")


def _runge_kutta_step(
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
    return (torch.stack(slopes, dim=-1) * weights[: len(slopes)].to(slopes[0].real.dtype)).sum(dim=-1)


def _first(func: Callable[..., Any], t0: Tensor, y0: Tensor, f0: Tensor | None, perturb: bool) -> Tensor:
    return func(t0, y0, perturb=Perturb.NEXT if perturb else Perturb.NONE) if f0 is None else f0


def _last(perturb: bool) -> Perturb:
    return Perturb.PREV if perturb else Perturb.NONE


def rk4_step_func(
    func: Callable[..., Any],
    t0: Tensor,
    dt: Tensor,
    t1: Tensor,
    y0: Tensor,
    f0: Tensor | None = None,
    perturb: bool = False,
) -> Tensor:
    """The increment of a step of the classic method of order 4."""
    k1 = _first(func, t0, y0, f0, perturb)
    k2 = func(t0 + dt / 2, y0 + dt / 2 * k1)
    k3 = func(t0 + dt / 2, y0 + dt / 2 * k2)
    k4 = func(t1, y0 + dt * k3, perturb=_last(perturb))
    return dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


def rk4_alt_step_func(
    func: Callable[..., Any],
    t0: Tensor,
    dt: Tensor,
    t1: Tensor,
    y0: Tensor,
    f0: Tensor | None = None,
    perturb: bool = False,
) -> Tensor:
    """The increment of a step of Kutta's 3/8 rule, which torchdiffeq calls "rk4"."""
    k1 = _first(func, t0, y0, f0, perturb)
    k2 = func(t0 + dt / 3, y0 + dt / 3 * k1)
    k3 = func(t0 + 2 * dt / 3, y0 + dt * (k2 - k1 / 3))
    k4 = func(t1, y0 + dt * (k1 - k2 + k3), perturb=_last(perturb))
    return dt / 8 * (k1 + 3 * k2 + 3 * k3 + k4)


__all__ = [
    "RKAdaptiveStepsizeODESolver", "_ButcherTableau", "_RungeKuttaState", "_runge_kutta_step", "rk4_alt_step_func",
    "rk4_step_func",
]  # fmt: skip
