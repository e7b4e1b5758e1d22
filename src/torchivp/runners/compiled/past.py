"""What a method carries from step to step, between the compiled loop and plain PyTorch (``History``)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...methods.base import History
from .columns import Leaves
from .program import Record
from .step import Carry, Form

if TYPE_CHECKING:
    from .march import Loop, Part


def carries(form: Form) -> bool:
    """Whether a step starts from more than its state and the slope there."""
    return form.hands_on or form.past > 0


def past_of(lines: int, timed: bool, known: History, y: Tensor, leaves: Leaves) -> tuple[Tensor, ...]:
    """``Carry.past`` from what is known of it, newest first; ``y`` is the state ``[1, B * D]`` at the start."""
    if not lines:
        return ()
    known = known[:lines]
    missing = lines - len(known)
    rows = torch.cat([*(x for _, x in known), *[y] * missing]).reshape(lines, leaves.layout.rows, -1)
    times = [float(t) for t, _ in known] + [math.nan] * missing if timed else []
    return *leaves.of(rows, 1), *([torch.tensor(times, dtype=torch.float64, device=y.device)] if timed else [])


def lines_known(at: Carry, form: Form) -> int:
    """How many lines of the past an opening has found so far."""
    return 0 if form.opening is None else int(torch.isfinite(at.past[-1]).sum())


def history_at(form: Form, leaves: Leaves, at: Carry, t: Any) -> History:
    """What the next step starts from, the slope at its start included."""
    slope = leaves.rows(at.ks).reshape(1, -1)
    if not at.past:
        return ((t, slope),)
    lines = leaves.rows(at.past[: len(at.ks)], 1)
    return ((t, slope), *lines_of(form, t, lines.reshape(form.past, 1, -1), at.past[-1:]))


def handed_on(loop: Loop, part: Part, ends: Sequence[Any]) -> list[tuple[History, bool]]:
    """History after each of the steps, and whether its first entry is the slope at their ends, as plain PyTorch has it.

    Args:
        ends: of the steps.
    """
    form, n = loop.form, len(ends)
    record: Record = part.record.first(n)
    end = part.end
    slopes, lines = (
        torch.cat([rows[1:], last]) if len(rows) else rows
        for rows, last in zip(
            rows_of(loop.leaves, [k[:, 0] for k in record.ks], record.past),
            rows_of(loop.leaves, [k.unsqueeze(0) for k in end.ks], [x.unsqueeze(0) for x in end.past]),
        )
    )
    if form.opening is None:
        return [(((t, slope), *lines_of(form, t, some, ())), False) for t, slope, some in zip(ends, slopes, lines)]
    times = torch.cat([record.past[-1], end.past[-1].unsqueeze(0)])
    opens = ~torch.isfinite(times).all(1)
    return [
        (((t, slope),) * bool(opened) + lines_of(form, t, some, (then,)), bool(opened))
        for t, slope, some, then, opened in zip(ends, slopes, lines, times[1:], opens)
    ]


def lines_of(form: Form, t: Any, lines: Tensor, times: Sequence[Tensor]) -> History:
    """The lines ``[M, 1, B * D]`` that are known, with their times."""
    if form.opening is None:
        return tuple((t, line) for line in lines)
    return tuple((s, line) for s, line in zip(times[0].tolist(), lines) if math.isfinite(s))


def rows_of(leaves: Leaves, ks: Sequence[Tensor], past: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Slopes ``[n, 1, B * D]`` and lines ``[n, M, 1, B * D]`` of ``n`` steps, in rows."""
    slopes = leaves.rows(ks, 1)
    slopes = slopes.reshape(len(slopes), 1, -1)
    if not past:
        return slopes, slopes.new_zeros(len(slopes), 0, 1, slopes.shape[-1])
    lines = leaves.rows(past[: len(ks)], 2)
    return slopes, lines.reshape(*lines.shape[:2], 1, -1)
