"""The solution of many rows from the solutions of parts of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any, TypeVar

import torch
from torch import Tensor

from .._types import PyTree
from ..solution import Status
from ..state import Layout
from .failures import summary
from .loop import CODES
from .saving import Outputs
from .solution import BatchSolution, RowEnd

T = TypeVar("T")


def joined(
    parts: Sequence[BatchSolution], layout: Layout, through: Callable[..., PyTree] | None = None
) -> BatchSolution:
    """One solution, in the order of the parts.

    Args:
        parts: without dense output.
        layout: of all rows.
        through: a function of the saved values.
    """
    first = list(accumulate((len(part) for part in parts), initial=0))
    messages = {start + b: text for start, part in zip(first, parts) for b, text in part.messages.items()}
    return BatchSolution(
        codes=torch.cat([part.codes for part in parts]),
        message=summary(layout.rows, messages, "member"),
        messages=messages,
        layout=layout,
        outputs=Outputs(*(torch.cat(x) for x in zip(*(part.outputs for part in parts)))),
        ends=RowEnd(*(torch.cat(x) for x in zip(*(part.ends for part in parts)))),
        direction=torch.cat([part.direction for part in parts]),
        t_events=chained([part.t_events for part in parts]),
        y_events=chained([part.y_events for part in parts]),
        counters=added([part.counters for part in parts]),
        through=through,
    )


def chained(parts: list[list[list[T]] | None]) -> list[list[T]] | None:
    """The lists of each event function, one behind the other; None without events."""
    known = [part for part in parts if part is not None]
    return [[x for rows in of_event for x in rows] for of_event in zip(*known)] if known else None


def added(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Counters of each row one behind the other, those of calls added up."""
    columns = {name: [part[name] for part in parts] for name in parts[0]}
    return {name: torch.cat(x) if isinstance(x[0], Tensor) else sum(x) for name, x in columns.items()}


def not_solved(layout: Layout, why: str, events: int | None = None) -> BatchSolution:
    """Rows that were never looked at: no values at all.

    Args:
        why: the message of each of them.
        events: how many event functions there are.
    """
    rows, device = layout.rows, layout.device
    nothing = torch.zeros(rows, dtype=torch.float64, device=device)
    none = torch.zeros(rows, dtype=torch.int64, device=device)
    state = torch.zeros(rows, layout.width, dtype=layout.dtype, device=device)
    return BatchSolution(
        codes=none + CODES.index(Status.INTERRUPTED),
        message=why,
        messages=dict.fromkeys(range(rows), why),
        layout=layout,
        outputs=Outputs(none, nothing[:0], state[:0]),
        ends=RowEnd(nothing, state + torch.nan, nothing),
        direction=nothing + 1,
        t_events=None if events is None else [[nothing[:0]] * rows] * events,
        y_events=None if events is None else [[layout.of_a_row().unravel(state[:0], lead=(0,))] * rows] * events,
        counters={"nfe": 0, "attempted": none, "accepted": none, "rejected": none, "replayed": 0, "njev": 0, "nlu": 0},
    )
