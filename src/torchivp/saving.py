"""What to keep of a solve: given times, every step, the end, or a function of the state at the given times."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from ._types import PyTree, Time
from .errors import InputError
from .interpolation import as_times, fit
from .state import Layout, flatten, unflatten
from .trajectory import Inside, Knot, Trajectory


@runtime_checkable
class Save(Protocol):
    """Chooses outputs while the loop runs.

    Attributes:
        start_too: the start is an output.
        end_too: the point where the solve ended is an output, wherever that is.
    """

    start_too: bool
    end_too: bool

    def at_start(self, t0: float) -> int:
        """How often the start is an output."""

    def in_step(self, t: float, t1: float) -> tuple[list[float], bool]:
        """Output times strictly inside ``(t, t1)``, and whether ``t1`` itself is one."""


class GivenTimes:
    """Outputs at the times asked for.

    Args:
        t: increasing times; the first one is the start.
    """

    start_too = True
    end_too = False

    def __init__(self, t: list[float]):
        self.t = t

    def at_start(self, t0: float) -> int:
        return sum(t == t0 for t in self.t[:2])

    def in_step(self, t: float, t1: float) -> tuple[list[float], bool]:
        first = bisect_right(self.t, t)
        if first == len(self.t) or self.t[first] > t1:
            return [], False
        last = bisect_right(self.t, t1, first)
        at_end = self.t[last - 1] == t1
        return self.t[first : last - at_end], at_end


class EveryStep:
    """Outputs at every step point."""

    start_too = True
    end_too = True

    def at_start(self, t0: float) -> int:
        return 1

    def in_step(self, t: float, t1: float) -> tuple[list[float], bool]:
        return [], True


class EndOnly:
    """One output: where the solve ended."""

    start_too = False
    end_too = True

    def at_start(self, t0: float) -> int:
        return 0

    def in_step(self, t: float, t1: float) -> tuple[list[float], bool]:
        return [], False


def choose(save: str | Callable[..., PyTree], t: list[float]) -> Save:
    """Who chooses the outputs that the front door's ``save=`` asks for."""
    table: dict[str, Callable[[], Save]] = {"t": lambda: GivenTimes(t), "steps": EveryStep, "end": EndOnly}
    return chosen(save, table)


T = TypeVar("T")


def chosen(save: str | Callable[..., PyTree], table: Mapping[str, Callable[[], T]]) -> T:
    """An entry of the table; a function is applied to the outputs at the given times, afterwards."""
    name = "t" if callable(save) else save
    if not isinstance(name, str) or name not in table:
        raise InputError(
            f"save={save!r} is not known. Write 't' (the given times), 'steps' (every step), 'end' (the last state), or a "
            f"function save(t, y) of the time and the state."
        )
    return table[name]()


def read(trajectory: Trajectory, end_too: bool = False) -> tuple[Tensor, Tensor]:
    """The outputs of a trajectory, in the order of time.

    Args:
        trajectory: what the loop left.
        end_too: add the last state, unless it is an output already.

    Returns:
        times ``[T]`` as inside the library and states ``[T, D]``, with the graph of the trajectory.
    """
    if trajectory.known is not None:
        return read_known(*trajectory.known, trajectory, end_too)
    outputs, device = trajectory.outputs, trajectory.end.device
    knots = [i for i, o in enumerate(outputs) if isinstance(o, Knot)]
    inside = [i for i, o in enumerate(outputs) if isinstance(o, Inside)]
    rows = [trajectory.knots[o.knot] for o in outputs if isinstance(o, Knot)]
    times = [o.t for o in outputs]
    if end_too and not (times and _float(times[-1]) == trajectory.end_time):
        rows, times, knots = [*rows, trajectory.end], [*times, trajectory.end_time], [*knots, len(outputs)]
    clock = as_times(times, device)
    states = torch.cat(rows) if rows else trajectory.end[:0]
    if not inside:
        return clock, states
    index = torch.tensor([o.piece for o in outputs if isinstance(o, Inside)], device=device)
    values = fit(trajectory.pieces)(index, clock[torch.tensor(inside, device=device)])
    order = torch.tensor(knots + inside, device=device).argsort()
    return clock, torch.cat([states, values])[order]


def read_known(times: Tensor, states: Tensor, trajectory: Trajectory, end_too: bool) -> tuple[Tensor, Tensor]:
    """The same where all outputs are known at once."""
    if not end_too or (len(times) and _float(times[-1]) == trajectory.end_time):
        return times, states
    return torch.cat([times, times.new_tensor([trajectory.end_time])]), torch.cat([states, trajectory.end])


def _float(t: Time) -> float:
    return t.item() if isinstance(t, Tensor) else t


def fold(trajectory: Trajectory) -> None:
    """Evaluate the outputs inside the steps held so far, and let go of the steps."""
    device = trajectory.end.device
    inside = [(i, o) for i, o in enumerate(trajectory.outputs) if isinstance(o, Inside)]
    times = as_times([o.t for _, o in inside], device)
    index = torch.tensor([o.piece for _, o in inside], device=device)
    for (i, o), y in zip(inside, fit(trajectory.pieces)(index, times).split(1)):
        trajectory.knots.append(y)
        trajectory.outputs[i] = Knot(len(trajectory.knots) - 1, o.t)
    trajectory.pieces.clear()
    trajectory.held = 0


def apply(function: Callable[..., PyTree], times: Tensor, states: Tensor, layout: Layout) -> PyTree:
    """``function(t, y)`` at every output ``states [T, D]``, stacked along a new first axis."""
    results = [flatten(function(t, layout.unravel(y.unsqueeze(0)))) for t, y in zip(times.unbind(0), states)]
    if not results:
        return states
    columns = zip(*(leaves for leaves, _ in results))
    return unflatten(results[0][1], [torch.stack([torch.as_tensor(x) for x in column]) for column in columns])
