"""What a solve of many rows gives back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .. import saving
from .._types import PyTree
from ..errors import InputError, SolveError
from ..solution import Resume, Solution, Stats, Status, _moved
from ..state import Layout, flatten, from_numpy, tree_map, unflatten
from .dense import RowsDense
from .saving import Outputs


@dataclass
class BatchSolution:
    """The solutions of a batch of initial value problems (``solve(..., batch_dims=1)``).

    Where all rows have as many outputs, values are tensors ``[B, T, ...]``; where they differ (steps kept, terminal events,
    failures), they are lists of B tensors ``[T_b, ...]``. Either way ``sol.y[b]`` is what row ``b`` has, and nothing is padded.

    Attributes:
        t: times of the saved values, ``[B, T]`` or a list of B ``[T_b]``.
        y: saved values: the user's state, its time axis behind the batch axes.
        lengths: how many values each row has, ``[B]``.
        status: how each row ended: a list of B (its number in ``list(Status)`` is ``codes``, ``[B]``).
        message: for people: how it went, and what to try about the rows that failed.
        messages: the same for every row that failed, by its number.
        t_events: for each event function a list of B tensors ``[E_b]``; None without events.
        y_events: the states there: for each event function a list of B states ``[E_b, ...]``.
        stats: counters; those of steps are tensors ``[B]``, ``nfe`` counts calls of ``f`` with the whole batch.

    With several batch axes their rows are counted as by ``reshape(-1)`` in everything but dense ``t`` and ``y``. ``sol[b]`` is a
    ``Solution`` of row ``b`` alone, ``len(sol)`` their number. Call it for dense output, ``sol(t)``, after
    ``solve(..., dense=True)``.

    Example:
        >>> sol = torchivp.solve(lambda t, y: -y, torch.ones(64, 2), (0.0, 1.0), batch_dims=1)
        >>> sol.y[:, -1], sol.stats.accepted, sol[3].status
    """

    codes: Tensor = field(repr=False)
    message: str
    messages: dict[int, str]
    layout: Layout = field(repr=False)
    outputs: Outputs = field(repr=False)
    ends: RowEnd = field(repr=False)
    direction: Tensor = field(repr=False)
    t_events: list[list[Tensor]] | None = None
    y_events: list[list[PyTree]] | None = None
    dense: RowsDense | None = field(default=None, repr=False)
    counters: dict[str, Any] = field(default_factory=dict, repr=False)
    through: Callable[..., PyTree] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.lengths = self.outputs.lengths
        if self.through is not None and self.length is not None:
            _ = self.y  # in the grad mode of the solve

    @cached_property
    def length(self) -> int | None:
        """How many values every row has; None where they differ."""
        low, high = _ends(self.lengths)
        return low if low == high else None

    @cached_property
    def starts(self) -> list[int]:
        """Where the outputs of each row begin."""
        starts: list[int] = (self.lengths.cumsum(0) - self.lengths).tolist()
        return starts

    @cached_property
    def t(self) -> Tensor | list[Tensor]:
        if self.length is not None:
            return self.outputs.t.view(*self.layout.batch, self.length)
        return list(self.outputs.t.split(self.lengths.tolist()))

    @cached_property
    def y(self) -> PyTree:
        y = arranged(self.outputs, self.layout, self.length)
        return y if self.through is None else applied(self.through, self.t, y, self.layout)

    @property
    def status(self) -> list[Status]:
        names = list(Status)
        return [names[code] for code in self.codes.tolist()]

    @property
    def stats(self) -> Stats:
        return Stats(**self.counters)

    @property
    def success(self) -> bool:
        """True unless a row failed or was interrupted."""
        return not self.messages

    @property
    def failed(self) -> list[int]:
        """The numbers of the rows that failed or were interrupted."""
        return sorted(self.messages)

    def __len__(self) -> int:
        return self.layout.rows

    def __iter__(self) -> Iterator[Solution]:
        return (self[b] for b in range(len(self)))

    def __getitem__(self, b: int) -> Solution:
        """The solution of row ``b`` alone."""
        if not -len(self) <= b < len(self):
            raise IndexError(f"Row {b} of a batch of {len(self)}.")
        b = b % len(self)
        outputs = [x.narrow(0, self.starts[b], int(self.lengths[b])) for x in self.outputs[1:]]
        layout, direction = self.layout.of_a_row(), int(self.direction[b])
        y = layout.unravel(outputs[1], lead=(len(outputs[1]),))
        status = list(Status)[int(self.codes[b])]
        return Solution(
            t=outputs[0],
            y=y if self.through is None else saving.apply(self.through, outputs[0], outputs[1], layout),
            status=status,
            message=self.messages.get(b, f"{status.value} (t={float(self.ends.t[b]) * direction:g})."),
            layout=layout,
            resume=Resume(float(self.ends.t[b]), self.ends.y[b : b + 1], self.ends.next_step(b), (), (), direction),
            t_events=None if self.t_events is None else [rows[b] for rows in self.t_events],
            y_events=None if self.y_events is None else [rows[b] for rows in self.y_events],
            dense=None if self.dense is None else self.dense.of_row(b),
            counters={name: int(x[b]) if isinstance(x, Tensor) else x for name, x in self.counters.items()},
        )

    def __call__(self, t: Tensor | float | Sequence[float] | np.ndarray | np.generic) -> PyTree:
        """The solutions at any times of their intervals.

        Args:
            t: a number or 0-d tensor (returns states ``[B, ...]``), times ``[J]`` for all rows, or ``[*batch, J]`` with times for
                each (return ``[B, J, ...]``). Differentiable.

        Raises:
            InputError: without ``dense=True``, or outside of a row's interval.
        """
        if self.dense is None:
            raise InputError(
                "This solution has no dense output. Write `solve(..., dense=True)` to evaluate it anywhere."
            )
        times = from_numpy(t, "t") if isinstance(t, np.ndarray | np.generic) else t
        if not isinstance(times, Tensor) or not times.is_floating_point():
            times = torch.as_tensor(times, dtype=self.outputs.t.dtype)
        layout = self.layout
        each = times.dim() == len(layout.batch) + 1 and times.shape[:-1] == layout.batch
        if times.dim() > 1 and not each:
            raise InputError(
                f"t has shape {tuple(times.shape)}. Give a number, times [J] for all rows, or {[*layout.batch, 'J']} for each."
            )
        rows = times.reshape(layout.rows, -1) if each else times.reshape(1, -1).expand(layout.rows, -1)
        y = unravel_rows(self.dense(rows.to(layout.device)), layout)
        return y if times.dim() else tree_map(lambda x: x.select(len(layout.batch), 0), y)

    def to(self, *args: Any, **kwargs: Any) -> BatchSolution:
        """A copy with all tensors moved as by ``Tensor.to``."""
        return self._map(lambda x: _moved(x, *args, **kwargs))

    def cpu(self) -> BatchSolution:
        return self._map(lambda x: x.cpu())

    def detach(self) -> BatchSolution:
        """A copy without gradients."""
        return self._map(lambda x: x.detach())

    def raise_for_status(self) -> BatchSolution:
        """Raise SolveError if any row failed; else return self."""
        if not self.success:
            raise SolveError(self.message, self)
        return self

    def __repr__(self) -> str:
        status = self.status
        ended = ", ".join(f"{status.count(s)} {s.name.lower()}" for s in dict.fromkeys(status))
        shape = f"[{', '.join(map(str, self.layout.batch))}, {_range(self.lengths)}]"
        steps = _range(self.counters["accepted"])
        return f"BatchSolution({len(self)} rows: {ended}, t={shape}, steps={steps}, nfe={self.stats.nfe})"

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles hold no graph: it belongs to the process and the solve that made it."""
        return dict(self.detach().__dict__)

    def _map(self, f: Callable[[Tensor], Tensor]) -> BatchSolution:
        moved = replace(
            self,
            codes=f(self.codes),
            layout=self.layout.map(f),
            outputs=Outputs(*(f(x) for x in self.outputs)),
            ends=RowEnd(*(f(x) for x in self.ends)),
            direction=f(self.direction),
            t_events=None if self.t_events is None else [[f(t) for t in rows] for rows in self.t_events],
            y_events=None if self.y_events is None else [[tree_map(f, y) for y in rows] for rows in self.y_events],
            dense=None if self.dense is None else self.dense.map(f),
            counters={name: f(x) if isinstance(x, Tensor) else x for name, x in self.counters.items()},
        )
        return moved


class RowEnd(NamedTuple):
    """Where every row ended: time ``[B]`` (inside the library), state ``[B, D]``, and the size of the next step ``[B]``."""

    t: Tensor
    y: Tensor
    dt: Tensor

    def next_step(self, b: int) -> float:
        """The size of the next step of row ``b``; inf where it is to be chosen anew, because the row was done."""
        return float(self.dt[b]) or float("inf")


def arranged(outputs: Outputs, layout: Layout, length: int | None) -> PyTree:
    """States as the user gets them: dense where all rows have as many outputs, else row by row."""
    if length is not None:
        return unravel_rows(outputs.y.view(layout.rows, length, layout.width), layout)
    one = layout.of_a_row()
    return gathered([one.unravel(y, lead=(len(y),)) for y in outputs.y.split(outputs.lengths.tolist())])


def applied(function: Callable[..., PyTree], t: Any, y: PyTree, layout: Layout) -> PyTree:
    """``function(t, y)`` of all rows at each of the given times, a time axis behind the batch axes."""
    if isinstance(t, list):
        raise InputError(
            "save= is a function of all rows at once, and some rows have fewer outputs than others. Write save='t', and apply "
            "it row by row: `[function(s.t, s.y) for s in solution]`."
        )
    axis = len(layout.batch)

    def at(i: int) -> tuple[list[Any], Any]:
        return flatten(function(t.select(axis, i), tree_map(lambda x: x.select(axis, i), y)))

    columns = [at(i) for i in range(t.shape[axis])]
    return unflatten(columns[0][1], [torch.stack(x, dim=axis) for x in zip(*(leaves for leaves, _ in columns))])


def gathered(parts: list[PyTree]) -> PyTree:
    """A state whose leaves are lists, from a list of states."""
    leaves, spec = zip(*(flatten(part) for part in parts))
    return unflatten(spec[0], [list(column) for column in zip(*leaves)])


def unravel_rows(values: Tensor, layout: Layout) -> PyTree:
    """``[B, T, D]`` as the user's state with a time axis behind the batch axes."""
    rows, times = values.shape[:2]
    one = layout.of_a_row()
    y = one.unravel(values, lead=(rows, times))
    return tree_map(lambda x: x.reshape(*layout.batch, *x.shape[1:]), y)


def _range(x: Tensor) -> str:
    low, high = _ends(x)
    return f"{low}" if low == high else f"{low}..{high}"


def _ends(x: Tensor) -> tuple[int, int]:
    return int(x.min()), int(x.max())
