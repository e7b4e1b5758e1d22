"""The tensors a function closes over: what a backward pass has to differentiate besides the arguments.

Two ways of looking, because each misses what the other sees: reading the function (modules, closures, partials, globals),
and walking the graph of one evaluation.
"""

from __future__ import annotations

import functools
import inspect
import threading
import types
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from .._types import Time
from ..errors import GradientError
from ..field import Field
from ..span import Span
from .graph import Edge, edge_of, graph, leaves, unseen

_LIMIT = 100_000  # objects looked at; what lies beyond is still caught by ``check_all_seen``
_MODULE_MACHINERY = frozenset(nn.Module().__dict__) - {"_parameters", "_buffers", "_modules"}


def closed_over(f: Any) -> list[Tensor]:
    """The tensors requiring grad that ``f`` holds: parameters and buffers of modules, closure cells, defaults, partials,
    attributes, and the globals its code names; in containers, to any depth."""
    return requiring_grad(reachable(f))


def requiring_grad(objects: Iterable[Any]) -> list[Tensor]:
    return [x for x in objects if isinstance(x, Tensor) and x.requires_grad]


def reachable(f: Any) -> Iterator[Any]:
    """Every object that a function could use, itself first."""
    seen: dict[int, Any] = {}  # with the objects, or the number of one that is gone could come back
    todo = [f]
    while todo and len(seen) < _LIMIT:
        x = todo.pop()
        if id(x) in seen:
            continue
        seen[id(x)] = x
        yield x
        if not isinstance(x, Tensor):
            todo.extend(_parts(x))


def _parts(x: Any) -> Iterator[Any]:
    """What an object is made of, as far as a function could reach it."""
    if isinstance(x, dict):
        yield from x.values()
    elif isinstance(x, list | tuple | set | frozenset):
        yield from x
    elif isinstance(x, functools.partial):
        yield from (x.func, x.args, x.keywords)
    elif isinstance(x, types.MethodType):
        yield from (x.__func__, x.__self__)
    elif isinstance(x, types.FunctionType):
        yield from _parts_of_function(x)
    elif isinstance(x, nn.Module):
        yield from (value for name, value in x.__dict__.items() if name not in _MODULE_MACHINERY)
        yield inspect.getattr_static(type(x), "forward", None)  # a TorchScript module has none, and says so by raising
    elif isinstance(x, types.ModuleType | type | threading.local) or _is_library_object(x):
        return
    else:
        yield from (getattr(x, "__dict__", {}), vars(type(x)).get("__call__"))
        slots = getattr(type(x), "__slots__", ())
        yield from (getattr(x, name, None) for name in ([slots] if isinstance(slots, str) else slots))


def _parts_of_function(x: types.FunctionType) -> Iterator[Any]:
    if hasattr(x, "__wrapped__"):
        yield x.__wrapped__
    for cell in x.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not yet filled
            continue
    yield from (x.__defaults__, x.__kwdefaults__)
    if not _from_library(x.__module__):
        yield from (x.__globals__[name] for name in _names(x.__code__) if name in x.__globals__)


def _names(code: types.CodeType) -> Iterable[str]:
    yield from code.co_names
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            yield from _names(const)


def _is_library_object(x: Any) -> bool:
    return isinstance(x, str | bytes | int | float | complex | type(None)) or _from_library(type(x).__module__)


def _from_library(module: str | None) -> bool:
    return (module or "").partition(".")[0] in ("torch", "numpy", "builtins", "jaxtyping", "beartype")


@torch.enable_grad()
def probe(
    field: Field, span: Span, y0: Tensor, args: list[Tensor], held: list[Tensor]
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """The slope at the start, with autograd watching, and the tensors that ``f`` closes over: those one finds by looking
    at it, and leaves that only the evaluation shows.

    Tensors computed from others (no leaves) count only if the slope really depends on them: an attribute may hold an old
    intermediate result. And if a tensor is closed over together with one computed from it, the leaves alone count.

    Args:
        args: the differentiable leaves of the third argument of ``f``.
        held: what ``f`` closes over, looked at before it runs, and may leave intermediate results on its module.

    Raises:
        GradientError: if ``f`` uses something computed beforehand that cannot be found by looking at it.
    """
    y0 = y0.detach().requires_grad_()
    before = (y0 * 1).grad_fn._sequence_nr()  # type: ignore[union-attr]
    slope = field.start_slope(span, y0)
    closed = _independent(held, graph([slope]))
    visible = {id(x) for x in held}
    known = [y0, *args, *closed]
    extra = unseen([slope], known)
    computed = [node for node, _ in graph([slope], known) if not hasattr(node, "variable")]
    if extra and min(node._sequence_nr() for node in computed) <= before:
        raise GradientError(_HIDDEN.format(t=_first(span.t), n=len(extra), shapes=_shapes(extra)))
    extra += [x for x in closed if id(x) not in visible]
    return slope.detach(), [x for x in closed if id(x) in visible], extra


def _independent(found: list[Tensor], used: set[Edge]) -> list[Tensor]:
    """The tensors of ``found`` that the slope uses, if none is computed from another; otherwise leaves alone."""
    plain = [x for x in found if x.grad_fn is None]
    computed = [x for x in found if x.grad_fn is not None and edge_of(x) in used]
    behind = {id(x): graph([x]) for x in computed}
    below = {id(x): x for edges in behind.values() for x in leaves(edges)}
    ends = {edge_of(x) for x in computed}
    nested = any(len(ends & edges) > 1 for edges in behind.values())
    if nested or any(id(x) in below for x in plain):
        return list({**{id(x): x for x in plain}, **below}.values())
    return plain + computed


def check_all_seen(outputs: Iterable[Tensor], known: Iterable[Tensor], t: Time) -> None:
    """Raise instead of returning a gradient that lacks a part."""
    extra = unseen(outputs, known)
    if extra:
        raise GradientError(_HIDDEN.format(t=_first(t), n=len(extra), shapes=_shapes(extra)))


def check_still_held(f: Any, closed: Iterable[Tensor]) -> None:
    """Raise if ``f`` held tensors in the forward pass that it holds no longer."""
    now = {id(x) for x in closed_over(f)}
    lost = [x for x in closed if id(x) not in now]
    if lost:
        raise GradientError(
            f"Since the forward pass f has lost {len(lost)} tensor(s) requiring grad (shapes {_shapes(lost)}), so taking its "
            f"steps again would use other numbers. torch.func.functional_call puts a module's own parameters back when it "
            f"returns: pass them as `args` and write f(t, y, args), or use gradient='direct'."
        )


_HIDDEN = (
    "At t={t:g} f used {n} tensor(s) requiring grad (shapes {shapes}), or tensors computed from them, that cannot be seen by "
    "looking at f, so a part of their gradient would silently be zero. Pass them as `args` and write f(t, y, args), or use "
    "gradient='direct'."
)


def _first(t: Time) -> float:
    """A time for a message; of many rows that of the first one."""
    return float(torch.as_tensor(t).detach().reshape(-1)[0])


def _shapes(tensors: list[Tensor]) -> str:
    return ", ".join(str(tuple(x.shape)) for x in tensors[:4])
