"""What torchdiffeq checks before a solve, in its order and with its words; and one normal form for all solvers."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...errors import InputError, InputTypeError
from ...names import named
from ...rows_of_vmap import expose
from .errors import ArgumentError, IntegerStateError, NoTensorsError, NoTimesError
from .functions import (
    ADJOINT_CALLBACKS,
    CALLBACKS,
    PerturbFunc,
    ReverseFunc,
    TupleFunc,
    TupleInputOnlyFunc,
    combine_event_functions,
    flat_to_shape,
    null_callback,
)
from .norms import NORMS, linf_norm

TIMES = ("step_t", "jump_t")


class Inputs(NamedTuple):
    """The normal form: one flat tensor, increasing times, a ``PerturbFunc``.

    Attributes:
        shapes: of the parts of a tuple state, which is flat from here on; None for a tensor.
        func, y0, t, rtol, atol, method, options, event_fn: as the solvers take them; ``options["norm"]`` is always there.
        t_is_reversed: the times were negated.
    """

    shapes: list[torch.Size] | None
    func: PerturbFunc
    y0: Tensor
    t: Tensor
    rtol: Any
    atol: Any
    method: str
    options: dict[str, Any]
    event_fn: Callable[..., Tensor] | None
    t_is_reversed: bool


def check_inputs(
    func: Any,
    y0: Any,
    t: Any,
    rtol: Any,
    atol: Any,
    method: Any,
    options: Any,
    event_fn: Any,
    solvers: Mapping[str, Any],
) -> Inputs:
    """Check and normalise. Neither ``options`` nor any other argument is changed.

    Raises:
        ArgumentError, InputTypeError, InputError: with torchdiffeq's texts; they are also the exceptions it raises.
    """
    if event_fn is not None:
        if len(t) != 2:
            raise InputError(f"We require len(t) == 2 when in event handling mode, but got len(t)={len(t)}.")
        event_fn = combine_event_functions(event_fn, t[0], y0)

    original_func, shapes = func, None
    if not isinstance(y0, Tensor):
        shapes, y0, rtol, atol = _flat(y0, rtol, atol)
        func = TupleFunc(func, shapes)
        event_fn = None if event_fn is None else TupleInputOnlyFunc(event_fn, shapes)
    _check_dtype(y0)

    options = {} if options is None else options.copy()
    method = _known("dopri5" if method is None else method, solvers)
    options["norm"] = _norm(options, shapes)

    t_is_reversed = check_times(t)
    if t_is_reversed:
        t = -t
        func = ReverseFunc(func, mul=-1.0)
        event_fn = None if event_fn is None else ReverseFunc(event_fn)
        reverse_options(options)

    for name, tol in (("rtol", rtol), ("atol", atol)):
        _check(not (isinstance(tol, Tensor) and tol.requires_grad), f"{name} cannot require gradient")
    if t.device != y0.device:
        warnings.warn("t is not on the same device as y0. Coercing to y0.device.", stacklevel=3)
        t = t.to(y0.device)

    func = PerturbFunc(func)
    func.time_sign = getattr(original_func, "time_sign", 1) * (-1 if t_is_reversed else 1)
    asked = set_callbacks(func, original_func, shapes, t_is_reversed)
    unsupported = asked - solvers[method].valid_callbacks()
    if unsupported:
        warnings.warn(f"Solver '{method}' does not support callbacks {unsupported}", stacklevel=3)
    return Inputs(shapes, func, y0, t, rtol, atol, method, options, event_fn, t_is_reversed)


def _check(condition: bool, text: str) -> None:
    if not condition:
        raise ArgumentError(text)


def _flat(y0: Any, rtol: Any, atol: Any) -> tuple[list[torch.Size], Tensor, Any, Any]:
    """A tuple state and its tolerances as flat tensors (of the widest dtype in the tuple)."""
    _check(isinstance(y0, tuple), "y0 must be either a torch.Tensor or a tuple")
    if not y0:
        raise InputError("y0 is an empty tuple, so there is nothing to solve for. Give at least one tensor.")
    for i, part in enumerate(y0):
        if not isinstance(part, Tensor):
            raise NoTensorsError(
                f"y0[{i}] is a {type(part).__name__}, but a state is made of tensors. Write torch.tensor(...)."
            )
    shapes = [y.shape for y in y0]
    rtol, atol = flat_tolerance("rtol", rtol, shapes), flat_tolerance("atol", atol, shapes)
    return shapes, torch.cat([y.reshape(-1) for y in y0]), rtol, atol


def flat_tolerance(name: str, tol: Any, shapes: Sequence[torch.Size]) -> Any:
    """One tolerance for each part of a tuple state, as one for each entry; a number stays a number."""
    try:
        iter(tol)
    except TypeError:
        return tol
    tol = tuple(tol)
    _check(len(tol) == len(shapes), f"If using tupled {name} it must have the same length as the tuple y0")
    parts = []
    for value, shape in zip(tol, shapes):
        part = torch.as_tensor(value)
        parts.append(part if part.numel() == shape.numel() and part.dim() == 1 else part.expand(shape))
    return torch.cat([part.reshape(-1) for part in parts])


def _check_dtype(y0: Tensor) -> None:
    if not (y0.is_floating_point() or y0.is_complex()):
        raise IntegerStateError(
            f"y0 has dtype {y0.dtype}, but a solution of an ODE is not made of integers. Write `y0.float()` or `y0.double()`."
        )


def _known(method: Any, solvers: Mapping[str, Any]) -> str:
    if method in solvers:
        return method
    names = '", "'.join(solvers)
    raise InputError(f'Invalid method "{method}". Must be one of {{"{names}"}}.')


def _norm(options: dict[str, Any], shapes: list[torch.Size] | None) -> Callable[[Tensor], Any]:
    """The user's norm (a function, or the name of one) or torchdiffeq's default, as a function of the flat state."""
    norm = options.get("norm", "rms")
    if not callable(norm):
        norm = named("options['norm']", norm, NORMS)[0 if shapes is None else 1]
    if shapes is None:
        return norm
    of_one = next((whole for whole, parts in NORMS.values() if parts is norm), None)
    if of_one is not None and (of_one is linf_norm or len(shapes) == 1):
        return of_one  # the same number, of the flat state
    return lambda tensor: norm(flat_to_shape(tensor, (), shapes))


def check_times(t: Any) -> bool:
    """Check the times; True if they decrease."""
    _check(isinstance(t, Tensor), "t must be a torch.Tensor")
    if not t.is_floating_point():
        raise InputTypeError(f"`t` must be a floating point Tensor but is a {t.type()}")
    _check(t.dim() == 1, "t must be one dimensional")
    if len(t) == 0:
        raise NoTimesError("t is empty. It must hold at least one time, the start.")
    times = expose(t.detach(), t.detach())  # those of all rows of vmap
    forward = bool((times[:, :-1] < times[:, 1:]).all())
    backward = bool((times[:, :-1] > times[:, 1:]).all())
    _check(forward or backward, "t must be strictly increasing or decreasing")
    return not forward


def reverse_options(options: dict[str, Any]) -> None:
    """Negate the times in a dict of options, in place."""
    for name in TIMES:
        if options.get(name) is not None:
            options[name] = -torch.as_tensor(options[name], dtype=torch.float64)
    constructor = options.get("grid_constructor")
    if constructor is not None:
        options["grid_constructor"] = lambda func, y0, t: -torch.as_tensor(constructor(func, y0, -t))


def set_callbacks(func: PerturbFunc, original: Any, shapes: list[torch.Size] | None, t_is_reversed: bool) -> set[str]:
    """Hang the callbacks of the user's ``func`` on the normalised one; returns the names of those that it has."""
    asked = set()
    for name in CALLBACKS:
        callback = getattr(original, name, null_callback)
        if callback is not null_callback:
            asked.add(name)
            setattr(func, name, in_user_view(callback, shapes, t_is_reversed))
    for name in ADJOINT_CALLBACKS:
        if hasattr(original, name):
            setattr(func, name, in_time(getattr(original, name), t_is_reversed))
    return asked


def in_time(callback: Callable[..., Any], t_is_reversed: bool) -> Callable[..., Any]:
    """A callback that gets times as its author counts them (``dt`` stays positive)."""
    return (lambda t0, y0, dt: callback(-t0, y0, dt)) if t_is_reversed else callback


def in_user_view(
    callback: Callable[..., Any], shapes: list[torch.Size] | None, t_is_reversed: bool
) -> Callable[..., Any]:
    """The same, with states as its author sees them."""
    timed = in_time(callback, t_is_reversed)
    return timed if shapes is None else lambda t0, y0, dt: timed(t0, flat_to_shape(y0, (), shapes), dt)
