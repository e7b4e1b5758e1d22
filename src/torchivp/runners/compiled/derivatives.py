"""The Jacobian of a traced ``f`` as a graph of its own: torch.func does not go with a loop that writes down its steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.fx.experimental._config as symbols
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from .pure import Pure


class Products(NamedTuple):
    """Products of the Jacobian with vectors that are 1 in a group of numbers and 0 elsewhere.

    Attributes:
        groups: how many there are; None: every number is one.
        colours: place among the held tensors of the group of each number; None: they lie in the groups in turn.
        tangents: ``J v`` instead of ``v J``.
    """

    groups: int | None = None
    colours: int | None = None
    tangents: bool = False


def derivative_of(pure: Pure, t: Tensor, ys: Sequence[Tensor], held: Sequence[Tensor], products: Products) -> Any:
    """``graph(t, *ys, *held)``: the products with the Jacobian, ``[*batch, n]``, and at last the derivative by the time,
    ``[*batch, n]``. Made once for every kind of arguments.

    Args:
        t: ``[*batch]``; ``ys``: ``[*batch, ...]``; as ``f`` sees them.
        products: which ones.
    """
    key = ("derivative", products, len(held), t.dim(), tuple((y.dtype, y.shape[t.dim() :]) for y in ys))
    if key not in pure.programs:
        mode: Any = "symbolic" if t.dim() else "real"
        widths = [y[(0,) * t.dim()].numel() for y in ys]  # these are numbers, also where sizes are symbols
        config: Any = symbols
        with torch.enable_grad(), config.patch(use_duck_shape=False):  # a batch may be as large as a state by chance
            graph = make_fx(_rows_of(pure, widths, products), tracing_mode=mode)(t, *ys, *(x.detach() for x in held))
        graph.graph.eliminate_dead_code()
        graph.recompile()
        pure.programs[key] = graph
    return pure.programs[key]


def _rows_of(pure: Pure, widths: list[int], products: Products) -> Any:
    groups = sum(widths) if products.groups is None else products.groups

    def rows(t: Tensor, *tensors: Tensor) -> list[Tensor]:
        ys, held, batch = tensors[: len(widths)], tensors[len(widths) :], t.dim()
        slopes, vjp = torch.func.vjp(lambda t, ys: tuple(pure(t, ys, held)), t, ys)[:2]
        # a product with a cotangent is linear in it: so its derivative by the cotangent is a product with a tangent
        none = [torch.zeros_like(k) for k in slopes]
        by_time = torch.func.vjp(lambda *seed: vjp(seed)[0], *none)[1](torch.ones_like(t))
        product = (
            (lambda seed: vjp(seed)[1])
            if not products.tangents
            else torch.func.vjp(lambda *seed: tuple(vjp(seed)[1]), *none)[1]
        )
        colours = None if products.colours is None else held[products.colours]
        by_state = [flat(product(seed), batch) for seed in seeds(ys, widths, batch, groups, colours)]
        return [*by_state, flat(by_time, batch)]

    return rows


def seeds(
    ys: Sequence[Tensor], widths: list[int], batch: int, groups: int, colours: Tensor | None
) -> list[tuple[Tensor, ...]]:
    """For each group of the numbers of a state the tensors that are 1 there and 0 elsewhere, in every row.

    Args:
        colours: group of each number; None: they lie in the groups in turn.
    """
    out = []
    for group in range(groups):
        parts, first = [], 0
        for y, width in zip(ys, widths):
            if width == 1 and colours is None:  # constants, which the compiler folds
                parts.append(torch.full_like(y, float(first % groups == group)))
            else:
                turns = torch.arange(first, first + width, device=y.device) % groups
                here = (turns if colours is None else colours[first : first + width]) == group
                line = torch.where(here, 1.0, torch.zeros_like(y).reshape(*y.shape[:batch], -1))
                parts.append(line.to(y.dtype).reshape(y.shape))
            first += width
        out.append(tuple(parts))
    return out


def flat(xs: Sequence[Tensor], batch: int) -> Tensor:
    """All numbers of a row in a line, ``[*batch, n]``."""
    lines = [x.reshape(*x.shape[:batch], -1) for x in xs]
    return lines[0] if len(lines) == 1 else torch.cat(lines, -1)


def leaves_of(line: Tensor, like: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The tensors of a state from its numbers in a line."""
    batch = line.dim() - 1
    widths = [x[(0,) * batch].numel() for x in like]
    return tuple(part.reshape(x.shape) for part, x in zip(line.split(widths, -1), like))
