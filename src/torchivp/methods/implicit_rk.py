"""Fully implicit Runge-Kutta methods: one step function for every tableau.

The unknowns are the slopes of all stages together: ``K = F(y + dt A K)``. With ``A = T diag(lambda) T^-1`` the equations of an
iteration, ``(I - dt A x J) dK = F - K``, fall apart into one system of D numbers for each real eigenvalue, and a complex one for
each pair (Hairer & Wanner, Solving ODEs II, section IV.8, doi:10.1007/978-3-642-05221-7).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .._types import Rows, Slopes
from ..field import Field, time_dtype
from ..linalg import DenseMatrix, DiagonalMatrix, Factors, Linear, Matrix, linearise
from ..linalg.kept import matrix_for
from ..linalg.matrix import DenseFactors, Size
from ..linalg.newton import Equations, Measure, Root, constant, root_of, with_gradient
from ..span import Span
from ..transforms import outside_of_transforms
from .base import History, Method, Step
from .explicit_rk import combine, error_estimate, interpolant_weights
from .tableau import Tableau, hermite


class ImplicitRungeKutta(Method):
    """A fully implicit Runge-Kutta method; a subclass is its tableau.

    Attributes:
        tableau: with a first stage at the start, which no other one depends on.
        smoothing: the error estimate is multiplied by ``(I - smoothing * dt J)^-1``.
    """

    tableau: ClassVar[Tableau]
    uses_jacobian = True
    k_are_slopes = False  # but nearly: what the iteration made of them
    smoothing: ClassVar[float] = 0.0

    @property
    def order(self) -> int:  # type: ignore[override]
        return self.tableau.order

    @property
    def error_order(self) -> int | None:  # type: ignore[override]
        return self.tableau.error_order

    def step(self, field: Field, span: Span, y: Rows, history: History) -> Step:
        rk = coefficients(self.tableau, y.dtype, y.device)
        slope = history[0][1]
        stages = Stages(field, span, y, rk)
        factorise = partial(Transformed, rk=rk, smoothing=self.smoothing, width=reals(y, field.layout.rows).shape[-1])
        matrix = matrix_for(field, span, y, slope, span.length, factorise, full=True)
        k, root = stages.root(matrix.solve, constant(slope).expand(len(rk.a), -1))
        matrix.served(root.remains)
        k = torch.cat([slope, k])
        error = None
        if rk.b_err is not None:
            with torch.no_grad():
                error = matrix.factors.smooth(error_estimate(y, rk.b_err, k, span))
        history = ((span.t1, k[-1:]),) if self.tableau.fsal else ()
        return Step(
            combine(y, rk.b, k, span), k, rk.weights, error, history, self.tableau.fsal, solved=root.found,
            origin=matrix.origin, old_matrix=matrix.old,
        )  # fmt: skip


class Stages(NamedTuple):
    """The equations of a step."""

    field: Field
    span: Span
    y: Rows
    rk: _Coefficients

    def states(self, k: Slopes) -> Slopes:
        """``[s, B * D]``."""
        return self.span.advance(self.y, torch.mm(self.rk.a, k))

    def residual(self, k: Slopes) -> Slopes:
        times = self.field.times(self.span, self.rk.from_end)
        stages = zip(times, self.states(k).split(1), k.split(1))
        # The difference is a new tensor, f may return one buffer every time.
        return torch.cat([self.field(t, z) - x for t, z, x in stages])

    def root(self, solve: Callable[[Slopes], Slopes], guess: Slopes) -> tuple[Slopes, Root]:
        """The slopes with their gradient, and how they were found."""
        measure = Measure(self.field.tolerance, self.span, self.y)
        b = self.rk.b[:, 1:]

        def mean(increment: Slopes) -> Rows:
            return torch.linalg.vector_norm(increment, dim=0, keepdim=True).to(self.y.dtype) / len(increment) ** 0.5

        equations = Equations(
            self.residual,
            solve,
            lambda dk, k: measure.of(mean(dk), combine(self.y, b, k, self.span)),
            lambda k: measure.rounding(combine(self.y, b, k, self.span)),
        )
        remains = self.span.everywhere(1.0)
        with torch.no_grad():
            root = root_of(equations, guess, remains)
        k = constant(root.x)
        return with_gradient(k, self.residual, lambda: self.exact(k)), root

    def exact(self, k: Slopes) -> Callable[[Slopes], Slopes]:
        """Solves with the matrix of all stages, a Jacobian at each of them."""
        rows, numbers = self.field.layout.rows, len(k)
        with torch.no_grad():
            jacobians = []
            for t, z, slope in zip(self.span.times(self.rk.from_end), self.states(k).split(1), k.split(1)):
                there = self.span._replace(t=t.detach(), first=None)
                jacobians.append(
                    entries_of(
                        linearise(self.field, there, z, slope, False).matrix,
                        reals(z, rows).shape[-1],
                        rows,
                        self.rk.a_real,
                    )
                )
            weights = self.rk.a_real.to(jacobians[0].dtype).view(numbers, 1, 1, numbers, 1)
            size = self.span.sizes(self.y)
            size = size.view(-1, 1, 1, 1) if isinstance(size, Tensor) and size.dim() else size
            n = jacobians[0].shape[-1]
            blocks = torch.stack(jacobians).unsqueeze(3) * weights * size  # [s, B, n, s, n]
            square = blocks.permute(1, 0, 2, 3, 4).reshape(rows, numbers * n, numbers * n)
            factors = DenseFactors(torch.eye(numbers * n, dtype=square.dtype, device=square.device) - square)

        def solve(b: Slopes) -> Slopes:
            real = reals(b, rows)  # [s, B, n]
            x = factors.solve(real.transpose(0, 1).reshape(rows, -1)).view(rows, numbers, n).transpose(0, 1)
            return from_reals(x, b)

        return solve


class Transformed:
    """``I - c A x J``, factorised by the eigenvalues of A; with it ``I - smoothing c J``, if that is not 0.

    Args:
        c: size of the step, a float or ``[B, 1]``.
        width: real numbers in a row.
    """

    def __init__(self, linear: Linear, c: Size, *, rk: _Coefficients, smoothing: float, width: int):
        self.rk, self.rows = rk, linear.rows
        dense = isinstance(linear.matrix, DenseMatrix | DiagonalMatrix)
        matrix = (
            linear.matrix if dense else DenseMatrix(entries_of(linear.matrix, width, self.rows, rk.a_real))
        )  # complex shifts
        shifts = list(rk.eigenvalues)
        if smoothing and not any(same(x, smoothing) for x in shifts):
            shifts.append(complex(smoothing))
        factors = [matrix.shifted(c * (x.real if x.imag == 0 else x)) for x in shifts]
        linear.counts.factorisations += len(factors)
        self.factors: Sequence[Factors] = factors[: len(rk.eigenvalues)]
        self.smoother = next((f for f, x in zip(factors, shifts) if same(x, smoothing)), None)

    def smooth(self, b: Rows) -> Rows:
        """x with ``(I - smoothing c J) x = b``."""
        return b if self.smoother is None else from_reals(self.smoother.solve(reals(b, self.rows)[0]).unsqueeze(0), b)

    def solve(self, b: Slopes) -> Slopes:
        real = reals(b, self.rows)
        s, rows, n = real.shape
        parts = torch.mm(self.rk.into, real.reshape(s, -1).to(self.rk.into.dtype)).unflatten(1, (rows, n))
        solved = [
            factors.solve(part if x.imag else part.real)
            for factors, part, x in zip(self.factors, parts.unbind(0), self.rk.eigenvalues)
        ]
        parts = torch.stack([x.to(self.rk.into.dtype) for x in solved])
        return from_reals(torch.mm(self.rk.back, parts.view(len(parts), -1)).real.view(s, rows, n), b)


def same(x: complex, y: float) -> bool:
    return abs(x - y) < 1e-9


def reals(x: Slopes, rows: int) -> Tensor:
    """``[s, B, n]`` real numbers of ``[s, B * D]``; n is D, or 2 D for complex ones."""
    return (torch.view_as_real(x.resolve_conj()) if x.is_complex() else x).reshape(len(x), rows, -1)


def from_reals(x: Tensor, like: Slopes) -> Slopes:
    if like.is_complex():
        return torch.view_as_complex(x.reshape(len(x), -1, 2).contiguous())
    return x.reshape(len(x), -1)


def entries_of(matrix: Matrix, width: int, rows: int, like: Tensor) -> Tensor:
    """All entries ``[B, n, n]`` of a matrix of any form."""
    if isinstance(matrix, DenseMatrix):
        return matrix.entries
    one_hot = torch.eye(width, dtype=like.dtype, device=like.device)
    return torch.stack([matrix.times(e.expand(rows, -1)) for e in one_hot], dim=2)


class _Coefficients(NamedTuple):
    """A tableau as tensors of one dtype on one device, without the stage at the start.

    Attributes:
        a: ``[s, s]``; ``a_real`` in the real dtype.
        b, b_err: ``[1, 1 + s]``.
        eigenvalues: of A, one of each pair; ``into [m, s]``, ``back [s, m]``: to their vectors, and from them (twice those of
            a pair, whose other half is the conjugate).
    """

    from_end: Tensor
    a: Tensor
    a_real: Tensor
    b: Tensor
    b_err: Tensor | None
    weights: Tensor
    eigenvalues: tuple[complex, ...]
    into: Tensor
    back: Tensor


@lru_cache(maxsize=256)
@outside_of_transforms
def coefficients(tableau: Tableau, dtype: torch.dtype, device: torch.device) -> _Coefficients:
    a = np.array([[float(x) for x in row[1:]] for row in tableau.a[1:]])
    eigenvalues, vectors = np.linalg.eig(a)
    kept = [i for i, x in enumerate(eigenvalues) if x.imag >= 0]
    inverse = np.linalg.inv(vectors)
    twice = np.array([2.0 if eigenvalues[i].imag else 1.0 for i in kept])
    real = torch.empty((), dtype=dtype).real.dtype
    complex_dtype = torch.promote_types(real, torch.complex64)

    def tensor(x: Any, of: torch.dtype) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(x)).to(device=device, dtype=of)

    def row(numbers: Any) -> Tensor:
        return tensor(np.array([[float(x) for x in numbers]]), dtype)

    return _Coefficients(
        from_end=tensor(np.array([float(c - 1) for c in tableau.c[1:]]), time_dtype(device)),
        a=tensor(a, dtype),
        a_real=tensor(a, real),
        b=row(tableau.b),
        b_err=None if tableau.b_err is None else row(tableau.b_err),
        weights=interpolant_weights(tableau.dense or hermite(tableau), dtype, device),
        eigenvalues=tuple(complex(eigenvalues[i]) for i in kept),
        into=tensor(inverse[kept].astype(complex), complex_dtype),
        back=tensor((vectors[:, kept] * twice).astype(complex), complex_dtype),
    )
