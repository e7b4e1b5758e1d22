"""torch.compile for whole loops: once for each form, with a note where it takes long."""

from __future__ import annotations

import sys
import threading
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import torch

from ...errors import InputError

_number = count(1)
_NOTE_AFTER = 2.0  # seconds
_CACHEABLE = "torch.ops.higher_order.while_loop"


def compiled(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """The function through inductor, with code of its own (torch counts recompilations by code).

    Args:
        name: of the function, in torch's logs.
    """
    own = types.FunctionType(
        function.__code__.replace(co_name=f"{name}_{next(_number)}"),  # codes that are equal would share what torch counts
        function.__globals__,
        name,
        function.__defaults__,
        function.__closure__,
    )
    fast = torch.compile(own, fullgraph=True, options={"cpp_wrapper": True})

    def call(*arguments: Any) -> Any:
        with settings(), announced(name):
            return fast(*arguments)

    return call


@contextmanager
def settings() -> Iterator[None]:
    import torch._dynamo.config as dynamo
    import torch._inductor.config as inductor
    from torch._higher_order_ops.while_loop import while_loop_op

    known = {f"{while_loop_op.__module__}.{while_loop_op.__name__}": torch.__version__}
    with (
        dynamo.patch(recompile_limit=64),  # type: ignore[attr-defined]
        inductor.patch(unsafe_marked_cacheable_functions=known),  # type: ignore[attr-defined]
    ):
        try:
            yield
        except Exception as error:
            raise not_compiled(error) from error


def not_compiled(error: Exception) -> Exception:
    """What the user reads where torch.compile gives up."""
    if isinstance(error, InputError):
        return error
    kind = type(error).__module__
    if not kind.startswith(("torch._dynamo", "torch._inductor", "torch.fx", "torch._subclasses")):
        return error
    first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return InputError(
        f"runner='compiled' cannot compile this solve: {first.strip()} Write f in PyTorch operations alone, without branches on "
        f"values, numbers read from tensors (.item()) or NumPy; or take runner='eager', which needs no compiler."
    )


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
def announced(what: str) -> Iterator[None]:
    """Say on stderr that something is compiled, once it takes long."""
    done = threading.Event()

    def note() -> None:
        if not done.is_set():
            print(f"torchivp: compiling {what.replace('_', ' ')} (once; it takes up to a minute) ...", file=sys.stderr)

    timer = threading.Timer(_NOTE_AFTER, note)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        done.set()
        timer.cancel()
