"""torch.compile for whole loops: once for each form, with a note where it takes long."""

from __future__ import annotations

import logging
import sys
import threading
import time
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any
from unittest.mock import patch

import optree
import torch

from ...errors import InputError, NotCompilable
from .direct import Seen, direct, kinds
from .pure import Codes, Pure

_number = count(1)
_NOTE_AFTER = 2.0  # seconds
_KNOWN = 256  # kinds of arguments of one program


@dataclass(frozen=True)
class Compilation:
    """A program that was compiled.

    Attributes:
        what: ``"loop"`` (the forward solve) or ``"gradient"`` (the solve gone through backwards).
        f: the name of the function that was solved.
        seconds: it took, its first call included.
    """

    what: str
    f: str
    seconds: float


_made: list[Compilation] = []


def compilations() -> tuple[Compilation, ...]:
    """What ``runner="compiled"`` and ``"auto"`` have compiled in this process, in its order.

    Example:
        >>> sum(c.seconds for c in torchivp.compilations())
    """
    return tuple(_made)


def compiled(
    function: Callable[..., Any], what: str, f: str, key: Any, codes: Codes, small: bool = False
) -> Callable[..., Any]:
    """The function through inductor.

    Args:
        what, f: as in ``Compilation``.
        key: functions with the same one share their code in ``codes``, by which torch counts recompilations and notes which
            sizes change.
        small: the states are of few numbers.

    Returns:
        The compiled function; what it takes and gives are pytrees of tensors.
    """
    own = types.FunctionType(
        function.__code__.replace(co_name=f"{what}_{codes.setdefault(key, next(_number))}"),
        function.__globals__,
        what,
        function.__defaults__,
        function.__closure__,
    )
    backend = Backend(what, small)
    guarded = torch.compile(own, backend=backend, fullgraph=True)
    known: dict[Any, Callable[..., Any]] = {}

    def call(*arguments: Any) -> Any:
        given: Any = arguments
        leaves, structure = optree.tree_flatten(given)
        kind = kinds(leaves, structure)
        if kind in known:
            return known[kind](leaves)
        began, before = time.perf_counter(), backend.compilations
        with settings():
            out = guarded(*arguments)
        for _ in range(backend.compilations - before):
            _made.append(Compilation(what, f, time.perf_counter() - began))
        if len(known) >= _KNOWN:
            known.clear()
        known[kind] = direct(backend.seen(), leaves, out)
        return out

    return call


def program_of(pure: Pure, key: Any, what: str, make: Callable[[], Callable[..., Any]], small: bool = False) -> Any:
    """What ``make`` makes, compiled; once for each ``f`` and key.

    Args:
        key, what, small: as in ``compiled``.
    """
    if key not in pure.programs:
        pure.programs[key] = compiled(make(), what, pure.name, key, pure.codes, small=small)
    return pure.programs[key]


class Backend:
    """Inductor, counted and watched."""

    def __init__(self, what: str, small: bool):
        self.what = what
        # joining few numbers in one buffer beats a view of the buffer for each of them
        self.patches = {"cpp_wrapper": True, "force_pointwise_cat": small}
        self.compilations = 0
        self.here = threading.local()  # a call of another thread is not the last one of this

    def __call__(self, graph: torch.fx.GraphModule, example: list[Any]) -> Any:
        with announced(self.what), without_remarks(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own
            from torch._inductor.compile_fx import compile_fx
            from torch._inductor.decomposition import select_decomp_table

            patches = {**self.patches, "emulate_precision_casts": in_half(graph)}
            with patch.dict(
                select_decomp_table(), VIEWS
            ):  # a table of our own would have no place in the cache on disk
                code: Any = compile_fx(graph, example, config_patches=patches)
        self.compilations += 1

        def watched(*inputs: Any) -> Any:
            out = code(*inputs)
            self.here.last = Seen(code, inputs, out)
            return out

        return watched

    def seen(self) -> Seen:
        """What the last call came down to; it is not kept, because it holds the caller's tensors."""
        last: Seen = self.here.last
        del self.here.last
        return last


def in_half(graph: torch.fx.GraphModule) -> bool:
    """Whether something is computed in half precision, in which plain PyTorch rounds after every operation."""
    inner = (module for module in graph.modules() if isinstance(module, torch.fx.GraphModule))
    values = (node.meta.get("example_value") for module in inner for node in module.graph.nodes)
    return any(isinstance(x, torch.Tensor) and x.dtype in (torch.bfloat16, torch.float16) for x in values)


def copied(view: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    return lambda *given: view(*given).clone()


VIEWS = {
    torch.ops.aten.select_copy.int: copied(torch.ops.aten.select.int),
    torch.ops.aten.slice_copy.Tensor: copied(torch.ops.aten.slice.Tensor),
}
"""What inductor makes of the views in a loop inside of a loop, and would call a library for."""


@contextmanager
def settings() -> Iterator[None]:
    import torch._dynamo.config as dynamo
    import torch._inductor.config as inductor
    from torch._higher_order_ops.while_loop import while_loop_op

    known = {f"{while_loop_op.__module__}.{while_loop_op.__name__}": torch.__version__}
    with (
        dynamo.patch(recompile_limit=64),
        inductor.patch(unsafe_marked_cacheable_functions=known),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", ".*should not be instantiated", DeprecationWarning)  # dynamo does so itself
        try:
            yield
        except Exception as error:
            raise not_compiled(error) from error


@contextmanager
def refused(before: str, after: str = "") -> Iterator[None]:
    """Tracing what is not ``f``: where torch.compile gives up, say so between these words."""
    try:
        yield
    except Exception as error:
        why = not_compiled(error)
        if not isinstance(why, NotCompilable):
            raise
        raise NotCompilable(f"{before}{why}{after}") from error


def not_compiled(error: Exception) -> Exception:
    """What the user reads where torch.compile gives up."""
    if isinstance(error, InputError):
        return error
    kind = type(error).__module__
    if not kind.startswith(("torch._dynamo", "torch._inductor", "torch.fx", "torch._subclasses")):
        return error
    why = list(causes(error))
    refused = next((x for x in why if isinstance(x, InputError)), None)
    if refused is not None:
        return refused
    deepest = next((x for x in reversed(why) if type(x).__module__.startswith("torch.")), error)
    inner = getattr(deepest, "inner_exception", None)
    text = str(deepest) if inner is None else f"{type(inner).__name__}: {inner}"
    if any("CxxCompiler" in type(x).__name__ for x in why) or "C++ compiler" in text:
        return NotCompilable(
            "runner='compiled' found no C++ compiler that works, and needs one. Install one (such as g++), or name it in the "
            "environment variable CXX; or take runner='eager', which needs none."
        )
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    first = ". ".join([*lines[:1], *(x for x in lines if x.startswith("Explanation"))][:2]) or type(error).__name__
    return NotCompilable(
        f"runner='compiled' cannot compile this solve: {first} Write f in PyTorch operations alone, without branches on "
        f"values, numbers read from tensors (.item()) or NumPy; or take runner='eager', which needs no compiler."
    )


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, and those that it came from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def keep_saved_buffers() -> None:
    """Until the compilation that is going on ends, let no backward pass write into what its forward pass saved.

    Inductor (2.13) looks up which inputs of a backward graph it may overwrite by their number, and does so for the inputs of
    the loops inside as well, whose numbers mean something else: gradients came out wrong.
    """
    import torch._functorch.config as config
    from torch._dynamo.callback import CallbackArgs, callback_handler

    if not config.donated_buffer:
        return

    def put_back(_: CallbackArgs) -> None:
        config.donated_buffer = True
        callback_handler.end_callbacks = [x for x in callback_handler.end_callbacks if x is not put_back]

    config.donated_buffer = False
    callback_handler.register_end_callback(put_back)


@contextmanager
def without_remarks() -> Iterator[None]:
    """Inductor logs which operators it calls in a roundabout way; there is nothing that a user could do about them."""
    logger = logging.getLogger("torch._inductor.ir")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextmanager
def announced(what: str) -> Iterator[None]:
    """Say on stderr that something is compiled, once it takes long."""
    done = threading.Event()

    def note() -> None:
        if not done.is_set():
            sys.stderr.write(f"torchivp: compiling the {what} of a solve (once; it takes up to a minute) ...\n")

    timer = threading.Timer(_NOTE_AFTER, note)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        done.set()
        timer.cancel()
