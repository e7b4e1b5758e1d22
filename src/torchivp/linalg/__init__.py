"""Linear algebra of implicit methods: Jacobians, and the systems ``(I - c J) x = b`` (docs/stiff.md)."""

from __future__ import annotations

from .choose import choose_jacobian
from .jacobian import Autograd, Given, Jacobian, Linear, linearise
from .krylov import MatrixFree
from .matrix import DenseMatrix, DiagonalMatrix, Factors, Matrix
from .structured import Banded, Sparse

__all__ = [
    "Autograd", "Banded", "DenseMatrix", "DiagonalMatrix", "Factors", "Given", "Jacobian", "Linear", "Matrix", "MatrixFree",
    "Sparse", "choose_jacobian", "linearise",
]  # fmt: skip
