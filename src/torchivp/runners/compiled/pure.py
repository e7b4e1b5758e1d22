"""The user's ``f`` as a pure function of tensors: what it closes over becomes an argument."""

from __future__ import annotations

import copy
import types
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count, zip_longest
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from ..._types import PyTree
from ...autocast import is_on, without_autocast
from ...errors import NotCompilable
from ...partitioned import TwoParts
from ...randomness import RandomState
from ...state import flatten
from .columns import taken_apart
from .places import Place
from .plain import made_plain
from .products import as_sums

Codes = dict[Any, int]
Raised = tuple[torch.dtype | None, ...]


class Pure:
    """``pure(t, ys, held)`` is the tuple of slopes that ``f`` gives for the state of tensors ``ys``.

    Args:
        graph: what torch.compile saw of ``f``.
        arguments: where its arguments come from; ``results``: where the slopes come from.
        name: of ``f``.
        codes: numbers of the codes of its programs, shared by all that one tracer saw: torch then knows for the programs of one
            what changed in those of another (a batch size).
        shapes: of the state's tensors.

    Attributes:
        programs: compiled, by form.
        in_columns: the same for a state in ``columns`` (see ``Leaves``).
    """

    def __init__(
        self,
        graph: fx.GraphModule,
        arguments: tuple[Place, ...],
        results: tuple[Place, ...],
        name: str,
        codes: Codes,
        shapes: Sequence[torch.Size],
    ):
        self.graph, self.written = as_sums(graph), graph
        self.arguments, self.results = arguments, results
        self.name, self.codes = name, codes
        self.programs: dict[Any, Any] = {}
        self.columns = (0,) * len(shapes)
        apart = taken_apart(self.graph, arguments, results, shapes)
        self.in_columns = self
        if apart is not None:
            self.in_columns = copy.copy(self)
            self.in_columns.graph, self.in_columns.arguments, self.in_columns.results, self.in_columns.columns = apart
            self.in_columns.programs = {}

    def __call__(self, t: Tensor, ys: Sequence[Tensor], held: Sequence[Tensor]) -> tuple[Tensor, ...]:
        out = self.graph(*[place.pick(t, ys, held) for place in self.arguments])
        found = (place.pick(t, ys, held, out) for place in self.results)
        return tuple(x.contiguous() for x in found)  # a loop insists on the strides that it began with

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


def held_too(seen: Seen, tensors: Sequence[Tensor]) -> tuple[tuple[int, ...], Seen]:
    """The places of these tensors among those that ``f`` holds, once they are there, too."""
    held = list(seen.held)
    places = tuple(_kept(x, held).i for x in tensors)
    return places, seen._replace(held=held)


@dataclass(frozen=True)
class Beside:
    """A function that was traced beside ``f``.

    Args:
        pure: the function.
        places: of the tensors that it holds among those that ``f`` holds.
    """

    pure: Pure
    places: tuple[int, ...]

    @classmethod
    def of(cls, other: Seen, seen: Seen) -> tuple[Beside, Seen]:
        """The function ``other``, and ``f`` with what that holds besides."""
        places, seen = held_too(seen, other.held)
        return cls(other.pure, places), seen

    def own(self, held: Sequence[Tensor]) -> list[Tensor]:
        """The tensors that it holds itself."""
        return [held[i] for i in self.places]

    def __call__(self, t: Tensor, ys: Sequence[Tensor], held: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return self.pure(t, ys, self.own(held))


class Tracer:
    """Traces ``f``; again only where what it depends on besides tensors has changed (a number it closes over, a mode).

    Args:
        f: ``f(t, y)`` or ``f(t, y, args)``.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.codes: Codes = {}
        self.known: dict[tuple[str, tuple[Place, ...], tuple[Place, ...]], Pure] = {}
        self.graphs: list[fx.GraphModule] = []
        self.parts: dict[tuple[int, tuple[Place, ...], Raised], Part] = {}
        self.last: tuple[int, Sequence[Any], Sequence[Any]] = (0, (), ())
        self.traces = _TRACES
        self.quiet: set[int] = set()
        self.device = torch.device("cpu")

    def traced(self, *arguments: Any) -> Any:
        """Call ``f`` through torch.compile."""
        if self.traces >= _TRACES:  # code of its own: torch counts recompilations by it, and gives up after some
            own = types.FunctionType(_call.__code__.replace(co_name=f"f_of_an_ode_{next(_number)}"), _call.__globals__)
            self.function, self.traces = torch.compile(own, backend=self._backend, fullgraph=True), 0
        return self.function(*arguments)

    def _backend(self, graph: fx.GraphModule, example: list[Any]) -> Callable[..., Any]:
        self.traces += 1
        number, graph = len(self.graphs), made_plain(graph, is_on(self.device))
        self.graphs.append(graph)

        def run(*inputs: Any) -> Any:
            before = versions(inputs)
            with self.draws_nothing(number), torch.no_grad():
                out = without_autocast(graph.forward)(*inputs)
            if versions(inputs) != before:
                raise NotCompilable(
                    "runner='compiled' cannot compile an f that writes into its tensors (running statistics in training mode, "
                    "a buffer, its own state): it would be asked afresh for every attempted step. Call .eval(), return new "
                    "tensors, or write runner='eager'."
                )
            self.last = (number, inputs, out)
            return out

        return run

    @contextmanager
    def draws_nothing(self, number: int) -> Iterator[None]:
        """Raise where the graph of this number draws random numbers; one that did not once never will."""
        if number in self.quiet:
            yield
            return
        draws = RandomState.now(self.device)
        yield
        if not draws.is_now():
            draws.put_back()
            raise NotCompilable(
                "runner='compiled' cannot compile an f that draws random numbers (dropout in training mode, torch.rand): no two "
                "attempts would see the same f. Call .eval(), draw before the solve and hand the numbers over in args, or write "
                "runner='eager'."
            )
        self.quiet.add(number)

    def __call__(
        self, f: Callable[..., Any], t: Tensor, y: PyTree, args: tuple[PyTree, ...], dtypes: Sequence[torch.dtype] = ()
    ) -> Seen:
        """Evaluate ``f`` once, and say what it is.

        Args:
            dtypes: of the slopes; those with fewer digits are made so.
        """
        ys = flatten(y)[0]
        self.last, self.device = (-1, (), ()), t.device
        with tracing(), torch.enable_grad():
            slopes = flatten(self.traced(f, t, y, args))[0]
        number, inputs, out = self.last
        held: list[Tensor] = []
        results = tuple(_result(x, t, ys, held, out) for x in slopes)
        if number < 0:  # f computes nothing
            self.graphs.append(fx.symbolic_trace(_nothing))
            number = len(self.graphs) - 1
        raised = tuple(raising(x, dtype) for x, dtype in zip(slopes, dtypes))
        slopes = [x if dtype is None else x.to(dtype) for x, dtype in zip_longest(slopes, raised)]
        part = self.parts.get((number, results, raised))
        if part is None:
            part = self.parts[number, results, raised] = part_of(self.graphs[number], results, raised)
        arguments = tuple(self._argument(number, n, inputs[n], t, ys, held) for n in part.inputs)
        self.last = (-1, (), ())  # holds no tensors of the user's
        key = (part.text, arguments, part.results)
        if key not in self.known:
            self.known[key] = Pure(part.graph, arguments, part.results, self.name, self.codes, [y.shape for y in ys])
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
        return Place("number", int(x))


def _has_effects(node: fx.Node) -> bool:
    """Operations on tensors may write in place; fx knows that of few."""
    return bool(node.is_impure()) or isinstance(node.meta.get("example_value"), Tensor)


_call = lambda f, t, y, args: f(t, y, *args)  # no def: run-time type checks would wrap it, and be traced


def _nothing() -> tuple[()]:
    return ()


def versions(tensors: Sequence[Any]) -> list[int]:
    return [x._version for x in tensors if isinstance(x, Tensor) and not x.is_inference()]


class Part(NamedTuple):
    """The part of a graph that the slopes depend on; the rest (a counter in ``f``) would tell solves apart that are the same.

    Attributes:
        inputs: which inputs of the whole it takes.
        results: where the slopes come from, in its own outputs.
        text: equal for graphs that compute the same of tensors of the same kinds.
    """

    graph: fx.GraphModule
    inputs: tuple[int, ...]
    results: tuple[Place, ...]
    text: str


def part_of(graph: fx.GraphModule, results: Sequence[Place], raised: Raised = ()) -> Part:
    """What of the graph these results depend on.

    Args:
        raised: dtypes that results are brought to.
    """
    part = fx.GraphModule(graph, copy.deepcopy(graph.graph))
    wanted = sorted({place.i for place in results if place.kind == "out"})
    (end,) = (node for node in part.graph.nodes if node.op == "output")
    outputs: Any = list(end.args[0])
    for place, dtype in zip(results, raised):
        if place.kind == "out" and dtype is not None:
            with part.graph.inserting_before(end):
                outputs[place.i] = part.graph.call_method("to", (outputs[place.i], dtype))
    end.args = (tuple(outputs[i] for i in wanted),)
    part.graph.eliminate_dead_code(is_impure_node=_has_effects)
    spell_out_transposes(part.graph)
    places = [node for node in part.graph.nodes if node.op == "placeholder"]
    inputs = tuple(n for n, node in enumerate(places) if node.users)
    for node in places:
        if not node.users:
            part.graph.erase_node(node)
    part.recompile()
    kinds = [node.meta.get("example_value") for node in places if not node._erased]
    text = part.code + str([(x.shape, x.dtype, x.device) if isinstance(x, Tensor) else type(x) for x in kinds])
    if any(node.op == "get_attr" for node in part.graph.nodes):
        text += f"{id(graph)}"  # it holds constants that the text does not show
    places_now = tuple(Place("out", wanted.index(p.i)) if p.kind == "out" else p for p in results)
    return Part(part, inputs, places_now, text)


def raising(x: Any, dtype: torch.dtype) -> torch.dtype | None:
    """The dtype that a slope has to be brought to, as plain PyTorch does; None: it need not, or must not."""
    fewer = isinstance(x, Tensor) and x.dtype != dtype and torch.promote_types(x.dtype, dtype) == dtype
    return dtype if fewer else None


def spell_out_transposes(graph: fx.Graph) -> None:
    """``x.T`` as a call: torch takes an attribute out of the loop, once for each time it is asked for, and refuses the copies."""
    for node in list(graph.nodes):
        if node.op == "call_function" and node.target is getattr and node.args[1] in ("T", "mT"):
            dims = node.args[0].meta["example_value"].dim()
            order = list(range(dims))[::-1] if node.args[1] == "T" else [*range(dims - 2), dims - 1, dims - 2]
            with graph.inserting_before(node):
                new = graph.call_function(torch.permute, (node.args[0], order))
            new.meta = dict(node.meta)
            node.replace_all_uses_with(new)
            graph.erase_node(node)


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

    # whole numbers stay open, on modules too: a counter in f would have it traced again for every solve
    wanted = {"specialize_float": True, "allow_unspec_int_on_nn_module": True, "recompile_limit": 64}
    before = {name: getattr(config, name) for name in wanted}
    try:
        for name, value in wanted.items():  # config.patch makes a class each time, which takes longer than a small step
            setattr(config, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(config, name, value)


_TRACES = 48  # of one code
_number = count(1)
_tracers: weakref.WeakKeyDictionary[Any, Tracer] = weakref.WeakKeyDictionary()


def uncounted(f: Callable[..., Any]) -> Callable[..., Any]:
    """The function itself, where ``f`` counts its calls."""
    return getattr(f, "uncounted", f)


def tracer_of(f: Callable[..., Any]) -> Tracer:
    """The tracer of this function."""
    owner = owner_of(f)
    if owner not in _tracers:
        _tracers[owner] = Tracer(name_of(owner))
    return _tracers[owner]


def owner_of(f: Any) -> Any:
    """What stands for ``f`` from solve to solve: its module, or the code that all functions made in one place share."""
    while hasattr(f, "__wrapped__"):
        f = f.__wrapped__
    f = f.made_of() if isinstance(f, TwoParts) else f
    if isinstance(f, nn.Module):
        return f
    bound = getattr(f, "__self__", None)
    if isinstance(bound, nn.Module):
        return bound
    f = getattr(f, "func", f) if isinstance(f, partial) else getattr(f, "__func__", f)
    call = vars(type(f)).get("__call__")
    return getattr(f, "__code__", getattr(call, "__code__", f))


def name_of(owner: Any) -> str:
    return getattr(owner, "co_name", type(owner).__name__)
