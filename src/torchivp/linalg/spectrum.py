"""The outer eigenvalues of a Jacobian, from evaluations of ``f`` alone.

Source: Y. Saad, Numerical Methods for Large Eigenvalue Problems (2011), chapter 6, doi:10.1137/1.9781611970739.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .._types import Rows
from ..field import Field
from ..span import Span
from .derivatives import from_vectors, vectors
from .matrix import Vectors

_MOST, _LEAST = 30, 6  # directions
_ROOM = 2**26  # numbers in all directions together, from which there are fewer
_SMALL = 1e-2  # of the tolerance: a difference that the slope surely shows


@torch.no_grad()
def outer_eigenvalues(field: Field, span: Span, y: Rows) -> Tensor:
    """Eigenvalues ``[B, m]`` of every row's Jacobian at the start of a step, complex128 on the CPU: all of a row with up to 30
    numbers, of a larger one those that lie outermost, nearly (Arnoldi's method). 0 for a row with slopes that are not finite.

    Any ``f`` will do, because products with the Jacobian are differences: m + 1 evaluations. Numbers are measured by their
    tolerance, since what is stiff may be a small one among large ones.

    Args:
        span: the step's interval.
        y: state at its start, ``[1, B * D]``.
    """
    rows, t = field.layout.rows, field.time(span.start())
    x = vectors(y, rows)
    scale = field.tolerance.scale(y)
    unit = vectors(torch.complex(scale, scale) if y.is_complex() else scale, rows)
    counts = unit > 0
    relative = torch.where(counts, x.abs() / unit, 0).amax(1, keepdim=True)
    move = unit * (torch.finfo(x.dtype).eps ** 0.5 * relative).clamp(min=_SMALL)
    base = vectors(field(t, y).clone(), rows)  # f may return one buffer every time

    def product(v: Vectors) -> Vectors:
        slope = vectors(field(t, from_vectors(x + move * v, y)), rows)
        return torch.where(counts, (slope - base) / move, 0)

    most = min(x.shape[1], _MOST, max(_LEAST, _ROOM // max(1, x.numel())))
    projected = arnoldi(product, some_direction(x), most).to("cpu", torch.float64)
    finite = torch.isfinite(projected).all(2).all(1)
    return torch.linalg.eigvals(torch.where(finite.view(-1, 1, 1), projected, 0.0))


def some_direction(like: Vectors) -> Vectors:
    """Of length 1, with a share of every eigenvector: its frequencies are all alike."""
    numbers = torch.arange(1, like.shape[1] + 1, dtype=torch.float64, device="cpu")
    v = torch.cos(numbers**2)
    return (v / torch.linalg.vector_norm(v)).to(like).expand(like.shape)


def arnoldi(product: Callable[[Vectors], Vectors], start: Vectors, most: int) -> Tensor:
    """A linear map of every row in the space of ``most`` powers of it times ``start``, in an orthonormal basis: ``[B, m, m]``."""
    basis, columns = [start], []
    for i in range(most):
        v = product(basis[-1])
        stacked = torch.stack(basis, 1)  # [B, i + 1, n]
        h = torch.zeros(stacked.shape[:2], dtype=v.dtype, device=v.device)
        for _ in range(2):  # twice is enough to be orthogonal
            part = torch.einsum("bin,bn->bi", stacked, v)
            v = v - torch.einsum("bi,bin->bn", part, stacked)
            h = h + part
        rest = torch.linalg.vector_norm(v, dim=1, keepdim=True)
        basis.append(v / torch.where(rest > 0, rest, 1.0))
        columns.append(torch.nn.functional.pad(torch.cat([h, rest], 1), (0, most - i - 1)))
    return torch.stack(columns, 2)[:, :most]
