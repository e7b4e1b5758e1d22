"""The steps of explicit Runge-Kutta methods in a compiled loop."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...methods.tableau import Number
from .pure import Pure
from .step import Fixed, Form, Stages, State, extra_stages, slopes, weighted, wide


def explicit_stages(
    form: Form,
    pure: Pure,
    fixed: Fixed,
    held: State,
    t1: Tensor,
    h: Tensor,
    ys: State,
    ks: State,
    rests: bool = False,
    past: State = (),
) -> Stages:
    """A step that ends at ``t1``.

    Args:
        rests: rows whose step has no size stay finite, whatever their slopes (0 times inf has no gradient).
    """
    tableau = form.tableau
    found: list[State] = [ks]

    y1: State = ys
    for c, row in zip(tableau.c[1:], tableau.a[1:]):
        y1 = moved(h, ys, row, found, rests)
        found.append(slopes(form, pure, fixed, held, t1 + float(c - 1) * h, y1))
    if not tableau.fsal:
        y1 = moved(h, ys, tableau.b, found, rests)
    return Stages(looked_inside(form, pure, fixed, held, t1, h, ys, found, rests), y1)


def looked_inside(
    form: Form,
    pure: Pure,
    fixed: Fixed,
    held: State,
    t1: Tensor,
    h: Tensor,
    ys: State,
    found: list[State],
    rests: bool,
) -> list[State]:
    """The slopes of a step, with those that only its interpolant needs."""
    known = list(found)
    for c, row in zip(*extra_stages(form)):
        known.append(slopes(form, pure, fixed, held, t1 + (c - 1) * h, moved(h, ys, row, known, rests)))
    return known


def moved(h: Tensor, ys: State, weights: Sequence[Number], found: Sequence[State], rests: bool) -> tuple[Tensor, ...]:
    """The state after the weighted sum of these slopes."""
    return tuple(advanced(h, y, weighted(weights, [k[i] for k in found]), rests) for i, y in enumerate(ys))


def advanced(h: Tensor, y: Tensor, slope: Tensor, rests: bool) -> Tensor:
    """``y + h slope``.

    Args:
        rests: rows whose step has no size stay where they are, whatever the slope.
    """
    y1 = y + wide(h, y) * slope
    return torch.where(wide(h, y) == 0, y, y1) if rests else y1
