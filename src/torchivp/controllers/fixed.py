"""Steps that do not look at the error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from .base import Controller, Memory, RowMemory, RowVerdict, Verdict

_EPS32 = float(np.finfo(np.float32).eps)


@dataclass(frozen=True)
class FixedSteps(Controller):
    """Steps of one size, on a given grid, or from output time to output time.

    Args:
        dt: step size in the units of ``t``; the last step is shortened to end at ``t[-1]``.
        times: the grid itself, strictly monotone in the direction of the solve, from ``t[0]`` to ``t[-1]``.
            With neither, the output times are the grid.

    Raises:
        InputError: if both are given, or ``dt`` is not positive.

    Example:
        >>> torchivp.solve(f, y0, t, method="tsit5", controller=torchivp.FixedSteps(dt=0.1))
    """

    dt: float | None = None
    times: Sequence[float] | Tensor | np.ndarray | None = None

    adaptive = False

    def __post_init__(self) -> None:
        if self.times is not None:
            given = self.times.tolist() if isinstance(self.times, Tensor | np.ndarray) else self.times
            object.__setattr__(self, "times", tuple(float(x) for x in given))
        if self.dt is not None and self.times is not None:
            raise InputError("Both dt and times were given, and they contradict each other. Give one of them.")
        if self.dt is not None and not 0 < self.dt < math.inf:
            raise InputError(
                f"dt={self.dt} is no step size. Give a positive number, in the units of t; the direction follows t."
            )

    def judge(self, ratio: float, dt: float, memory: Memory, error_order: int) -> Verdict:
        return Verdict(True, dt, memory)

    def judge_rows(self, ratio: Tensor, dt: Tensor, memory: RowMemory, error_order: int) -> RowVerdict:
        return RowVerdict(
            torch.isfinite(ratio), dt, memory
        )  # nan: the state is not finite, and no other step will mend it

    def first_step(self, end: float) -> float:
        """Steps of a grid run from one of its times to the next; without an end there is no grid."""
        if math.isfinite(end):
            return math.inf
        if self.dt is None:
            raise InputError("A solve without an end needs a step size. Give dt.")
        return self.dt

    def grid(self, t: list[float]) -> list[float]:
        if isinstance(self.times, tuple):
            return checked_grid(self.times, t)
        if self.dt is None:
            return t[1:]
        if not math.isfinite(t[-1]):
            return []
        slack = min(_rounding(t[0], t[-1]) / self.dt, 0.01)
        steps = math.ceil((t[-1] - t[0]) / self.dt * (1 - 1e-12) - slack)
        return [t[0] + n * self.dt for n in range(1, steps)]


def _rounding(t0: float, t1: float) -> float:
    """How far from each other than meant two times may be because they were rounded to float32 (0 if they were not).

    0.1 and 0.2 in float32 are 0.1 + 1.5e-9 apart: one step of 0.1, and no second one of 1.5e-9.
    """
    from_float32 = all(float(np.float32(t)) == t for t in (t0, t1))
    return 2 * _EPS32 * max(abs(t0), abs(t1)) if from_float32 else 0.0


def checked_grid(given: Sequence[float], t: list[float]) -> list[float]:
    """The grid in increasing time, without its start."""
    sign = -1 if len(given) > 1 and given[0] > given[-1] else 1
    times = [sign * float(x) for x in given]
    increasing = all(a < b for a, b in zip(times, times[1:]))
    if not times or not increasing or times[0] != t[0] or times[-1] != t[-1]:
        raise InputError(
            f"The grid of FixedSteps has {len(times)} times from {given[0] if times else None} to "
            f"{given[-1] if times else None}; it must run strictly monotonically from t[0] to t[-1] of the solve. "
            f"Start it at t[0] and end it at t[-1]."
        )
    return times[1:]
