"""First derivatives of a field, by rows, in real numbers, outside and inside of ``torch.func`` transforms."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from .._types import Rows
from ..field import Field
from ..span import Span
from ..transforms import as_float, transformed
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


class Point(ABC):
    """A field at the start of a step, for products with its derivatives there.

    Args:
        span: the step.
        slope: the field there; requires grad if somebody wants gradients of its derivatives.

    Attributes:
        wanted: somebody does.
    """

    wanted: bool = False

    def __init__(self, field: Field, y: Rows, slope: Rows):
        self.field, self.slope = field, slope
        rows = field.layout.rows
        self.of = lambda t, x: vectors(field(t, from_vectors(x, y)), rows)  # of [B, n] real numbers

    @abstractmethod
    def products(self, seeds: Tensor) -> tuple[Tensor, Tensor | None]:
        """``seed^T J`` of every row ``[G, B, n]``, and ``seed^T f_t [G, *batch]``, for seeds ``[G, n]``."""

    @abstractmethod
    def tangent_products(self, tangents: Tensor) -> Tensor:
        """``J tangent`` of every row ``[G, B, n]``, for tangents ``[G, n]``."""

    @abstractmethod
    def time_derivative(self) -> Rows | None:
        """``f_t``; None where ``f`` does not depend on the time."""

    def for_all(self, seeds: Tensor) -> Tensor:
        """The same for every row, ``[G, B, n]``."""
        return seeds.unsqueeze(1).expand(-1, self.field.layout.rows, -1)

    def turned(self, by_user_time: Vectors) -> Rows:
        """The derivative by the time as the library counts it, as a row."""
        row = from_vectors(by_user_time, self.slope)
        return row if self.field.turn is None else row * self.field.turn


def point_at(field: Field, span: Span, y: Rows, slope: Rows) -> Point | None:
    """The start of a step; None where ``f`` leaves no trace there."""
    if transformed():
        return Transformed(field, span, y, slope)
    try:
        point = Recorded(field, span, y, slope)
    except RuntimeError:
        if torch.is_grad_enabled() and slope.requires_grad:
            raise
        return None  # f does what autograd refuses, such as writing into a buffer
    return point if point.value.requires_grad else None


class Recorded(Point):
    """By autograd.

    Attributes:
        t, x: the variables, ``[*batch]`` and ``[B, n]``; ``value [B, n]`` is the field.
    """

    def __init__(self, field: Field, span: Span, y: Rows, slope: Rows):
        super().__init__(field, y, slope)
        t, x = field.time(span.start()), vectors(y, field.layout.rows)
        self.wanted = torch.is_grad_enabled() and slope.requires_grad
        counts = field.counts
        with torch.inference_mode(False), torch.enable_grad():
            self.x = self.variable(x)
            self.t = self.variable(t) if field.linearises_time and not counts.hidden_time else t.detach()
            if self.t.requires_grad and counts.hidden_time is None:
                self.value, counts.hidden_time = self.first_value()
            else:
                self.value = self.of(self.t, self.x)

    def first_value(self) -> tuple[Tensor, bool | None]:
        """The value, and True if ``f`` made a number of the time meanwhile, of which torch warns."""
        with warnings.catch_warnings(record=True) as said:
            warnings.filterwarnings("always", message="Converting a tensor with requires_grad=True to a scalar")
            value = self.of(self.t, self.x)
        return value, True if said else None

    def variable(self, x: Tensor) -> Tensor:
        return _Variable.apply(x, self.slope) if self.wanted else x.detach().clone().requires_grad_()

    @property
    def variables(self) -> tuple[Tensor, ...]:
        return (self.x, self.t) if self.t.requires_grad else (self.x,)

    def products(self, seeds: Tensor) -> tuple[Tensor, Tensor | None]:
        cotangents = self.for_all(seeds)
        at_x, at_t = (*self.batched(self.value, self.variables, cotangents), None)[:2]
        return self.x.new_zeros(cotangents.shape) if at_x is None else at_x, at_t

    def tangent_products(self, tangents: Tensor) -> Tensor:
        along = self.for_all(tangents)
        dummy, _, at_x = self.back()
        found = None
        if at_x is not None and at_x.requires_grad:
            (found,) = self.batched(at_x, (dummy,), along)
        return self.x.new_zeros(along.shape) if found is None else found

    def time_derivative(self) -> Rows | None:
        dummy, at_t, _ = self.back()
        if at_t is None or not at_t.requires_grad:
            return None
        (along,) = self.batched(at_t, (dummy,), torch.ones_like(at_t).unsqueeze(0))
        return None if along is None else self.turned(along[0])

    def back(self) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """A cotangent (of zeros), and its products with the derivatives by time and by state, as functions of it: products
        with cotangents are linear in these, so their derivatives by them are products with tangents."""
        with torch.enable_grad():
            dummy = self.variable(torch.zeros_like(self.value))
            found = torch.autograd.grad(self.value, self.variables, dummy, create_graph=True, allow_unused=True)
        at_x, at_t = (*found, None)[:2]
        return dummy, at_t, at_x

    def batched(self, value: Tensor, inputs: tuple[Tensor, ...], cotangents: Tensor) -> tuple[Tensor | None, ...]:
        """One backward pass for each cotangent: all at once where torch can, or one after the other."""
        more: dict[str, Any] = {"create_graph": self.wanted, "retain_graph": True, "allow_unused": True}
        counts = self.field.counts
        if counts.batched and len(cotangents) > _ONE_BY_ONE:
            try:
                return torch.autograd.grad(value, inputs, cotangents, is_grads_batched=True, **more)
            except RuntimeError:  # an operation in f that does not go with vmap
                counts.batched = False
        found = [torch.autograd.grad(value, inputs, c, **more) for c in cotangents.unbind(0)]
        if not found:  # a state without numbers
            return (None,) * len(inputs)
        return tuple(None if parts[0] is None else torch.stack(parts) for parts in zip(*found))


class Transformed(Point):
    """By ``torch.func``, inside of its transforms."""

    def __init__(self, field: Field, span: Span, y: Rows, slope: Rows):
        super().__init__(field, y, slope)
        self.t, self.x = field.time(span.start()), vectors(y, field.layout.rows)

    def products(self, seeds: Tensor) -> tuple[Tensor, Tensor | None]:
        back = torch.func.vjp(self.of, self.t, self.x)[1]
        at_t, at_x = zip(*(back(c) for c in self.for_all(seeds).unbind(0)))
        return torch.stack(at_x), torch.stack(at_t)

    def tangent_products(self, tangents: Tensor) -> Tensor:
        along = self.for_all(tangents).unbind(0)
        return torch.stack([torch.func.jvp(lambda x: self.of(self.t, x), (self.x,), (v,))[1] for v in along])

    def time_derivative(self) -> Rows | None:
        one = torch.ones_like(self.t)
        return self.turned(torch.func.jvp(lambda t: self.of(t, self.x), (self.t,), (one,))[1])


def by_differences(field: Field, span: Span, y: Rows) -> Tensor:
    """Entries ``[B, n, n]`` by finite differences: one evaluation of ``f`` for each number of a row, and one at the point itself.
    The slope that a step starts from will not do: what an iteration left of its error is large beside such differences.
    Constants of every gradient, as is the time derivative."""
    rows = field.layout.rows
    t = field.time(span.start())
    with torch.no_grad():
        x, base = vectors(y, rows), vectors(field(t, y).clone(), rows)
        root = torch.finfo(x.dtype).eps ** 0.5
        least = x.abs().amax(1).clamp(min=root)
        columns = []
        for j in range(x.shape[1]):
            moved = x.clone()
            moved[:, j] += root * torch.where(x[:, j] == 0, least, x[:, j].abs())
            size = (moved[:, j] - x[:, j]).unsqueeze(1)
            columns.append((vectors(field(t, from_vectors(moved, y)), rows) - base) / size)
    return torch.stack(columns, dim=2)


def by_time_difference(field: Field, span: Span, y: Rows) -> Rows:
    """The time derivative by two differences inside the step (``f`` may not be asked beyond it), of second order."""
    rows = field.layout.rows
    with torch.no_grad():
        t = field.time(span.start())
        eps = torch.finfo(t.dtype).eps
        far = field.time(span.ahead(eps ** (1 / 3), eps**0.5))
        near = t + 0.5 * (far - t)
        s1, s2 = (((x - t).reshape(-1) * field.direction).unsqueeze(1) for x in (near, far))
        base = vectors(field(t, y).clone(), rows)
        d1, d2 = (vectors(field(x, y), rows) - base for x in (near, far))
        two, one = (s2**2 * d1 - s1**2 * d2) / (s1 * s2 * (s2 - s1)), d2 / s2
        found = torch.where(s2 == 0, 0, torch.where((s1 == 0) | (s1 == s2), one, two))
        return from_vectors(found.to(y.real.dtype), y)


def hides_its_time(field: Field, span: Span, y: Rows, slope: Rows, at_time: Rows | None) -> bool:
    """Whether ``f`` turns the time into a number that autograd does not follow (``float(t)``), as the first step shows."""
    with torch.no_grad():
        if at_time is None:
            return bool(as_float((field(field.time(span.ahead(1.0, 0.0)), y) != slope).any()))
        found = by_time_difference(field, span, y)
        off, size = largest(found - at_time), torch.maximum(largest(found), largest(at_time))
        noise = torch.finfo(found.dtype).eps ** (2 / 3) * largest(slope) / torch.as_tensor(span.sizes(y)).amax()
        return bool(as_float(off > 1e-2 * size + 1e4 * noise))


def largest(x: Tensor) -> Tensor:
    return x.detach().abs().amax()
