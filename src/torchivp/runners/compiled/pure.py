"""The user's ``f`` as a pure function of tensors: what it closes over becomes an argument."""

from __future__ import annotations

import copy
import types
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from ..._types import PyTree
from ...errors import InputError
from ...state import flatten
from .products import as_sums


class Place(NamedTuple):
    """Where an argument or a result of the traced graph comes from.

    Attributes:
        kind: ``t``, ``y`` (number ``i`` of the state's tensors), ``size`` (axis ``axis`` of it), ``held`` (number ``i`` of the
            tensors that ``f`` closes over or gets as args), or ``out`` (number ``i`` of what the graph computes).
    """

    kind: str
    i: int = 0
    axis: int = 0

    def pick(self, t: Tensor, ys: Sequence[Tensor], held: Sequence[Tensor], out: Sequence[Tensor] = ()) -> Any:
        if self.kind == "t":
            return t
        if self.kind == "size":
            return ys[self.i].shape[self.axis]
        return {"y": ys, "held": held, "out": out}[self.kind][self.i]


class Pure:
    """``pure(t, ys, held)`` is the tuple of slopes that ``f`` gives for the state of tensors ``ys``.

    Args:
        graph: what torch.compile saw of ``f``.
        arguments: where its arguments come from; ``results``: where the slopes come from.
    """

    def __init__(self, graph: fx.GraphModule, arguments: tuple[Place, ...], results: tuple[Place, ...]):
        self.graph, self.written = as_sums(graph), graph
        self.arguments, self.results = arguments, results
        self.programs: dict[Any, Any] = {}

    def __call__(self, t: Tensor, ys: Sequence[Tensor], held: Sequence[Tensor]) -> tuple[Tensor, ...]:
        out = self.graph(*[place.pick(t, ys, held) for place in self.arguments])
        return tuple(place.pick(t, ys, held, out) for place in self.results)

    def as_written(self) -> Pure:
        """The same with the operations that ``f`` itself calls, for loops that no compiler fuses."""
        other = copy.copy(self)
        other.graph = self.written
        return other


class Seen(NamedTuple):
    """What one call showed: ``f`` as a pure function, the tensors it holds now, and its slopes."""

    pure: Pure
    held: list[Tensor]
    slopes: list[Tensor]


class Tracer:
    """Traces ``f``; again only where what it depends on besides tensors has changed (a number it closes over, a mode).

    Args:
        f: ``f(t, y)`` or ``f(t, y, args)``.
    """

    def __init__(self) -> None:
        self.known: dict[tuple[int, tuple[Place, ...], tuple[Place, ...]], Pure] = {}
        self.graphs: list[fx.GraphModule] = []
        self.last: tuple[int, Sequence[Any], Sequence[Any]] = (0, (), ())
        # code of its own: torch counts recompilations by it
        own = types.FunctionType(_call.__code__.replace(co_name=f"f_of_an_ode_{next(_number)}"), _call.__globals__)
        self.traced = torch.compile(own, backend=self._backend, fullgraph=True)

    def _backend(self, graph: fx.GraphModule, example: list[Any]) -> Callable[..., Any]:
        tensors, used = tensors_alone(graph)
        number = self._number_of(tensors)

        def run(*inputs: Any) -> Any:
            out = graph.forward(*inputs)
            given = [x for x, wanted in zip(inputs, used) if wanted]
            self.last = (number, given, [x for x in out if isinstance(x, Tensor)])
            return out

        return run

    def _number_of(self, graph: fx.GraphModule) -> int:
        """The number of this graph; that of an equal one where torch traced again for what the graph does not use."""
        plain = not any(node.op in ("get_attr", "call_module") for node in graph.graph.nodes)
        for number, other in enumerate(self.graphs):
            if plain and other.code == graph.code:
                return number
        self.graphs.append(graph)
        return len(self.graphs) - 1

    def __call__(self, f: Callable[..., Any], t: Tensor, y: PyTree, args: tuple[PyTree, ...]) -> Seen:
        """Evaluate ``f`` once, and say what it is."""
        ys = flatten(y)[0]
        self.last = (-1, (), ())
        with tracing():
            slopes = flatten(self.traced(f, t, y, args))[0]
        number, inputs, out = self.last
        held: list[Tensor] = []
        arguments = tuple(self._argument(number, n, x, t, ys, held) for n, x in enumerate(inputs))
        results = tuple(_result(x, t, ys, held, out) for x in slopes)
        if number < 0:  # f computes nothing
            self.graphs.append(fx.symbolic_trace(_nothing))
            number = len(self.graphs) - 1
        key = (number, arguments, results)
        if key not in self.known:
            self.known[key] = Pure(self.graphs[number], arguments, results)
        return Seen(self.known[key], held, slopes)

    def _argument(self, number: int, n: int, x: Any, t: Tensor, ys: list[Tensor], held: list[Tensor]) -> Place:
        if isinstance(x, Tensor):
            return _found(x, t, ys) or _kept(x, held)
        nodes = [node for node in self.graphs[number].graph.nodes if node.op == "placeholder"]
        symbol = nodes[n].meta["example_value"]
        for node, given in zip(nodes, self.last[1]):
            place = _found(given, t, ys) if isinstance(given, Tensor) else None
            if place is not None and place.kind == "y":
                for axis, size in enumerate(node.meta["example_value"].shape):
                    if isinstance(size, torch.SymInt) and size.node.expr == symbol.node.expr:
                        return Place("size", place.i, axis)
        raise InputError(f"f closes over the number {x}, which changes from call to call. Hand it over as a tensor in args.")


def tensors_alone(graph: fx.GraphModule) -> tuple[fx.GraphModule, list[bool]]:
    """The graph without the numbers that it computes (counters of calls) and without arguments that only these need; and which
    arguments are left."""
    tensors = fx.GraphModule(graph, copy.deepcopy(graph.graph))
    nodes = tensors.graph
    (results,) = nodes.output_node().args
    nodes.output_node().args = (tuple(x for x in results if isinstance(x.meta.get("example_value"), Tensor)),)
    nodes.eliminate_dead_code(is_impure_node=_has_effects)
    used = []
    for node in [node for node in nodes.nodes if node.op == "placeholder"]:
        used.append(bool(node.users) or isinstance(node.meta["example_value"], Tensor))
        if not used[-1]:
            nodes.erase_node(node)
    tensors.recompile()
    return tensors, used


def _has_effects(node: fx.Node) -> bool:
    """Operations on tensors may write in place; fx knows that of few."""
    return bool(node.is_impure()) or isinstance(node.meta.get("example_value"), Tensor)


_call = lambda f, t, y, args: f(t, y, *args)  # no def: run-time type checks would wrap it, and be traced


def _nothing() -> tuple[()]:
    return ()


def _found(x: Tensor, t: Tensor, ys: Sequence[Tensor]) -> Place | None:
    if x is t:
        return Place("t")
    return next((Place("y", i) for i, y in enumerate(ys) if x is y), None)


def _kept(x: Tensor, held: list[Tensor]) -> Place:
    for i, y in enumerate(held):
        if x is y:
            return Place("held", i)
    held.append(x)
    return Place("held", len(held) - 1)


def _result(x: Any, t: Tensor, ys: list[Tensor], held: list[Tensor], out: Sequence[Any]) -> Place:
    for i, y in enumerate(out):
        if x is y:
            return Place("out", i)
    return _found(x, t, ys) or _kept(torch.as_tensor(x), held)


@contextmanager
def tracing() -> Iterator[None]:
    """Numbers that ``f`` closes over are constants (counters of its calls excepted), and many functions may share code."""
    import torch._dynamo.config as config

    with config.patch(specialize_float=True, allow_unspec_int_on_nn_module=True, recompile_limit=64):  # type: ignore[attr-defined]
        yield


_number = count(1)
_tracers: weakref.WeakKeyDictionary[Any, Tracer] = weakref.WeakKeyDictionary()


def tracer_of(f: Callable[..., Any]) -> Tracer:
    """The tracer of this function: one for all functions with the same code, and one for each module."""
    owner = f if isinstance(f, nn.Module) else getattr(f, "__func__", f)
    owner = getattr(owner, "__code__", owner)
    if owner not in _tracers:
        _tracers[owner] = Tracer()
    return _tracers[owner]
