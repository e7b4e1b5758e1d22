"""Systems of large states without a matrix: GMRES, with products that automatic differentiation takes.

Source: Y. Saad, M. H. Schultz, GMRES (1986), doi:10.1137/0907058.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .._types import Rows
from ..errors import GradientError, InputError
from ..field import Field
from ..span import Span
from ..transforms import recorded
from .derivatives import Recorded, point_at
from .jacobian import Jacobian, without_trace
from .matrix import Factors, Matrix, Size, Vectors

Product = Callable[[Vectors], Vectors]


class MatrixFree(Jacobian):
    """No entries at all: systems are solved by GMRES, one product with the Jacobian (two backward passes of ``f``) an
    iteration. A system that does not converge rejects its step, and a smaller one converges sooner.

    Args:
        tol: residual over right side at which a system counts as solved.
        most: iterations for a system, all of whose directions are kept.

    Example:
        >>> torchivp.solve(f, y0, t, method="rodas5p", jac=torchivp.linalg.MatrixFree())
    """

    full = False

    def __init__(self, tol: float = 1e-10, most: int = 100):
        if not 0 < tol < 1 or most < 1:
            raise InputError(
                f"MatrixFree(tol={tol}, most={most}): give a tol between 0 and 1, and iterations from 1 on."
            )
        self.tol, self.most = tol, most

    def at(self, field: Field, span: Span, y: Rows, slope: Rows) -> tuple[Matrix, Rows | None]:
        if recorded():
            raise GradientError(
                "MatrixFree solves its systems by an iteration that torch.func transforms and forward mode cannot look into. "
                "Leave the transform, or give another jac (the default finds all entries)."
            )
        point = point_at(field, span, y, slope)
        if not isinstance(point, Recorded):
            return without_trace(field, span, y)
        return Operator(point, self.tol, self.most), point.time_derivative()

    def __repr__(self) -> str:
        return f"MatrixFree(tol={self.tol:g}, most={self.most})"


class Operator(Matrix):
    """Products with a Jacobian.

    Args:
        point: the field with its graph.
        tol, most: of GMRES.
    """

    def __init__(self, point: Recorded, tol: float, most: int):
        self.point, self.tol, self.most = point, tol, most
        self.dummy, _, self.back = point.back()

    def times(self, v: Vectors) -> Vectors:
        return self.product(v, self.point.wanted)

    def product(self, v: Vectors, wanted: bool = False) -> Vectors:
        """``J v``; ``wanted``: with its gradient."""
        return _along(self.back, self.dummy, v, wanted)

    def transposed(self, w: Vectors) -> Vectors:
        """``J^T w``."""
        return _along(self.point.value, self.point.x, w, False)

    def shifted(self, c: Size) -> Factors:
        return Iterated(self, c)


def _along(value: Tensor | None, x: Tensor, v: Vectors, wanted: bool) -> Vectors:
    if value is None or not value.requires_grad:
        return torch.zeros_like(v)
    (found,) = torch.autograd.grad(value, x, v, create_graph=wanted, retain_graph=True, allow_unused=True)
    return torch.zeros_like(v) if found is None else found


class Iterated(Factors):
    """Nothing but what is needed to solve ``(I - c J) x = b`` again and again."""

    def __init__(self, operator: Operator, c: Size):
        self.operator, self.c = operator, c

    def solve(self, b: Vectors) -> Vectors:
        """The solution; its gradient is that of the equation, by GMRES with the transposed matrix."""
        of, c = self.operator, self.c
        fixed = c.detach() if isinstance(c, Tensor) else c
        x = gmres(lambda v: v - fixed * of.product(v), b.detach(), of.tol, of.most)
        if not (torch.is_grad_enabled() and (b.requires_grad or of.point.wanted)):
            return x
        residual = b - x + c * of.times(x)

        def back(cotangent: Vectors) -> Vectors:
            return gmres(lambda w: w - of.transposed(fixed * w), cotangent, of.tol, of.most)

        found: Tensor = _Solution.apply(residual, x, back)
        return found


class _Solution(torch.autograd.Function):
    """x, as the function of the right side of its equation that it is."""

    @staticmethod
    def forward(ctx: Any, residual: Tensor, x: Tensor, back: Product) -> Tensor:
        ctx.back = back
        return x.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None, None]:
        return ctx.back(cotangent), None, None


@torch.no_grad()
def gmres(product: Product, b: Vectors, tol: float, most: int) -> Vectors:
    """x with ``product(x) = b`` for every row, from 0, in at most ``most`` products; nan where that was not enough.

    Looks at the residual once an iteration, which costs a host synchronisation.
    """
    size = torch.linalg.vector_norm(b, dim=1, keepdim=True)
    basis = [b / torch.where(size > 0, size, 1.0)]
    columns: list[Tensor] = []
    first = torch.zeros(len(b), most + 1, 1, dtype=b.dtype, device=b.device)
    first[:, 0] = 1
    for i in range(most):
        v = product(basis[-1])
        stacked = torch.stack(basis, 1)  # [B, i + 1, n]
        h = torch.zeros(len(b), i + 1, dtype=b.dtype, device=b.device)
        for _ in range(2):  # twice is enough to be orthogonal
            part = torch.einsum("bin,bn->bi", stacked, v)
            v = v - torch.einsum("bi,bin->bn", part, stacked)
            h = h + part
        rest = torch.linalg.vector_norm(v, dim=1, keepdim=True)
        columns.append(torch.cat([h, rest], 1))
        basis.append(v / torch.where(rest > 0, rest, 1.0))
        hessenberg = torch.stack([torch.nn.functional.pad(x, (0, i + 2 - x.shape[1])) for x in columns], 2)
        q, r = torch.linalg.qr(hessenberg)  # [B, i + 2, i + 1]
        done = r.diagonal(dim1=1, dim2=2) == 0  # a row that was solved before the others, or whose right side is 0
        y = torch.linalg.solve_triangular(r + torch.diag_embed(done.to(r.dtype)), q.mT @ first[:, : i + 2], upper=True)
        off = torch.linalg.vector_norm(hessenberg @ y - first[:, : i + 2], dim=(1, 2))
        off = torch.where(size.squeeze(1) > 0, off, 0.0)
        if not float(off.max()) > tol:
            break
    x = torch.einsum("bin,bi->bn", stacked, y.squeeze(-1)) * size
    return torch.where((off <= tol).unsqueeze(1), x, torch.nan)
