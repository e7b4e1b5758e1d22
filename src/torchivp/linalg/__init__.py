"""Linear algebra of stiff methods: Jacobians, and the systems ``(I - c J) x = b`` (docs/stiff.md)."""

from __future__ import annotations

from .jacobian import Autograd, Given, Jacobian, Linear, linearise
from .matrix import DenseMatrix, DiagonalMatrix, Factors, Matrix

__all__ = [
    "Autograd", "DenseMatrix", "DiagonalMatrix", "Factors", "Given", "Jacobian", "Linear", "Matrix", "linearise",
]  # fmt: skip
