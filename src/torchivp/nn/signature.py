"""How the function of a layer wants to be called: ``f(x)`` or ``f(t, x)``."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ..errors import InputTypeError, TorchIVPError

_SCRIPTED = (torch.jit.ScriptFunction, torch.ScriptMethod)
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_WRONG_NUMBER = re.compile(r"positional argument|expected at most \d+ argument|missing value for argument")


def required(func: Callable[..., Any]) -> int | None:
    """How many positional arguments ``func`` cannot do without; None if it takes any number and does not say.

    A wrapper that hides behind ``*args`` is looked through: decorators, ``torch.compile``, ``nn.DataParallel``.
    """
    called = func.forward if isinstance(func, nn.Module) else func
    if isinstance(called, _SCRIPTED):
        schema: Any = called.schema
        return sum(a.name != "self" and not a.has_default_value() for a in schema.arguments)
    for follow in (False, True):  # what a decorator itself takes comes before what it wraps
        try:
            parameters = inspect.signature(called, follow_wrapped=follow).parameters.values()
        except (ValueError, TypeError):  # a built-in such as torch.tanh
            return 1
        n = sum(p.kind in _POSITIONAL and p.default is inspect.Parameter.empty for p in parameters)
        if n or all(p.kind is not inspect.Parameter.VAR_POSITIONAL for p in parameters):
            return n
    for name in ("_orig_mod", "module", "__wrapped__"):
        inner = getattr(func, name, None)
        if isinstance(inner, nn.Module):
            return required(inner)
    return None


def takes_two(func: Callable[..., Any]) -> bool:
    """Whether ``func`` is an ``f(t, x)`` rather than an ``f(x)``; so is one that takes anything."""
    n = required(func)
    return n is None or n >= 2


def explain(error: TypeError | RuntimeError, call: str) -> None:
    """Raise an error that says how ``func`` was called, if the number of its arguments was the matter.

    Args:
        error: what the call raised (TorchScript raises RuntimeError).
        call: how it was called, as code.
    """
    if isinstance(error, TorchIVPError) or not _WRONG_NUMBER.search(str(error)):
        return
    raise InputTypeError(
        f"ODEBlock called {call}, and it failed: {error}. If func does not take these arguments, say what it takes: "
        f"ODEBlock(func, takes_time=True) for f(t, x), takes_time=False for f(x)."
    ) from error
