"""Which starts of steps to keep in memory, and how to come by the others: take the steps again from one that was kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import pairwise

from ..trajectory import Series, Start, StepsAgain, Tape, TapeEntry

_SERIES = 32  # a call of a compiled loop costs about as much as so many small steps


class Checkpoints(Tape):
    """Keeps the start of every ``stride``-th step.

    Args:
        stride: to begin with.
        most: how many starts may be kept for a given stride; one more, and the stride doubles.
        at_once: how many starts are in memory at any time of the backward pass; where they are fewer than the steps between
            two kept ones, those are taken again more than once, by the binomial schedule.

    Source of the schedule: A. Griewank, A. Walther, Algorithm 799: revolve, ACM TOMS 26:1 (2000), doi:10.1145/347837.347846.
    """

    def __init__(
        self, stride: int = 1, most: Callable[[int], float] = lambda stride: math.inf, at_once: float = math.inf
    ):
        super().__init__()
        self.stride = stride
        self.most = most
        self.at_once = at_once
        self.starts: dict[int, Start] = {}

    def keep(self, number: int, entry: TapeEntry, start: Start, end: Start) -> None:
        if number % self.stride:
            return
        self.starts[number] = start
        while len(self.starts) > self.most(self.stride):
            self.stride *= 2
            self.starts = {i: start for i, start in self.starts.items() if i % self.stride == 0}

    def rewind(self, again: StepsAgain) -> Iterator[tuple[TapeEntry, Start]]:
        kept = sorted(self.starts)
        for first, last in reversed(list(pairwise([*kept, len(self.entries)]))):
            yield from self._segment(first, last, self.at_once - len(kept) + 1, again)

    def _segment(self, first: int, last: int, at_once: float, again: StepsAgain) -> Iterator[tuple[TapeEntry, Start]]:
        """Steps ``first`` to ``last - 1``, the last one first, with ``at_once`` starts in memory."""
        held = [(first, self.starts[first])]
        while held:
            number, start = held[-1]
            if number == last - 1:
                held.pop()
                yield self.entries[number], start
                last = number
                continue
            goal = number + split(last - number, at_once - len(held) + 1)
            held.append((goal, self._forward(number, goal, start, again)))

    def _forward(self, number: int, goal: int, start: Start, again: StepsAgain) -> Start:
        """The start of step ``goal`` from that of step ``number``."""
        for entry, following in pairwise(self.entries[number : goal + 1]):
            start = again.onwards(entry, start, following)
        return start


def split(steps: int, at_once: float) -> int:
    """After how many of these steps to keep another start, if ``at_once`` of them fit (the first one included)."""
    if steps <= at_once:
        return 1
    slots = max(1, int(at_once))
    repeats = 1
    while math.comb(slots + repeats, slots) < steps:
        repeats += 1
    most_behind = math.comb(slots - 1 + repeats, slots - 1)  # steps that one slot fewer reverses with as many repeats
    least_before = math.comb(slots + repeats - 2, slots) if repeats > 1 else 1
    return min(steps - 1, max(1, steps - most_behind, least_before))


def every(stride: int) -> Checkpoints:
    """The start of every ``stride``-th step."""
    return Checkpoints(stride)


def square_root() -> Checkpoints:
    """About as many starts as there are steps between two of them: at most ``3 sqrt(n)`` at any time."""
    return Checkpoints(most=lambda stride: 2 * stride)


def at_most(number: int) -> Checkpoints:
    """Never more than ``number`` starts: half of them are placed on the way, the others move about on the way back."""
    return Checkpoints(most=lambda stride: (number + 1) // 2, at_once=number)


def series_every(stride: int) -> Series:
    """The start of every ``stride``-th step, for who takes many steps at once."""
    return Series(stride, Checkpoints)


def series_square_root() -> Series:
    return Series(_SERIES, square_root)


def series_at_most(number: int) -> Series:
    """Half of the starts are those of a series of steps, the others those of all series."""
    steps = max(1, number // 2)
    return Series(steps, lambda: at_most(max(1, number - steps)))
