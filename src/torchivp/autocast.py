"""Mixed precision: ``f`` runs under the caller's autocast; states, errors and times keep their own precision."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
T = TypeVar("T")
_DEVICES = ("cpu", "cuda")


def without_autocast(function: Callable[P, T]) -> Callable[P, T]:
    """The function with autocast switched off inside: it would round matrix products of states to half precision."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        on = [device for device in _DEVICES if torch.is_autocast_enabled(device)]
        if not on:
            return function(*args, **kwargs)
        with ExitStack() as stack:
            for device in on:
                stack.enter_context(torch.autocast(device, enabled=False))
            return function(*args, **kwargs)

    return wrapper


def as_now(autocast: Callable[[], AbstractContextManager[object]] | None) -> AbstractContextManager[object]:
    """To enter what ``current_autocast`` gave."""
    return nullcontext() if autocast is None else autocast()


def is_on(device: torch.device) -> bool:
    """Whether operations on this device are under autocast."""
    return device.type in _DEVICES and torch.is_autocast_enabled(device.type)


def current_autocast(device: torch.device) -> Callable[[], AbstractContextManager[object]] | None:
    """How to enter the caller's autocast again later; None where there is none."""
    if not is_on(device):
        return None
    return functools.partial(torch.autocast, device.type, dtype=torch.get_autocast_dtype(device.type))


def autocast_dtypes(device: torch.device) -> tuple[torch.dtype, ...]:
    """The dtype that the caller's autocast calculates in, if there is one."""
    return (torch.get_autocast_dtype(device.type),) if is_on(device) else ()
