"""First derivatives of a field, by rows, in real numbers, outside and inside of ``torch.func`` transforms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .._types import Rows
from ..field import Field
from ..span import Span
from ..transforms import transformed
from .matrix import Vectors

_ONE_BY_ONE = 2  # so many backward passes cost less than a batch of them


def vectors(y: Rows, rows: int) -> Vectors:
    """``[B, n]`` real numbers from a row ``[1, B * D]``: n is D, or 2 D for a complex state, whose ``f`` need not be
    differentiable in the complex sense."""
    return (torch.view_as_real(y.resolve_conj()) if y.is_complex() else y).reshape(rows, -1)


def from_vectors(x: Vectors, like: Rows) -> Rows:
    """The row ``[1, B * D]`` again."""
    return torch.view_as_complex(x.reshape(1, -1, 2)) if like.is_complex() else x.reshape(1, -1)


class _Variable(torch.autograd.Function):
    """A tensor as a variable of its own, that requires grad as ``anchor`` does. It is no leaf: whoever looks in the graph for
    tensors that nobody gave would find it."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, anchor: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        return

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None]:
        return cotangent, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor | None, of_anchor: Any) -> Tensor | None:
        return tangent


class Point:
    """A field at a point, with its graph.

    Args:
        span: a step that starts there.
        slope: the field there; requires grad if somebody wants gradients of its derivatives.

    Attributes:
        wanted: somebody does.
        t, x: the variables, ``[*batch]`` and ``[B, n]``; ``value [B, n]`` is the field.
    """

    def __init__(self, field: Field, span: Span, y: Rows, slope: Rows):
        t, x = field.time(span.start()), vectors(y, field.layout.rows)
        self.wanted = torch.is_grad_enabled() and slope.requires_grad
        with torch.inference_mode(False), torch.enable_grad():
            if self.wanted:
                self.t, self.x = _Variable.apply(t, slope), _Variable.apply(x, slope)
            else:
                self.t, self.x = (v.detach().clone().requires_grad_() for v in (t, x))
            self.value = of_vectors(field, y)(self.t, self.x)


def of_vectors(field: Field, like: Rows) -> Callable[[Tensor, Vectors], Vectors]:
    """The field of ``[B, n]`` real numbers."""
    rows = field.layout.rows
    return lambda t, x: vectors(field(t, from_vectors(x, like)), rows)


def products(field: Field, span: Span, y: Rows, slope: Rows, seeds: Tensor) -> tuple[Tensor, Rows | None] | None:
    """``seed^T J`` of every row ``[G, B, n]`` at the start of a step, and the time derivative; None where ``f`` leaves no
    trace.

    Args:
        seeds: ``[G, n]``; the time derivative is right if they are the one-hot ones in order.
    """
    cotangents = seeds.unsqueeze(1).expand(-1, field.layout.rows, -1)
    if transformed():
        t, x = field.time(span.start()), vectors(y, field.layout.rows)
        back = torch.func.vjp(of_vectors(field, y), t, x)[1]
        found = zip(*(back(c) for c in cotangents.unbind(0)))
        at_times, at_states = (torch.stack(parts) for parts in found)
        return at_states, as_row(field, at_times, slope)
    point = Point(field, span, y, slope)
    if not point.value.requires_grad:
        return None
    at_t, at_x = pulled_back(field, point, cotangents)
    return point.x.new_zeros(cotangents.shape) if at_x is None else at_x, None if at_t is None else as_row(
        field, at_t, slope
    )


def pulled_back(field: Field, point: Point, cotangents: Tensor) -> tuple[Tensor | None, ...]:
    """One backward pass for each cotangent: all at once where torch can, or one after the other."""
    inputs = (point.t, point.x)
    more: dict[str, Any] = {"create_graph": point.wanted, "retain_graph": True, "allow_unused": True}
    if field.counts.batched and len(cotangents) > _ONE_BY_ONE:
        try:
            return torch.autograd.grad(point.value, inputs, cotangents, is_grads_batched=True, **more)
        except RuntimeError:  # an operation in f that does not go with vmap
            field.counts.batched = False
    found = [torch.autograd.grad(point.value, inputs, c, **more) for c in cotangents.unbind(0)]
    return tuple(None if parts[0] is None else torch.stack(parts) for parts in zip(*found))


def as_row(field: Field, at_t: Tensor, slope: Rows) -> Rows:
    """The time derivative as a row, from what came out by seed: ``[n, *batch]``."""
    return turned(field, from_vectors(at_t.reshape(len(at_t), -1).T.to(slope.real.dtype), slope))


def turned(field: Field, at_user_time: Rows) -> Rows:
    """The derivative by the time as the library counts it."""
    return at_user_time if field.turn is None else at_user_time * field.turn


def time_derivative(field: Field, span: Span, y: Rows, slope: Rows) -> Rows | None:
    """The time derivative alone, at the start of a step: products with cotangents are linear in these, and their derivative
    by them is the product with a tangent."""
    if transformed():
        t, of = field.time(span.start()), of_vectors(field, y)
        x = vectors(y, field.layout.rows)
        return turned(field, from_vectors(torch.func.jvp(lambda t: of(t, x), (t,), (torch.ones_like(t),))[1], slope))
    point = Point(field, span, y, slope)
    if not point.value.requires_grad:
        return by_time_difference(field, span, y, slope)
    with torch.enable_grad():
        zero = torch.zeros_like(point.value)
        dummy = _Variable.apply(zero, slope) if point.wanted else zero.requires_grad_()
        (at_t,) = torch.autograd.grad(point.value, point.t, dummy, create_graph=True, allow_unused=True)
    if at_t is None or not at_t.requires_grad:
        return None
    (along,) = torch.autograd.grad(
        at_t, dummy, torch.ones_like(at_t), create_graph=point.wanted, retain_graph=True, allow_unused=True
    )
    return None if along is None else turned(field, from_vectors(along, slope))


def by_differences(field: Field, span: Span, y: Rows, slope: Rows) -> tuple[Tensor, Rows]:
    """Entries ``[B, n, n]`` and the time derivative by finite differences: one evaluation of ``f`` for each number of a row,
    and one more. Constants of every gradient."""
    rows = field.layout.rows
    t = field.time(span.start())
    with torch.no_grad():
        x, base = vectors(y, rows), vectors(slope, rows)
        root = torch.finfo(x.dtype).eps ** 0.5
        least = x.abs().amax(1).clamp(min=root)
        columns = []
        for j in range(x.shape[1]):
            moved = x.clone()
            moved[:, j] += root * torch.where(x[:, j] == 0, least, x[:, j].abs())
            size = (moved[:, j] - x[:, j]).unsqueeze(1)
            columns.append((vectors(field(t, from_vectors(moved, y)), rows) - base) / size)
    return torch.stack(columns, dim=2), by_time_difference(field, span, y, slope)


def by_time_difference(field: Field, span: Span, y: Rows, slope: Rows) -> Rows:
    """The time derivative by a finite difference inside the step: ``f`` may not be asked beyond it."""
    with torch.no_grad():
        t = field.time(span.start())
        ahead = field.time(span.ahead(torch.finfo(t.dtype).eps ** 0.5))
        size = ((ahead - t).reshape(-1) * field.direction).unsqueeze(1)
        change = vectors(field(ahead, y) - slope, field.layout.rows)
        return from_vectors(torch.where(size == 0, 0, change / size).to(slope.real.dtype), slope)
