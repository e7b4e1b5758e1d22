"""The steps of Rosenbrock methods in a compiled loop: Jacobian, linear systems, stages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .derivatives import derivative_of, flat
from .pure import Pure
from .step import Fixed, Form, Stages, State, limited, slopes, weighted, wide

_SMALL = 16  # numbers up to which a matrix is inverted in the loop: a call of a library costs more


def rosenbrock_stages(
    form: Form, pure: Pure, fixed: Fixed, held: State, t1: Tensor, h: Tensor, ys: State, ks: State, rests: bool = False
) -> Stages:
    """The slope at the start and the ``k`` of a step that ends at ``t1`` (see ``RosenbrockTableau``), and its end."""
    tableau: Any = form.tableau
    batch = h.dim()
    gamma = float(tableau.gamma)
    y, size = flat(ys, batch), h.unsqueeze(-1).to(ys[0].dtype)
    jacobian, by_time = derivatives(form, pure, fixed, held, t1 - h, ys)
    solve = solver(torch.eye(y.shape[-1], dtype=y.dtype, device=y.device) - gamma * size.unsqueeze(-1) * jacobian)
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


def leaves_of(line: Tensor, like: State) -> tuple[Tensor, ...]:
    """The tensors of a state from its numbers in a line."""
    batch = line.dim() - 1
    widths = [x[(0,) * batch].numel() for x in like]
    return tuple(part.reshape(x.shape) for part, x in zip(line.split(widths, -1), like))


def derivatives(form: Form, pure: Pure, fixed: Fixed, held: State, t: Tensor, ys: State) -> tuple[Tensor, Tensor]:
    """The Jacobian ``[*batch, n, n]`` and the derivative by the time ``[*batch, n]``, as the library counts it."""
    t = limited(fixed, t)
    t = (t * fixed.sign if form.turned else t).to(form.time_dtype)
    inside = [y.to(dtype) for y, dtype in zip(ys, form.dtypes)]
    out = derivative_of(pure, t, inside, held)(t, *inside, *held)
    n = len(out) // 2
    jacobian, by_time = torch.stack(out[:n], -2).to(ys[0].dtype), torch.stack(out[n:], -1).to(ys[0].dtype)
    return (jacobian * wide(fixed.sign, jacobian) if form.turned else jacobian), by_time


def solver(matrix: Tensor) -> Callable[[Tensor], Tensor]:
    """``solve(b)`` is x with ``matrix x = b``, for ``[*batch, n, n]`` and ``[*batch, n]``."""
    if matrix.shape[-1] <= _SMALL:
        inverted = inverse(matrix)
        return lambda b: (inverted * b.unsqueeze(-2)).sum(-1)
    factors, pivots, _ = torch.linalg.lu_factor_ex(matrix)
    return lambda b: torch.linalg.lu_solve(factors, pivots, b.unsqueeze(-1)).squeeze(-1)


def inverse(matrix: Tensor) -> Tensor:
    """Of small matrices ``[*batch, n, n]``, by Gauss and Jordan with pivots from the column; nan or inf where there is none."""
    n = matrix.shape[-1]
    rows = torch.arange(n, device=matrix.device)
    unit = torch.eye(n, dtype=matrix.dtype, device=matrix.device).expand(matrix.shape)
    both = torch.cat((matrix, unit), -1)
    for k in range(n):
        pivot = (both[..., k:, k].abs().argmax(-1) + k).unsqueeze(-1)
        order = torch.where(rows == k, pivot, torch.where(rows == pivot, k, rows))
        both = both.gather(-2, order.unsqueeze(-1).expand(both.shape))
        line = both[..., k : k + 1, :] / both[..., k : k + 1, k : k + 1]
        both = torch.where((rows == k).unsqueeze(-1), line, both - both[..., :, k : k + 1] * line)
    return both[..., n:]
