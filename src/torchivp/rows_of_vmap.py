"""The rows of ``torch.func.vmap``, in sight and out of sight again.

Under vmap a tensor shows one row, as the user's function is written for. A loop that steps every row with a step size of
its own needs them all: ``expose`` lays them out along a leading axis, ``hide`` turns such an axis into the rows of vmap
again. Both can be differentiated, in both modes, to any order and in any nesting; each is the derivative of the other.

Whatever is differentiated has to come in through ``expose``, also what all rows share: a shared tensor that is mixed with
exposed rows as it is would get, inside ``vmap(grad(...))``, the sum over all rows instead of each row's own gradient.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

_functorch = torch._C._functorch


def expose(x: Tensor, like: Tensor) -> Shaped[Tensor, "B ..."]:
    """The rows of ``x`` along a new first axis, those of the outermost vmap slowest; ``x`` repeated where it has no rows.

    ``like`` decides the levels of vmap: those it has rows at, whatever its shape. Where only ``x`` has rows they stay
    hidden: vmap over tangents or cotangents, as in ``jacfwd`` and ``jacrev``, is not a matter of the loop. Without vmap
    there is one row. The result is contiguous and shares no memory with ``x``.
    """
    x, like = _functorch.unwrap_if_dead(x), _functorch.unwrap_if_dead(like)
    levels = _levels(like)
    if levels is None or not _levels_of(x).keys() <= levels.keys():
        return _Expose.apply(x, like.detach())
    for level, size in levels.items():
        x = _functorch._remove_batch_dim(x, level, size, 0)
    return x.clone(memory_format=torch.contiguous_format).view(math.prod(levels.values()), *x.shape[len(levels) :])


def hide(rows: Shaped[Tensor, "B ..."], like: Tensor) -> Tensor:
    """The inverse of ``expose``: a tensor that stands for one row, at the levels of vmap that ``like`` has rows at."""
    rows, like = _functorch.unwrap_if_dead(rows), _functorch.unwrap_if_dead(like)
    levels = _levels(like)
    if levels is None or _levels_of(rows):
        return _Hide.apply(rows, like.detach())
    outermost_first = list(reversed(levels.items()))
    x = rows.reshape((*(size for _, size in outermost_first), *rows.shape[1:]))
    for level, _ in outermost_first:
        x = _functorch._add_batch_dim(x, 0, level)
    return x


def row_count(like: Tensor) -> int:
    """B: how many rows ``like`` has at all levels of vmap together; 1 without vmap."""
    return expose(torch.zeros((), device="cpu"), like).shape[0]


def _levels(like: Tensor) -> dict[int, int] | None:
    """The levels of vmap that ``like`` has rows at with their sizes, innermost first; None if they cannot be told.

    They can where no derivative is taken inside a vmap. Then all that is to be done is to unwrap and wrap tensors as vmap
    does it itself, which takes microseconds; an ``autograd.Function`` takes hundreds of them for the same.
    """
    is_vmap = [level.key() == _functorch.TransformType.Vmap for level in _functorch.get_interpreter_stack() or []]
    return _levels_of(like) if is_vmap == sorted(is_vmap) else None


def _levels_of(x: Tensor) -> dict[int, int]:
    levels = {}
    while _functorch.is_batchedtensor(x):
        inside = _functorch.get_unwrapped(x)
        levels[_functorch.maybe_get_level(x)] = inside.shape[_functorch.maybe_get_bdim(x)]
        x = inside
    return levels


class _OfRows(torch.autograd.Function):
    """What the two have in common: they are linear in the first argument, and know from the second where rows are.

    Each level of vmap is peeled off by ``vmap``, the innermost first; ``forward`` finds none left. It copies, because
    forward mode asks of a view that its tangent be a view of the tangent.
    """

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])
        ctx.save_for_forward(inputs[1])


class _Expose(_OfRows):
    @staticmethod
    def forward(x: Tensor, like: Tensor) -> Tensor:
        return x.unsqueeze(0).clone(memory_format=torch.contiguous_format)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return hide(grad, *ctx.saved_tensors), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, of_like: Any) -> Tensor:
        return expose(tangent, *ctx.saved_tensors)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, Any], x: Tensor, like: Tensor) -> tuple[Tensor, int | None]:
        x = x.expand(info.batch_size, *x.shape) if in_dims[0] is None else x.movedim(in_dims[0], 0)
        rows = _Expose.apply(x, like)
        return (rows, 1) if in_dims[1] is None else (rows.flatten(0, 1), None)


class _Hide(_OfRows):
    @staticmethod
    def forward(rows: Tensor, like: Tensor) -> Tensor:
        return rows.clone(memory_format=torch.contiguous_format).view(rows.shape[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return expose(grad, *ctx.saved_tensors), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, of_like: Any) -> Tensor:
        return hide(tangent, *ctx.saved_tensors)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, Any], rows: Tensor, like: Tensor) -> tuple[Tensor, int]:
        dim, dim_like = in_dims
        if dim_like is None:
            return _Hide.apply(rows.movedim(dim, 1), like), 0
        if dim is not None:
            raise RuntimeError(
                "Rows were mixed with a tensor that hides its own at the same vmap; expose that one first."
            )
        outer = rows.shape[0] // max(info.batch_size, 1)
        return _Hide.apply(rows.unflatten(0, (outer, info.batch_size)), like), 0
