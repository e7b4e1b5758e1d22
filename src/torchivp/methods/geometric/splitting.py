"""Symplectic methods for systems in two parts: drifts, in which ``p`` rests, and kicks, in which ``q`` rests, in turns."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import ClassVar

import torch
from torch import Tensor

from ..._types import Rows
from ...field import Field, time_dtype
from ...partitioned import TWO_PARTS
from ...span import Span
from ...transforms import outside_of_transforms
from ..base import History, Method, Step
from .hermite import interpolants, with_inner_slopes

DRIFT, KICK = 0, 1


@dataclass(frozen=True, eq=False)
class Splitting:
    """A palindromic composition of drifts and kicks, as data.

    With a time of its own for each half, ``q`` and its time move in the drifts, ``p`` and its time in the kicks: a kick asks for
    the slope of ``p`` where ``q`` has come to, a drift for that of ``q`` where ``p`` has come to.

    Args:
        order: order of convergence.
        first: the kind of the first substep and of the last.
        weights: of the substeps, kinds in turns, in units of the step; those of each kind add up to 1.
    """

    order: int
    first: int
    weights: tuple[float, ...]

    def kind(self, substep: int) -> int:
        return (self.first + substep) % 2

    @cached_property
    def nodes(self) -> tuple[float, ...]:
        """When the substeps ask, in units of the step."""
        return tuple(
            sum(self.weights[j - 1 : None : -2][: (j + 1) // 2]) if j else 0.0 for j in range(len(self.weights))
        )

    @cached_property
    def timeless_drift(self) -> bool:
        """Whether drifts would ask outside of the step."""
        return any(not 0 <= node <= 1 for j, node in enumerate(self.nodes) if self.kind(j) == DRIFT)

    @cached_property
    def from_end(self) -> tuple[float, ...]:
        """The nodes counted from the end, of all substeps but the first; in the middle where the time must not matter."""
        mirrored = (-node for node in reversed(self.nodes))  # exactly 0 at the end, where a sum may be rounded
        return tuple(-0.5 if not -1 <= x <= 0 else x for x in mirrored)[1:]


class SplittingMethod(Method):
    """A composition of drifts and kicks; a subclass is its weights. Symplectic for separable Hamiltonians, reversible.

    The last substep asks for what the first of the next step needs: it is handed on.
    """

    splitting: ClassVar[Splitting]
    needs = TWO_PARTS
    reversible = True

    @property
    def order(self) -> int:  # type: ignore[override]
        return self.splitting.order

    @property
    def timeless_drift(self) -> bool:  # type: ignore[override]
        return self.splitting.timeless_drift

    @property
    def carries(self) -> str:  # type: ignore[override]
        return ("the drift at the end", "the kick at the end")[self.splitting.first]

    def needs_slope(self, history: History) -> bool:
        return not history

    def step(self, field: Field, span: Span, y: Rows, history: History) -> Step:
        first = self._half(field, history[0][1])
        times = field.times(span, from_end(self.splitting, y.device))
        mean, last = self._compose(field, span, y, first, times, 1)
        k = torch.cat((first, mean, last))
        return Step(span.advance(y, mean), k, self.interpolant(y.dtype, y.device), None, ((span.t1, last),))

    def interpolant(self, dtype: torch.dtype, device: torch.device) -> Tensor:
        """The weights of its interpolant, ``[P, S]``."""
        c = interpolants(dtype, device)
        return c.quintic if self.order > 4 else c.cubic

    def dense(self, field: Field, span: Span, y: Rows, step: Step) -> Step:
        """The other halves of the slopes at both ends, and for order 6 two slopes inside."""
        other = (field.kick, field.drift)[self.splitting.first]
        (end,) = field.times(span, interpolants(y.dtype, y.device).end)
        halves = torch.cat((other(field.time(span.start()), y), torch.zeros_like(y), other(end, step.y1)))
        k = step.k + halves
        return step._replace(k=with_inner_slopes(field, span, y, k) if self.order > 4 else k)

    def reverse(self, field: Field, span: Span, y1: Rows, history1: History) -> tuple[Rows, History]:
        """The same composition with a step of negative size."""
        last = self._half(field, history1[0][1])
        times = field.times(span.closed(), to_start(self.splitting, y1.device))
        mean, first = self._compose(field, span, y1, last, times, -1)
        return span.advance(y1, mean), ((span.t, first),)

    def _compose(
        self, field: Field, span: Span, y: Rows, slope: Rows, times: tuple[Tensor, ...], way: int
    ) -> tuple[Rows, Rows]:
        """The mean slope from ``y`` on, one way or the other, and the slope of the last substep.

        Args:
            slope: of the first substep; ``times``: of the others.
        """
        parts = (field.drift, field.kick)
        weights = self.splitting.weights
        mean = slope * (way * weights[0])
        for j, t in enumerate(times, 1):
            slope = parts[self.splitting.kind(j)](t, span.advance(y, mean))
            mean = torch.add(mean, slope, alpha=way * weights[j])
        return mean, slope

    def _half(self, field: Field, slope: Rows) -> Rows:
        """The half of a slope that the first substep moves."""
        second = field.layout.in_second
        return torch.where(second, slope, 0) if self.splitting.first == KICK else torch.where(second, 0, slope)


@lru_cache(maxsize=64)
@outside_of_transforms
def from_end(splitting: Splitting, device: torch.device) -> Tensor:
    """Where the substeps of a step ask, for ``Field.times``."""
    return torch.tensor(splitting.from_end, dtype=time_dtype(device), device=device)


@lru_cache(maxsize=64)
@outside_of_transforms
def to_start(splitting: Splitting, device: torch.device) -> Tensor:
    """The same of a step back."""
    return torch.tensor([-1 - x for x in splitting.from_end], dtype=time_dtype(device), device=device)


def of_leapfrogs(*weights: float) -> tuple[float, ...]:
    """The weights of leapfrog steps one after the other, which add up to 1: the half substeps between two of them are one."""
    halves = [w / 2 for w in weights]
    inner = [x for a, b, w in zip(halves, halves[1:], weights[1:]) for x in (a + b, w)]
    return (halves[0], weights[0], *inner, halves[-1])
