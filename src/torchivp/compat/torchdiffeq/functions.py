"""Wrappers around the user's ``func``, so that the solvers see one flat tensor and increasing times.

They are modules, as torchdiffeq's are: the parameters of a module inside are found through them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn

from ...problem import may_carry_gradient
from .errors import ArgumentError

CALLBACKS = ("callback_step", "callback_accept_step", "callback_reject_step")
ADJOINT_CALLBACKS = tuple(f"{name}_adjoint" for name in CALLBACKS)


class Perturb(Enum):
    """Ask ``func`` at the time given, or just before or after it (where it may jump)."""

    NONE = 0
    PREV = 1
    NEXT = 2


def null_callback(*args: Any, **kwargs: Any) -> None:
    """What stands in for a callback that the user's ``func`` does not have."""


def flat_to_shape(tensor: Tensor, length: Sequence[int], shapes: Sequence[torch.Size]) -> tuple[Tensor, ...]:
    """Tensors of the given shapes from one whose last axis holds them one after the other.

    Args:
        tensor: ``[*length, D]``.
        length: leading axes, kept in front.
        shapes: of the parts; their numbers of entries add up to D.
    """
    parts, start = [], 0
    for shape in shapes:
        stop = start + shape.numel()
        parts.append(tensor[..., start:stop].view((*length, *shape)))
        start = stop
    return tuple(parts)


class TupleFunc(nn.Module):
    """``func(t, tuple) -> tuple`` as a function of flat tensors."""

    def __init__(self, base_func: Callable[..., Any], shapes: Sequence[torch.Size]):
        super().__init__()
        self.base_func = base_func
        self.shapes = shapes

    @property
    def __wrapped__(self) -> Callable[..., Any]:
        """What compiled loops are kept for."""
        return self.base_func

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return torch.cat([f.reshape(-1) for f in self.base_func(t, flat_to_shape(y, (), self.shapes))])


class TupleInputOnlyFunc(nn.Module):
    """A function of time and a tuple (an event function) as a function of a flat tensor."""

    def __init__(self, base_func: Callable[..., Any], shapes: Sequence[torch.Size]):
        super().__init__()
        self.base_func = base_func
        self.shapes = shapes

    def forward(self, t: Tensor, y: Tensor) -> Any:
        return self.base_func(t, flat_to_shape(y, (), self.shapes))


class ReverseFunc(nn.Module):
    """A function of decreasing time as one of increasing time; its value times ``mul``."""

    def __init__(self, base_func: Callable[..., Any], mul: float = 1.0):
        super().__init__()
        self.base_func = base_func
        self.mul = mul

    @property
    def __wrapped__(self) -> Callable[..., Any]:
        """What compiled loops are kept for."""
        return self.base_func

    def forward(self, t: Tensor, y: Tensor) -> Any:
        return self.mul * self.base_func(-t, y)


class PerturbFunc(nn.Module):
    """``func(t, y, *, perturb)``: the time in y's real dtype, moved to its neighbour if asked; carries the callbacks.

    Attributes:
        time_sign: -1 where the times that the solvers see are the user's, negated.
    """

    time_sign: int = 1

    callback_step: Callable[..., Any]
    callback_accept_step: Callable[..., Any]
    callback_reject_step: Callable[..., Any]

    def __init__(self, base_func: Callable[..., Any]):
        super().__init__()
        self.base_func = base_func
        for name in CALLBACKS:
            setattr(self, name, null_callback)

    def forward(self, t: Tensor, y: Tensor, *, perturb: Any = Perturb.NONE) -> Any:
        if not isinstance(perturb, Perturb):
            raise ArgumentError("perturb argument must be of type Perturb enum")
        t = (t.real if t.is_complex() else t).to(y.real.dtype if y.is_complex() else y.dtype)
        return self.base_func(_MOVED[perturb](t), y)


def nextafter(t: Tensor, direction: Tensor) -> Tensor:
    """The neighbour of ``t`` towards ``direction``, with the gradient of ``t``."""
    neighbour = torch.nextafter(t.detach(), direction.detach())
    return t + (neighbour - t.detach()) if may_carry_gradient(t) else neighbour


_MOVED: dict[Perturb, Callable[[Tensor], Tensor]] = {
    Perturb.NONE: lambda t: t,
    Perturb.PREV: lambda t: nextafter(t, t - 1),
    Perturb.NEXT: lambda t: nextafter(t, t + 1),
}


def combine_event_functions(event_fn: Callable[..., Any], t0: Tensor, y0: Any) -> Callable[..., Tensor]:
    """One event function that is positive at the start and falls to zero at the first event of any entry."""
    with torch.no_grad():
        initial_signs = torch.sign(event_fn(t0, y0))

    def combined_event_fn(t: Tensor, y: Any) -> Tensor:
        return torch.min(event_fn(t, y) * initial_signs)

    return combined_event_fn
