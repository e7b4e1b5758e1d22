"""Training in several processes: modules inside ``f`` that wait for the other processes whenever they are called.

A process that takes its own steps calls ``f`` as often as it needs. Where every call waits for the others, the one with the
most steps waits for ever. The global hook sees what ``f`` calls, before any collective starts: a module that merely stands
around the solve (a sharded block, whose ``forward`` runs once) is none of its business.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, runtime_checkable

from torch import distributed, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from .errors import InputError


@runtime_checkable
class HasSteps(Protocol):
    """A plan, as far as it matters here."""

    @property
    def steps_vary(self) -> bool: ...


A = TypeVar("A")
B = TypeVar("B", bound=HasSteps)
P = ParamSpec("P")
T = TypeVar("T")


def watch(steps_vary: bool, taken_again: bool = False) -> AbstractContextManager[None]:
    """While this is open, ``f`` may not call what would hang, or would lack its gradient.

    Args:
        steps_vary: each process chooses its own steps.
        taken_again: the backward pass evaluates ``f`` again, outside the forward pass of the modules in it.

    Raises:
        InputError: (in the context) before such a module runs.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return nullcontext()
    if steps_vary and distributed.get_world_size() > 1:
        return refusing(waits_for_others, _OWN_STEPS)
    return refusing(is_sharded, _TAKEN_AGAIN) if taken_again else nullcontext()


def without_collectives(function: Callable[Concatenate[A, B, P], T]) -> Callable[Concatenate[A, B, P], T]:
    """A function of a problem and a plan, watched if the plan's steps vary."""

    @functools.wraps(function)
    def wrapper(problem: A, plan: B, /, *args: P.args, **kwargs: P.kwargs) -> T:
        with watch(plan.steps_vary):
            return function(problem, plan, *args, **kwargs)

    return wrapper


@contextmanager
def refusing(unwanted: Callable[[nn.Module], bool], why: str) -> Iterator[None]:
    """Raise if this thread calls an unwanted module."""
    thread = threading.get_ident()

    def refuse(module: nn.Module, _: Any) -> None:
        if unwanted(module) and threading.get_ident() == thread:
            raise InputError(why.format(name=type(module).__name__))

    hook = register_module_forward_pre_hook(refuse)
    try:
        yield
    finally:
        hook.remove()


def is_sharded(module: nn.Module) -> bool:
    """Whether the module gathers its parameters when it is called (FSDP1 or FSDP2; where they live differs by version)."""
    return any(c.__name__ in _SHARDED and c.__module__.startswith("torch.distributed") for c in type(module).__mro__)


def waits_for_others(module: nn.Module) -> bool:
    """Whether a call of the module is a meeting of all processes."""
    if isinstance(module, nn.SyncBatchNorm):
        return module.training
    if isinstance(module, nn.parallel.DistributedDataParallel):
        return module.broadcast_buffers and next(module.buffers(), None) is not None
    return is_sharded(module)


_SHARDED = ("FSDPModule", "FullyShardedDataParallel")

_OWN_STEPS = (
    "f calls a {name}, which waits for the other processes at every evaluation, and with adaptive steps (or an event that ends "
    "the solve) each process evaluates f as often as it needs: they would wait for each other for ever. Wrap the block as a "
    "whole, `fully_shard(block)` or `DistributedDataParallel(model)`, and nothing inside it; or take fixed steps: "
    "controller=FixedSteps(dt=...), or dt=... with a fixed-step method such as 'rk4' (and, for sharded layers, "
    "gradient='direct')."
)

_TAKEN_AGAIN = (
    "f calls a {name}, which is sharded by itself: its parameters are whole only while it runs, and this gradient evaluates f "
    "again in the backward pass, where their gradient would be lost. Shard the block as a whole, `fully_shard(block)` and "
    "nothing inside it, or write gradient='direct' (with fixed steps)."
)
