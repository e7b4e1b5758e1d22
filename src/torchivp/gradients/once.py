"""Gradients that have no derivative: an error in place of a second backward pass."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..errors import GradientError

Backward = Callable[..., tuple[Any, ...]]


def first_derivative_only(backward: Backward) -> Backward:
    """The ``backward`` of an ``autograd.Function`` whose gradients raise GradientError when they are differentiated.

    As ``torch.autograd.function.once_differentiable``, with a message that says what to write instead.
    """

    @functools.wraps(backward)
    def wrapper(ctx: Any, *cotangents: Tensor | None) -> tuple[Any, ...]:
        with torch.no_grad():
            grads = backward(ctx, *cotangents)
        if not torch.is_grad_enabled():
            return grads
        places = [i for i, g in enumerate(grads) if isinstance(g, Tensor)]
        marked = dict(
            zip(places, _Last.apply(len(places), *(grads[i] for i in places), *cotangents, *ctx.saved_tensors))
        )
        return tuple(marked.get(i, g) for i, g in enumerate(grads))

    return wrapper


class _Last(torch.autograd.Function):
    """Puts an end into the graph behind the first ``n`` tensors; the others are what they depend on."""

    @staticmethod
    def forward(ctx: Any, n: int, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        return tuple(x.detach() for x in tensors[:n] if x is not None)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Any:
        raise GradientError(
            "This gradient was differentiated again, but the way it was computed (a backward solve, sensitivities, a steady "
            "state) leaves no graph. Write gradient='discrete' (or 'direct') for second derivatives (create_graph=True)."
        )
