"""States taken apart into their columns, where ``f`` does so itself (``x, v = y.unbind(-1)`` ... ``torch.stack((v, a), -1)``): a
whole step then is one pass over numbers that lie side by side, without a buffer for any slope."""

from __future__ import annotations

import copy
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from ...state import Layout
from .places import Place

_MOST = 16  # columns


class Leaves(NamedTuple):
    """How the tensors of a compiled loop lie in a row of numbers.

    Attributes:
        columns: into how many columns each tensor of the state is taken apart; 0: it stays whole.
    """

    layout: Layout
    columns: tuple[int, ...]

    @classmethod
    def whole(cls, layout: Layout) -> Leaves:
        """The tensors of the state themselves."""
        return cls(layout, (0,) * len(layout.shapes))

    def of(self, rows: Tensor, lead: int = 0) -> tuple[Tensor, ...]:
        """The tensors ``[*lead, *batch, ...]`` of states ``[*lead, B, D]`` (or ``[1, B * D]``), in working precision."""
        layout = self.layout
        before = rows.shape[:lead]
        parts = rows.detach().reshape(*before, layout.rows, layout.width).split(layout.widths, dim=-1)
        leaves: list[Tensor] = []
        for part, shape, columns in zip(parts, layout.shapes, self.columns):
            whole = part.reshape((*before, *shape))
            leaves += whole.unbind(-1) if columns else [whole]
        if len(leaves) > 1:  # no two inputs of a compiled loop may share memory
            return tuple(x.clone(memory_format=torch.contiguous_format) for x in leaves)
        return tuple(x.contiguous() for x in leaves)

    def rows(self, leaves: Sequence[Tensor], lead: int = 0) -> Tensor:
        """States ``[*lead, B, D]`` from their tensors."""
        layout, rest = self.layout, list(leaves)
        parts = []
        for width, columns in zip(layout.widths, self.columns):
            whole = torch.stack(rest[:columns], -1) if columns else rest[0]
            rest = rest[max(1, columns) :]
            parts.append(whole.reshape(*whole.shape[:lead], layout.rows, width).to(layout.dtype))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)

    def each(self, things: Sequence[Any]) -> tuple[Any, ...]:
        """For every tensor of the loop what belongs to its tensor of the state."""
        return tuple(x for x, columns in zip(things, self.columns) for _ in range(max(1, columns)))


class Apart(NamedTuple):
    """A graph that takes and gives columns, and where its arguments and results come from (see ``Pure``)."""

    graph: fx.GraphModule
    arguments: tuple[Place, ...]
    results: tuple[Place, ...]
    columns: tuple[int, ...]


def taken_apart(
    graph: fx.GraphModule, arguments: Sequence[Place], results: Sequence[Place], shapes: Sequence[torch.Size]
) -> Apart | None:
    """The graph in columns; None where it does not take any tensor of the state apart."""
    graph = fx.GraphModule(graph, copy.deepcopy(graph.graph))
    places = [node for node in graph.graph.nodes if node.op == "placeholder"]
    (end,) = (node for node in graph.graph.nodes if node.op == "output")
    outputs: Any = end.args[0]
    states = {place.i: node for node, place in zip(places, arguments) if place.kind == "y"}
    widths = apart(states, outputs, results, shapes)
    if not any(i in states for i in widths):
        return None
    taken = {i: columns_of(states[i], len(shapes[i]), n) for i, n in widths.items() if i in states}
    stacks = {i: stacked(outputs[results[i].i], len(shapes[i])) or [] for i in widths if results[i].kind == "out"}
    columns = tuple(widths.get(i, 0) for i in range(len(shapes)))
    first = [sum(max(1, n) for n in columns[:i]) for i in range(len(shapes))]
    end.args = (
        tuple(x for i, r in enumerate(results) for x in stacks.get(i, [outputs[r.i]] if r.kind == "out" else [])),
    )
    graph.graph.eliminate_dead_code()
    for inside in taken.values():
        graph.graph.erase_node(inside[0].meta["whole"])
    graph.recompile()
    new_results, at = [], 0
    for i, r in enumerate(results):
        out = r.kind == "out"
        for c in range(max(1, columns[i])):
            new_results.append(Place("out", at) if out else r._replace(i=first[r.i] + c) if r.kind == "y" else r)
            at += out
    return Apart(graph, tuple(moved(arguments, columns, first, shapes)), tuple(new_results), columns)


def moved(
    arguments: Sequence[Place], columns: Sequence[int], first: Sequence[int], shapes: Sequence[torch.Size]
) -> list[Place]:
    """Where the arguments come from, once tensors of the state are ``columns``, of which theirs begin at ``first``."""
    out: list[Place] = []
    for place in arguments:
        if place.kind == "y":
            out += [Place("y", first[place.i] + c) for c in range(max(1, columns[place.i]))]
        elif place.kind == "size" and columns[place.i] and place.axis == len(shapes[place.i]) - 1:
            out.append(Place("number", columns[place.i]))
        elif place.kind == "size":
            out.append(place._replace(i=first[place.i]))
        else:
            out.append(place)
    return out


def stacked(node: Any, dims: int) -> list[fx.Node] | None:
    """The columns that this node stacks, if it does."""
    if not isinstance(node, fx.Node) or node.op != "call_function" or node.target is not torch.stack:
        return None
    axis = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0)
    parts = node.args[0] if node.args else ()
    whole = axis in (-1, dims - 1) and isinstance(parts, list | tuple) and all(isinstance(x, fx.Node) for x in parts)
    return list(parts) if whole else None  # type: ignore[arg-type]


def apart(
    states: dict[int, fx.Node], outputs: Any, results: Sequence[Place], shapes: Sequence[torch.Size]
) -> dict[int, int]:
    """How many columns each tensor has that is taken apart: nothing but columns is asked of it, and its slope is put together
    from columns, or is another such tensor (``x' = v``), which then is taken apart, too."""

    def may_be(i: int) -> bool:
        shape, result = shapes[i], results[i]
        if not shape or not 0 < shape[-1] <= _MOST or (i in states and columns_asked(states[i], len(shape)) is None):
            return False
        stack = stacked(outputs[result.i], len(shape)) if result.kind == "out" else None
        return shapes[result.i] == shape if result.kind == "y" else stack is not None and len(stack) == shape[-1]

    found = {i for i, _ in enumerate(zip(shapes, results)) if may_be(i)}
    others = [(i, result.i) for i, result in enumerate(results) if result.kind == "y"]
    while True:
        alone = {i for pair in others for i in pair if not found.issuperset(pair)} & found
        if not alone:
            return {i: shapes[i][-1] for i in sorted(found)}
        found -= alone


def columns_asked(state: fx.Node, dims: int) -> list[tuple[fx.Node, int]] | None:
    """The columns of a state that are asked for, with their numbers; None where something else is."""
    asked: list[tuple[fx.Node, int]] = []
    for user in state.users:
        if user.target in ("unbind", torch.unbind):
            axis = user.kwargs.get("dim", user.args[1] if len(user.args) > 1 else 0)
            if axis not in (-1, dims - 1) or any(x.target is not operator.getitem for x in user.users):
                return None
            asked += [(x, x.args[1]) for x in user.users]  # type: ignore[misc]
            continue
        index = user.args[1] if user.target is operator.getitem and user.args[0] is state else None
        column = column_at(index, dims)
        if column is None:
            return None
        asked.append((user, column))
    return asked


def columns_of(state: fx.Node, dims: int, n: int) -> list[fx.Node]:
    """New placeholders for the columns of a state."""
    graph, new = state.graph, []
    asked = columns_asked(state, dims) or []
    with graph.inserting_before(state):
        for c in range(n):
            node = graph.placeholder(f"{state.name}_{c}")
            node.meta["whole"] = state
            new.append(node)
    for node, column in asked:
        node.replace_all_uses_with(new[column])
        graph.erase_node(node)
    for user in list(state.users):  # unbind, of which nobody asks for anything now
        graph.erase_node(user)
    return new


def column_at(index: Any, dims: int) -> int | None:
    """The column that ``y[index]`` is, for ``y`` with so many axes."""
    parts = index if isinstance(index, tuple) else (index,)
    *before, last = parts
    if not isinstance(last, int) or isinstance(last, bool):
        return None
    whole = [x for x in before if x is not Ellipsis]
    if any(x != slice(None) for x in whole) or (len(whole) == len(before) != dims - 1):
        return None
    return last
