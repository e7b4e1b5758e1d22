"""Walks over the graph that autograd has recorded."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from torch import Tensor

Edge = tuple[Any, int]
"""A place in a graph: a node (TorchScript's are no ``autograd.graph.Node``) and the number of its output."""


def graph(outputs: Iterable[Tensor], known: Iterable[Tensor] = ()) -> set[Edge]:
    """The edges of the graph of ``outputs`` down to the ``known`` tensors (which are left out)."""
    stop = {edge_of(t) for t in known if t.grad_fn is not None}
    edges: set[Edge] = set()
    todo = [edge_of(o) for o in outputs]
    while todo:
        edge = todo.pop()
        if edge[0] is None or edge in edges or edge in stop:
            continue
        edges.add(edge)
        todo.extend(edge[0].next_functions)
    return edges


def leaves(edges: Iterable[Edge]) -> list[Tensor]:
    """The leaf tensors that require grad at the ends of a graph."""
    return [node.variable for node, _ in edges if hasattr(node, "variable")]


def unseen(outputs: Iterable[Tensor], known: Iterable[Tensor]) -> list[Tensor]:
    """The leaves requiring grad that one reaches from ``outputs`` without passing a ``known`` tensor."""
    known = list(known)  # a walk of its own, by nodes: it is taken for every step
    seen = {id(t) for t in known}
    stop = {edge_of(t) for t in known if t.grad_fn is not None}
    nodes: set[Any] = set()
    found: list[Tensor] = []
    todo = [edge_of(o) for o in outputs]
    while todo:
        edge = todo.pop()
        node = edge[0]
        if node is None or node in nodes or edge in stop:
            continue
        nodes.add(node)
        following = node.next_functions
        if following:
            todo.extend(following)
        elif hasattr(node, "variable") and id(node.variable) not in seen:
            found.append(node.variable)
    return found


def edge_of(x: Tensor) -> Any:
    return x.grad_fn, x.output_nr


def nodes_between(outputs: Iterable[Tensor], known: Iterable[Tensor]) -> set[Any]:
    """The nodes of the graph of ``outputs`` down to the ``known`` tensors."""
    return {node for node, _ in graph(outputs, known)}


def bytes_held(outputs: Iterable[Tensor], known: Iterable[Tensor]) -> int:
    """About how many bytes the graph of ``outputs`` holds, down to the ``known`` tensors: those of all values computed in it.
    (TorchScript and custom functions may hold more.)"""
    nodes = nodes_between(outputs, known)
    return sum(math.prod(x.shape) * x.dtype.itemsize for node in nodes for x in getattr(node, "_input_metadata", ()))
