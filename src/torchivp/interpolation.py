"""Step polynomials: one evaluator for saved values, events and dense output."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ._types import Rows
from .autocast import without_autocast
from .errors import InputError
from .field import time_dtype
from .trajectory import Piece
from .transforms import as_float


class StepPolynomials:
    """N steps' polynomials ``y(t0 + theta * dt) = y0 + sum_p theta^p * c_p``.

    Args:
        t0, dt: start and size of the steps, ``[N]``.
        coefficients: ``[N, P + 1, D]``, ``y0`` first.
    """

    def __init__(self, t0: Tensor, dt: Tensor, coefficients: Tensor):
        self.t0 = t0
        self.dt = dt
        self.coefficients = coefficients

    def __call__(self, index: Tensor, t: Tensor) -> Tensor:
        """Values ``[J, D]`` at times ``t [J]`` in the steps ``index [J]``."""
        theta = ((t - self.t0[index]) / self.dt[index]).to(self.coefficients.real.dtype).unsqueeze(-1)
        c = self.coefficients.transpose(0, 1)
        y = c[-1][index]
        for c_p in c[:-1].flip(0):
            y = torch.addcmul(c_p[index], y, theta) if not y.is_complex() else c_p[index] + y * theta
        return y

    def map(self, f: Callable[[Tensor], Tensor]) -> StepPolynomials:
        return StepPolynomials(f(self.t0), f(self.dt), f(self.coefficients))


def of_steps(t0: Tensor, dt: Tensor, y0: Tensor, k: Tensor, weights: Tensor) -> StepPolynomials:
    """From starts and sizes ``[N]``, states ``[N, D]`` and slopes ``[N, S, D]`` of steps with the same weights ``[P, S]``."""
    higher = torch.matmul(weights, k.to(weights.dtype)).to(y0.dtype) * dt.to(y0.real.dtype).view(-1, 1, 1)
    return StepPolynomials(t0, dt, torch.cat([y0.unsqueeze(1), higher], dim=1))


@without_autocast
def fit(pieces: Sequence[Piece]) -> StepPolynomials:
    """The polynomials of the given steps (padded to the highest degree where a multistep method changed its own)."""
    device = pieces[0].y0.device
    t0 = as_times([p.span.t for p in pieces], device)
    dt = as_times([p.span.t1 for p in pieces], device) - t0
    y0 = torch.cat([p.y0 for p in pieces])
    if all(p.weights is pieces[0].weights for p in pieces):
        return of_steps(t0, dt, y0, torch.stack([p.k for p in pieces]), pieces[0].weights)
    width = max(len(p.weights) for p in pieces)
    higher = torch.stack([_padded((p.weights @ p.k.to(p.weights.dtype)).to(y0.dtype), width) for p in pieces])
    size = dt.to(y0.real.dtype).view(-1, 1, 1)
    return StepPolynomials(t0, dt, torch.cat([y0.unsqueeze(1), higher * size], dim=1))


def _padded(rows: Tensor, n: int) -> Tensor:
    return rows if len(rows) == n else torch.cat([rows, rows.new_zeros(n - len(rows), rows.shape[1])])


def as_times(times: Sequence[float | Tensor], device: torch.device) -> Tensor:
    """Times inside the library as one tensor ``[N]``."""
    if any(isinstance(t, Tensor) for t in times):
        stacked = torch.stack([torch.as_tensor(t, dtype=torch.float64) for t in times])
    else:
        stacked = torch.tensor(times, dtype=torch.float64)
    return stacked.to(device=device, dtype=time_dtype(device))


class DenseSolution:
    """The solution as a function of time: callable ``t [J] -> [J, D]``, times as the user has them.

    Args:
        polynomials: of all accepted steps, in order; None for a solve of no length.
        start: the state at the start, ``[1, D]``.
        bounds: first and last time, increasing (inside the library).
        direction: -1 where the user's time decreases.
    """

    def __init__(self, polynomials: StepPolynomials | None, start: Rows, bounds: tuple[float, float], direction: int):
        self.polynomials = polynomials
        self.start = start
        self.bounds = bounds
        self.direction = direction

    def __call__(self, t: Tensor) -> Tensor:
        inside = t.to(torch.promote_types(t.dtype, time_dtype(t.device))) * self.direction
        slack = 4 * self._precision(t.dtype) * max(abs(b) for b in self.bounds)
        first, last = (-as_float(-inside.min()), as_float(inside.max())) if len(t) else self.bounds
        if not (first >= self.bounds[0] - slack and last <= self.bounds[1] + slack):
            low, high = sorted(b * self.direction for b in self.bounds)
            asked = sorted(x * self.direction for x in (first, last))
            raise InputError(
                f"The solution was asked for at times from {asked[0]:g} to {asked[1]:g}, but it is known on "
                f"[{low:g}, {high:g}] only. Solve over a longer interval, or ask inside this one."
            )
        if self.polynomials is None:
            return self.start.expand(len(t), -1)
        steps = self.polynomials
        index = torch.searchsorted(steps.t0.detach(), inside.detach().to(steps.t0.dtype).contiguous(), right=True) - 1
        return steps(index.clamp(min=0), inside)

    def _precision(self, dtype: torch.dtype) -> float:
        """Of the times asked for, or of our own where that is lower."""
        ours = dtype if self.polynomials is None else self.polynomials.t0.dtype
        return max(torch.finfo(dtype).eps, torch.finfo(ours).eps)

    def map(self, f: Callable[[Tensor], Tensor]) -> DenseSolution:
        steps = None if self.polynomials is None else self.polynomials.map(f)
        return DenseSolution(steps, f(self.start), self.bounds, self.direction)
