"""Inside ``torch.func`` transforms and forward-mode differentiation: is one going on, and what the numbers are there.

The loop reads a few numbers (error ratios, sizes, times) to decide what to do next. Under ``torch.func.vmap`` a tensor
stands for many rows and has no number to read. Where the rows cannot go their own ways (``vmapped``), they take one decision,
that of the worst of them: the largest number.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch.autograd import forward_ad

_functorch = torch._C._functorch  # torch.func offers no way to ask


def transformed() -> bool:
    """Whether a ``torch.func`` transform is being applied to the code that runs now."""
    return _functorch.peek_interpreter_stack() is not None


def forward_mode() -> bool:
    """Whether forward-mode differentiation is going on, which only autograd through the loop can follow."""
    return forward_ad._current_level >= 0


def recorded() -> bool:
    """Whether the loop has to be recorded, step by step: what happens in it is a transform's business."""
    return transformed() or forward_mode()


def reverse_transformed() -> bool:
    """Whether one of the transforms going on is a reverse-mode one (grad, vjp, jacrev)."""
    return _going_on(_functorch.TransformType.Grad)


def under_vmap() -> bool:
    """Whether one of them is ``vmap`` (over anything, be it tangents)."""
    return _going_on(_functorch.TransformType.Vmap)


def only_vmap() -> bool:
    """Whether ``vmap`` is going on and nothing else."""
    keys = [level.key() for level in _functorch.get_interpreter_stack() or []]
    return bool(keys) and all(key == _functorch.TransformType.Vmap for key in keys) and not forward_mode()


def _going_on(kind: Any) -> bool:
    return any(level.key() == kind for level in _functorch.get_interpreter_stack() or [])


P = ParamSpec("P")
R = TypeVar("R")


def outside_of_transforms(function: Callable[P, R]) -> Callable[P, R]:
    """The same function of no tensors; those that it makes belong to no transform, so that they may be kept for other solves."""

    @wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        with temporarily_clear_interpreter_stack():
            return function(*args, **kwargs)

    return wrapper


def as_float(x: Tensor | float) -> float:
    """The number in ``x``; under vmap the largest of all rows, nan if one of them is."""
    return float(worst(x).item()) if isinstance(x, Tensor) else float(x)


def worst(x: Tensor) -> Tensor:
    """``x`` itself (``x.detach()`` inside transforms); under vmap the largest of all rows, entry by entry, nan first."""
    return _Worst.apply(x.detach()) if transformed() else x


def constant(x: Tensor) -> Tensor:
    """``x`` as a constant of every derivative (``detach`` alone keeps those of forward mode)."""
    if transformed():
        return worst(x)
    return forward_ad.unpack_dual(x).primal.detach() if forward_mode() else x.detach()


def batched(x: Tensor) -> bool:
    """Whether ``x`` stands for the rows of a vmap."""
    return transformed() and bool(_Batched.apply(x.detach()))


class _Worst(torch.autograd.Function):
    """The identity, which vmap turns into the largest over its rows; a constant of every gradient."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.mark_non_differentiable(output)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int], x: Tensor) -> tuple[Tensor, None]:
        return _Worst.apply(x.amax(in_dims[0])), None


class _Batched(torch.autograd.Function):
    """0, which vmap turns into 1."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return torch.zeros(())

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.mark_non_differentiable(output)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int], x: Tensor) -> tuple[Tensor, None]:
        return torch.ones(()), None


def derivatives(f: Callable[..., Tensor], *inputs: Tensor) -> tuple[Tensor, ...]:
    """df/dx of a real 0-d ``f(*inputs)`` for each x, the others held, also inside transforms.

    Differentiable in turn, in plain autograd only where an input requires grad.
    """
    if transformed():
        return torch.func.grad(f, argnums=tuple(range(len(inputs))))(*inputs)
    again = torch.is_grad_enabled() and any(x.requires_grad for x in inputs)
    with torch.enable_grad():
        given = [x if x.requires_grad else x.clone().requires_grad_() for x in inputs]
        value = f(*given)
    if not value.requires_grad:
        return tuple(torch.zeros_like(x) for x in inputs)
    grads = torch.autograd.grad(value, given, create_graph=again, allow_unused=True)
    return tuple(torch.zeros_like(x) if g is None else g for g, x in zip(grads, inputs))
