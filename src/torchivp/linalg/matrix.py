"""The forms of a Jacobian, and what each makes of ``I - c J``: factorise once, solve for every stage.

Everything is real and by rows: B systems of n numbers each (of a complex state the real and imaginary parts). Everything is
made of operations that autograd and ``torch.func`` differentiate, to any order, and none looks at the numbers on the host: a
singular matrix gives a solution that is not finite, which the step-size control rejects.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float, Inexact
from torch import Tensor

Vectors = Inexact[Tensor, "B n"]  # complex ones of a pair of eigenvalues, too
Size = float | complex | Tensor
"""A number for all rows (a Python number, or 0-d), or one for each ``[B, 1]``."""


class Factors(ABC):
    """``I - c J``, ready to solve with."""

    @abstractmethod
    def solve(self, b: Vectors) -> Vectors:
        """x with ``(I - c J) x = b``."""


class Matrix(ABC):
    """A Jacobian of B rows."""

    @abstractmethod
    def times(self, v: Vectors) -> Vectors:
        """``J v``."""

    @abstractmethod
    def shifted(self, c: Size) -> Factors:
        """``I - c J``, factorised."""


class DenseMatrix(Matrix):
    """All entries, ``[B, n, n]``; LU with partial pivoting."""

    def __init__(self, entries: Float[Tensor, "B n n"]):
        self.entries = entries

    def times(self, v: Vectors) -> Vectors:
        return torch.matmul(self.entries, v.unsqueeze(-1)).squeeze(-1)

    def shifted(self, c: Size) -> Factors:
        return DenseFactors(identity_minus(c, self.entries))


def identity_minus(c: Size, entries: Tensor) -> Tensor:
    """``I - c J``, ``[B, n, n]``."""
    n = entries.shape[-1]
    one = torch.eye(n, dtype=entries.dtype, device=entries.device)
    c = c.unsqueeze(-1) if isinstance(c, Tensor) and c.dim() else c
    return one - entries * c


class DenseFactors(Factors):
    """LU factors of matrices ``[B, n, n]``."""

    def __init__(self, matrices: Inexact[Tensor, "B n n"]):
        self.lu, self.pivots, _ = torch.linalg.lu_factor_ex(matrices)

    def solve(self, b: Vectors) -> Vectors:
        return torch.linalg.lu_solve(self.lu, self.pivots, b.unsqueeze(-1)).squeeze(-1)


class DiagonalMatrix(Matrix):
    """Entry by entry, ``[B, n]``."""

    def __init__(self, entries: Vectors):
        self.entries = entries

    def times(self, v: Vectors) -> Vectors:
        return self.entries * v

    def shifted(self, c: Size) -> Factors:
        return DiagonalFactors(1 - self.entries * c)


class DiagonalFactors(Factors):
    """Numbers to divide by, ``[B, n]``."""

    def __init__(self, entries: Vectors):
        self.entries = entries

    def solve(self, b: Vectors) -> Vectors:
        return b / self.entries
