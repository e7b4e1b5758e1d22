"""Names of ``torchdiffeq._impl.rk_common``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..adaptive import ButcherTableau as _ButcherTableau
from ..adaptive import RKAdaptiveStepsizeODESolver
from ..functions import Perturb
from ..stepping import RungeKuttaState as _RungeKuttaState
from ..stepping import runge_kutta_step as _runge_kutta_step


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
