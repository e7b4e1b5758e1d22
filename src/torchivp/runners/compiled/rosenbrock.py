"""The steps of Rosenbrock methods in a compiled loop."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .derivatives import flat, leaves_of
from .jacobians import linearised
from .pure import Pure
from .step import Fixed, Form, Stages, State, slopes, weighted


def rosenbrock_stages(
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
    """The slope at the start and the ``k`` of a step that ends at ``t1`` (see ``RosenbrockTableau``), and its end."""
    tableau: Any = form.tableau
    batch = h.dim()
    gamma = float(tableau.gamma)
    y, size = flat(ys, batch), h.unsqueeze(-1).to(ys[0].dtype)
    matrix, by_time = linearised(form, pure, fixed, held, t1 - h, ys)
    solve = matrix.shifted(gamma * size)
    k: list[Tensor] = []

    def after(weights: tuple[float, ...]) -> Tensor:
        moved = y + size * weighted(weights, k)
        return torch.where(size == 0, y, moved) if rests else moved

    slope = flat(ks, batch)
    for i, (a, coupling, c, d) in enumerate(zip(tableau.a, tableau.coupling, tableau.c, tableau.d)):
        if i:
            stage = after(tuple(map(float, a)))
            slope = flat(slopes(form, pure, fixed, held, t1 + float(c - 1) * h, leaves_of(stage, ys)), batch)
            slope = slope + weighted(tuple(map(float, coupling)), k)
        k.append(solve(gamma * (slope + float(d) * size * by_time)))
    return Stages([ks, *(leaves_of(x, ys) for x in k)], leaves_of(after(tuple(map(float, tableau.b))), ys))
