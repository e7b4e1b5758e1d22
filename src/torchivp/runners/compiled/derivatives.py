"""The Jacobian of a traced ``f`` as a graph of its own: torch.func does not go with a loop that writes down its steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.fx.experimental._config as symbols
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from .pure import Pure


def derivative_of(
    pure: Pure, t: Tensor, ys: Sequence[Tensor], held: Sequence[Tensor], band: tuple[int, int] | None = None
) -> Any:
    """``graph(t, *ys, *held)``: the rows of the Jacobian, a tensor ``[*batch, n]`` for each number of the state (of a band
    their sums by colour, see ``BandMatrix``), and at last the derivative by the time, ``[*batch, n]``. Made once for every
    kind of arguments.

    Args:
        t: ``[*batch]``; ``ys``: ``[*batch, ...]``; as ``f`` sees them.
        band: how many diagonals there are below and above the main one; None: any entry may be there.
    """
    key = ("derivative", band, t.dim(), tuple((y.dtype, y.shape[t.dim() :]) for y in ys))
    if key not in pure.programs:
        mode: Any = "symbolic" if t.dim() else "real"
        widths = [y[(0,) * t.dim()].numel() for y in ys]  # these are numbers, also where sizes are symbols
        config: Any = symbols
        with torch.enable_grad(), config.patch(use_duck_shape=False):  # a batch may be as large as a state by chance
            graph = make_fx(_rows_of(pure, widths, band), tracing_mode=mode)(t, *ys, *(x.detach() for x in held))
        graph.graph.eliminate_dead_code()
        graph.recompile()
        pure.programs[key] = graph
    return pure.programs[key]


def _rows_of(pure: Pure, widths: list[int], band: tuple[int, int] | None) -> Any:
    groups = sum(widths) if band is None else sum(band) + 1

    def rows(t: Tensor, *tensors: Tensor) -> list[Tensor]:
        ys, held, batch = tensors[: len(widths)], tensors[len(widths) :], t.dim()
        slopes, vjp = torch.func.vjp(lambda t, ys: tuple(pure(t, ys, held)), t, ys)[:2]
        by_state = [flat(vjp(seed)[1], batch) for seed in seeds(ys, widths, batch, groups)]
        # what the products with cotangents say of the time is linear in these: so its derivative by them is that by the time
        by_time = torch.func.vjp(lambda *seed: vjp(seed)[0], *(torch.zeros_like(k) for k in slopes))[1](
            torch.ones_like(t)
        )
        return [*by_state, flat(by_time, batch)]

    return rows


def seeds(ys: Sequence[Tensor], widths: list[int], batch: int, groups: int) -> list[tuple[Tensor, ...]]:
    """The numbers of a state lie in so many groups in turn: for each the tensors that are 1 there and 0 elsewhere, in every
    row."""
    out = []
    for group in range(groups):
        parts, first = [], 0
        for y, width in zip(ys, widths):
            if width == 1:  # constants, which the compiler folds
                parts.append(torch.full_like(y, float(first % groups == group)))
            else:
                here = torch.arange(first, first + width, device=y.device) % groups == group
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
