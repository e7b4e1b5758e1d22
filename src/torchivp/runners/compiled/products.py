"""Products with small matrices as sums of products, which a compiler fuses with what is around them."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

_SHORT = 8  # terms that inductor writes out instead of looping over them
_FEW, _ROWS = 4_096, 4  # entries of a matrix, and rows before it: below, calling a library costs more than the product


def is_small(x: Tensor, matrix: Tensor, terms: int) -> bool:
    """Whether ``x`` times the matrix is better written out."""
    if x.dtype.itemsize < 4:  # a library adds up in more digits
        return False
    if terms <= _SHORT:
        return True
    return matrix.numel() <= _FEW and x.numel() <= _ROWS * terms


def product(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b``."""
    if a.dim() == 0 or b.dim() != 2 or not is_small(a, b, b.shape[0]):
        return a @ b
    return (a.unsqueeze(-1) * b).sum(-2)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x @ weight.T + bias``."""
    if not is_small(x, weight, weight.shape[1]):
        return torch.nn.functional.linear(x, weight, bias)
    y = (x.unsqueeze(-2) * weight).sum(-1)
    return y if bias is None else y + bias


def added_product(bias: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """``bias + a @ b``."""
    return bias + product(a, b) if is_small(a, b, b.shape[0]) else torch.addmm(bias, a, b)


_REPLACED: dict[Any, Callable[..., Tensor]] = {
    operator.matmul: product,
    torch.matmul: product,
    torch.mm: product,
    torch._C._nn.linear: linear,
    torch.nn.functional.linear: linear,
    torch.ops.aten.mm.default: product,
    torch.ops.aten.addmm.default: added_product,
}


def as_sums(graph: fx.GraphModule) -> fx.GraphModule:
    """The same graph with small products written as sums."""
    graph = fx.GraphModule(graph, copy.deepcopy(graph.graph))
    for node in graph.graph.nodes:
        if node.op == "call_function" and node.target in _REPLACED:
            node.target = _REPLACED[node.target]
        if node.op == "call_method" and node.target in ("matmul", "mm"):
            node.op, node.target = "call_function", product
    graph.recompile()
    return graph
