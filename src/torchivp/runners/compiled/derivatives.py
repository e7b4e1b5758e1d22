"""The Jacobian of a traced ``f`` as a graph of its own: torch.func does not go with a loop that writes down its steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from .pure import Pure


def derivative_of(pure: Pure, t: Tensor, ys: Sequence[Tensor], held: Sequence[Tensor]) -> Any:
    """``graph(t, *ys, *held)``: the rows of the Jacobian, a tensor ``[*batch, n]`` for each number of the state, then the
    derivatives of the slopes by the time, ``[*batch]`` each. Made once for every kind of arguments.

    Args:
        t: ``[*batch]``; ``ys``: ``[*batch, ...]``; as ``f`` sees them.
    """
    key = ("derivative", t.dim(), tuple((y.dtype, y.shape[t.dim() :]) for y in ys))
    if key not in pure.programs:
        mode: Any = "symbolic" if t.dim() else "real"
        with torch.enable_grad():
            graph = make_fx(_rows_of(pure, len(ys)), tracing_mode=mode)(t, *ys, *(x.detach() for x in held))
        for node in list(graph.graph.nodes):
            if node.target is torch.ops.aten.detach.default:  # the derivative depends on the state in its turn
                node.replace_all_uses_with(node.args[0])
                graph.graph.erase_node(node)
        graph.graph.eliminate_dead_code()
        graph.recompile()
        pure.programs[key] = graph
    return pure.programs[key]


def _rows_of(pure: Pure, leaves: int) -> Any:
    def rows(t: Tensor, *tensors: Tensor) -> list[Tensor]:
        ys, held, batch = tensors[:leaves], tensors[leaves:], t.dim()
        vjp = torch.func.vjp(lambda t, ys: tuple(pure(t, ys, held)), t, ys)[1]
        by_state, by_time = [], []
        for seed in seeds(ys, batch):
            at_t, at_ys = vjp(seed)
            by_state.append(flat(at_ys, batch))
            by_time.append(at_t)
        return [*by_state, *by_time]

    return rows


def seeds(ys: Sequence[Tensor], batch: int) -> list[tuple[Tensor, ...]]:
    """For each number of a state the tensors that are 1 there and 0 elsewhere, in every row."""
    out = []
    for i, y in enumerate(ys):
        for j in range(y[(0,) * batch].numel()):
            parts = [torch.zeros_like(x) for x in ys]
            one = parts[i].reshape(*y.shape[:batch], -1)
            here = torch.arange(one.shape[-1], device=y.device) == j
            parts[i] = torch.where(here, 1.0, one).to(y.dtype).reshape(y.shape)
            out.append(tuple(parts))
    return out


def flat(xs: Sequence[Tensor], batch: int) -> Tensor:
    """All numbers of a row in a line, ``[*batch, n]``."""
    lines = [x.reshape(*x.shape[:batch], -1) for x in xs]
    return lines[0] if len(lines) == 1 else torch.cat(lines, -1)
