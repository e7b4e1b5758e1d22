"""Rosenbrock coefficients as data, and the form in which one step uses them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .tableau import Number, Row


@dataclass(frozen=True, eq=False)
class RosenbrockTableau:
    """Coefficients of a Rosenbrock method in the form that needs no product with the Jacobian.

    Stage i solves ``(I - gamma dt J) k_i = gamma (f(t + c_i dt, y + dt sum_j a_ij k_j) + sum_j C_ij k_j + d_i dt f_t)``, and
    ``y1 = y + dt sum_i b_i k_i``; ``dt k_i`` is what the literature calls ``u_i``.

    Args:
        order: order p of the propagated solution, with the exact Jacobian.
        gamma: the diagonal.
        c: s nodes, ``c[0] == 0``.
        a: s rows; row i has i entries (row 0 is empty).
        coupling: the s rows of C; row i has i entries.
        d: s factors of the time derivative.
        b: s weights of the propagated solution.
        b_err: s weights of the error estimate, ``b - b_hat``.
        error_order: the exponent the step-size controller divides by.
        embedded_order: order of ``b_hat = b - b_err``.
        dense: weights of the interpolant, as in ``DenseOutput``: P rows (powers of theta) of s entries.
        dense_order: order of the interpolant for every theta in [0, 1].
        w_order: order with any matrix in the place of the Jacobian.
    """

    order: int
    gamma: Number
    c: Row
    a: tuple[Row, ...]
    coupling: tuple[Row, ...]
    d: Row
    b: Row
    b_err: Row
    error_order: int
    embedded_order: int
    dense: tuple[Row, ...]
    dense_order: int
    w_order: int = 1

    @property
    def stages(self) -> int:
        return len(self.b)

    @property
    def fsal(self) -> bool:
        """The last evaluation of ``f`` is the slope at the end of the step."""
        return self.c[-1] == 1 and tuple(self.a[-1]) == tuple(self.b[:-1]) and self.b[-1] == 0


def between_ends(b: Row, rows: Sequence[Row]) -> tuple[Row, ...]:
    """Weights of ``y0 + theta (y1 - y0) + theta (1 - theta) dt (r_0 + theta r_1 + ...)`` with ``r_m = sum_i rows[m][i] k_i``."""
    previous: list[Row] = [tuple(-x for x in b), *rows]
    following: list[Row] = [*rows, (0,) * len(b)]
    return tuple(tuple(y - x for x, y in zip(p, q)) for p, q in zip(previous, following))
