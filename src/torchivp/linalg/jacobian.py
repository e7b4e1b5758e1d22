"""The Jacobian of a field at a point, by rows, and its time derivative; how they are found."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._types import Rows
from ..errors import InputError, InputTypeError
from ..field import Counts, Field
from ..span import Span
from .derivatives import by_differences, by_time_difference, from_vectors, hides_its_time, point_at, vectors
from .matrix import DenseMatrix, Factors, Matrix, Size


class Linear(NamedTuple):
    """A field around a point: ``f(t + s, y + v) = f(t, y) + J v + s f_t + ...``, in rows ``[1, B * D]`` as the field itself.

    Attributes:
        matrix: J of every row.
        at_time: ``f_t``, ``[1, B * D]``; None where ``f`` does not depend on the time.
        rows: B.
        counts: where factorisations are counted.
    """

    matrix: Matrix
    at_time: Rows | None
    rows: int
    counts: Counts

    def times(self, v: Rows) -> Rows:
        """``J v``."""
        return from_vectors(self.matrix.times(vectors(v, self.rows)), v)

    def shifted(self, c: Size) -> Shifted:
        """``I - c J``, factorised: ``c`` a float, 0-d, or ``[B, 1]``."""
        self.counts.factorisations += 1
        return Shifted(self.matrix.shifted(c), self.rows)


class Shifted(NamedTuple):
    """``I - c J`` of every row, factorised."""

    factors: Factors
    rows: int

    def solve(self, b: Rows) -> Rows:
        """x with ``(I - c J) x = b``."""
        return from_vectors(self.factors.solve(vectors(b, self.rows)), b)


class Jacobian(ABC):
    """How the Jacobian is found, and which form it has.

    Attributes:
        full: its systems are solved with all ``[n, n]`` entries.
    """

    full: bool = True

    @abstractmethod
    def at(self, field: Field, span: Span, y: Rows, slope: Rows) -> tuple[Matrix, Rows | None]:
        """J and the time derivative (as far as autograd sees it) at the start of ``span``; ``slope``, the field there, says
        whether somebody wants gradients of them."""


def linearise(field: Field, span: Span, y: Rows, slope: Rows, with_time: bool = True) -> Linear:
    """The field around the start of a step. The same start again (its step was rejected) costs nothing.

    Args:
        span: the step's interval.
        y: state at its start, ``[1, B * D]``.
        slope: of the field there (``history[0][1]``).
        with_time: the time derivative is wanted, too; if not, ``f`` gets times that require no gradient.

    Example:
        >>> linear = linearise(field, span, y, history[0][1])
        >>> x = linear.shifted(gamma * span.sizes(y)).solve(b)  # (I - gamma dt J) x = b
    """
    known = field.linearised
    if known is not None and known[0] is y and known[1] is slope:
        return known[2]
    counts, field.linearises_time = field.counts, with_time
    counts.jacobians += 1
    matrix, at_time = (field.jacobian or Autograd()).at(field, span, y, slope)
    if with_time and counts.hidden_time is None:
        counts.hidden_time = hides_its_time(field, span, y, slope, at_time)
    if with_time and counts.hidden_time:
        at_time = by_time_difference(field, span, y)
    elif at_time is not None:  # infinite where f begins like a root: no reason to stop there
        at_time = torch.where(torch.isfinite(at_time), at_time, 0)
    linear = Linear(matrix, at_time, field.layout.rows, counts)
    field.linearised = (y, slope, linear)
    return linear


class Autograd(Jacobian):
    """All entries, by reverse mode, as gradients of ``f`` are found elsewhere: one evaluation of ``f`` and a backward pass for
    each number of a row. Finite differences where ``f`` leaves autograd no trace."""

    def at(self, field: Field, span: Span, y: Rows, slope: Rows) -> tuple[Matrix, Rows | None]:
        point = point_at(field, span, y, slope)
        if point is None:
            return without_trace(field, span, y)
        one_hot = torch.eye(vectors(slope, field.layout.rows).shape[1], dtype=y.real.dtype, device=y.device)
        by_seed, at_t = point.products(one_hot)
        at_time = None if at_t is None else point.turned(at_t.reshape(len(at_t), -1).T.to(by_seed.dtype))
        return DenseMatrix(by_seed.transpose(0, 1)), at_time


def without_trace(field: Field, span: Span, y: Rows) -> tuple[Matrix, Rows | None]:
    """The same by finite differences."""
    return DenseMatrix(by_differences(field, span, y)), None


class Given(Jacobian):
    """The user's function ``jac(t, y)`` or ``jac(t, y, args)``.

    Args:
        function: returns ``[*batch, D, D]``, entry ``[i, j]`` the derivative of slope i by state j (or for a state of another
            shape that shape twice): of the user's ``f``, in the user's direction of time.
    """

    def __init__(self, function: Any):
        if not callable(function):
            raise InputTypeError(
                f"jac is a {type(function).__name__}, which cannot be called. Give a function jac(t, y) that returns the matrix "
                f"of derivatives, or leave jac out: torch finds them."
            )
        self.function = function

    def at(self, field: Field, span: Span, y: Rows, slope: Rows) -> tuple[Matrix, Rows | None]:
        entries = checked(field.ask(self.function, field.time(span.start()), y), field)
        entries = entries.clone()  # kept over later calls, which may return the same buffer
        if field.turn is not None:
            entries = entries * torch.as_tensor(field.direction, device=y.device).to(entries.dtype).view(-1, 1, 1)
        point = point_at(field, span, y, slope)
        return DenseMatrix(real_entries(entries)), None if point is None else point.time_derivative()


def checked(entries: Any, field: Field) -> Tensor:
    """What ``jac`` returned as ``[B, D, D]``."""
    layout = field.layout
    n = layout.width
    good = isinstance(entries, Tensor) and entries.numel() == layout.rows * n * n
    if not good or entries.shape[: len(layout.batch)] != layout.batch:
        got = f"shape {tuple(entries.shape)}" if isinstance(entries, Tensor) else f"a {type(entries).__name__}"
        raise InputError(
            f"jac(t, y) returned {got}, but the state has {n} numbers in each of {layout.rows} row(s). Return a tensor of shape "
            f"{(*layout.batch, n, n)}: entry [i, j] is the derivative of slope i by state j."
        )
    return entries.reshape(layout.rows, n, n).to(layout.dtype)


def real_entries(entries: Tensor) -> Tensor:
    """``[B, n, n]`` in real numbers: of a complex (so differentiable) function a block for each entry."""
    if not entries.is_complex():
        return entries
    re, im = entries.real, entries.imag
    blocks = torch.stack([torch.stack([re, -im], -1), torch.stack([im, re], -1)], -2)  # [B, D, D, 2, 2]
    b, d = entries.shape[:2]
    return blocks.permute(0, 1, 3, 2, 4).reshape(b, 2 * d, 2 * d)
