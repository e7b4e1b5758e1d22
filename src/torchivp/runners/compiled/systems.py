"""The linear systems of implicit steps in a compiled loop, ``(I - c J) x = b``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...linalg.lapack import factorised, shape_of, solved

_SMALL = 16  # numbers up to which a matrix is inverted in the loop: a call of a library costs more

Solve = Callable[[Tensor], Tensor]
"""From b to x, ``[*batch, n]``."""


class DenseMatrix(NamedTuple):
    """All entries, ``[*batch, n, n]``."""

    entries: Tensor

    def minus_identity(self, c: Tensor) -> Tensor:
        n = self.entries.shape[-1]
        unit = torch.eye(n, dtype=self.entries.dtype, device=self.entries.device)
        return unit - c.unsqueeze(-1) * self.entries

    def shifted(self, c: Tensor) -> Solve:
        """Solves with ``I - c J``, c ``[*batch, 1]``."""
        return solver(self.minus_identity(c))

    def transposed(self, c: Tensor) -> Solve:
        """Solves with its transpose."""
        return solver(self.minus_identity(c).mT)

    def times_from_left(self, x: Tensor) -> Tensor:
        """``x J``, for ``[n]``."""
        return (self.entries * x.unsqueeze(-1)).sum(-2)


class BandMatrix(NamedTuple):
    """A band, from sums of its rows by colour ``[*batch, lower + upper + 1, n]``: no two rows of a colour share a column."""

    compressed: Tensor
    lower: int
    upper: int

    @property
    def entries(self) -> Tensor:
        """By diagonal, the highest first, as in ``linalg.banded``."""
        colours, n = self.compressed.shape[-2:]
        at = torch.arange(n, device=self.compressed.device)
        row = at + torch.arange(-self.upper, self.lower + 1, device=at.device).unsqueeze(1)
        picked = self.compressed.gather(-2, (row % colours).expand(self.compressed.shape))
        return torch.where((row >= 0) & (row < n), picked, 0.0)

    def shifted(self, c: Tensor) -> Solve:
        """Solves with ``I - c J``, c ``[*batch, 1]``."""
        return self.solver(c, False)

    def transposed(self, c: Tensor) -> Solve:
        """Solves with its transpose."""
        return self.solver(c, True)

    def times_from_left(self, x: Tensor) -> Tensor:
        """``x J``, for ``[n]``."""
        lines = torch.nn.functional.pad(x, (self.upper, self.lower)).unfold(0, len(x), 1)  # what is left of each entry
        return (self.entries * lines).sum(-2)

    def solver(self, c: Tensor, transposed: bool) -> Solve:
        main = torch.arange(self.lower + self.upper + 1, device=c.device).unsqueeze(-1) == self.upper
        band = main.to(c.dtype) - c.unsqueeze(-1) * self.entries
        lu, pivots = band_factors(band.detach(), self.lower, self.upper)
        how = self.lower, self.upper, transposed
        return lambda b: BandSolved.apply(band, lu, pivots, b, *how)


class BandSolved(torch.autograd.Function):
    """x of a system with a band, differentiable by the band and the right side."""

    @staticmethod
    def forward(
        band: Tensor, lu: Tensor, pivots: Tensor, b: Tensor, lower: int, upper: int, transposed: bool
    ) -> Tensor:
        x: Tensor = band_solution(lu, pivots, b, lower, upper, transposed)
        return x

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, lu, pivots, _, *ctx.how = inputs
        ctx.save_for_backward(lu, pivots, output)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Any, ...]:
        lower, upper, transposed = ctx.how
        lu, pivots, x = ctx.saved_tensors
        at_b = band_solution(lu, pivots, cotangent, lower, upper, not transposed)
        row, column = (x, at_b) if transposed else (at_b, x)
        at_band = -torch.nn.functional.pad(row, (upper, lower)).unfold(-1, x.shape[-1], 1) * column.unsqueeze(-2)
        return at_band, None, None, at_b, None, None, None


def _factors(band: Tensor, lower: int, upper: int) -> tuple[Tensor, Tensor]:
    batch = band.shape[:-2]
    pairs = [factorised(x, lower, upper) for x in band.reshape(-1, *band.shape[-2:]).numpy()]
    lu, pivots = (torch.from_numpy(np.stack(x)) for x in zip(*pairs))
    return lu.reshape(*batch, *lu.shape[1:]), pivots.reshape(*batch, -1)


def _factors_fake(band: Tensor, lower: int, upper: int) -> tuple[Tensor, Tensor]:
    *batch, _, n = band.shape
    return band.new_empty(*batch, *shape_of(n, lower, upper)), band.new_empty(*batch, n, dtype=torch.int32)


def _solution(lu: Tensor, pivots: Tensor, b: Tensor, lower: int, upper: int, transposed: bool) -> Tensor:
    if b.dim() == 1:
        return torch.from_numpy(solved(lu.numpy(), pivots.numpy(), lower, upper, b.numpy(), transposed))
    factors, n = lu.reshape(-1, *lu.shape[-2:]).numpy(), b.shape[-1]
    rows = zip(factors, pivots.reshape(-1, n).numpy(), b.reshape(-1, n).numpy())
    return torch.from_numpy(np.stack([solved(x, p, lower, upper, line, transposed) for x, p, line in rows])).reshape(
        b.shape
    )


def _solution_fake(lu: Tensor, pivots: Tensor, b: Tensor, lower: int, upper: int, transposed: bool) -> Tensor:
    return torch.empty_like(b)


# Registered by hand: what torch.library.custom_op adds to every call takes longer than the elimination.
_OPERATORS = torch.library.Library("torchivp", "FRAGMENT")
_OPERATORS.define("band_factors(Tensor band, int lower, int upper) -> (Tensor, Tensor)")
_OPERATORS.define("band_solution(Tensor lu, Tensor pivots, Tensor b, int lower, int upper, bool transposed) -> Tensor")
_OPERATORS.impl("band_factors", _factors, "CPU")
_OPERATORS.impl("band_solution", _solution, "CPU")
torch.library.register_fake("torchivp::band_factors", _factors_fake, lib=_OPERATORS)
torch.library.register_fake("torchivp::band_solution", _solution_fake, lib=_OPERATORS)
band_factors: Any = torch.ops.torchivp.band_factors.default
"""LU ``[*batch, ...]`` and pivots ``[*batch, n]`` of bands ``[*batch, lower + upper + 1, n]``, by LAPACK."""
band_solution: Any = torch.ops.torchivp.band_solution.default
"""x of the systems with right sides ``[*batch, n]``."""


def solver(matrix: Tensor) -> Solve:
    """``solve(b)`` is x with ``matrix x = b``, for ``[*batch, n, n]`` and ``[*batch, n]``."""
    if matrix.shape[-1] <= _SMALL:
        inverted = inverse(matrix)
        return lambda b: (inverted * b.unsqueeze(-2)).sum(-1)
    factors, pivots, _ = torch.linalg.lu_factor_ex(matrix)
    return lambda b: torch.linalg.lu_solve(factors, pivots, b.unsqueeze(-1)).squeeze(-1)


def inverse(matrix: Tensor) -> Tensor:
    """Of small matrices ``[*batch, n, n]``, by Gauss and Jordan with pivots from the column; nan or inf where there is none."""
    n = matrix.shape[-1]
    rows = torch.arange(n, device=matrix.device)
    unit = torch.eye(n, dtype=matrix.dtype, device=matrix.device).expand(matrix.shape)
    both = torch.cat((matrix, unit), -1)
    for k in range(n):
        pivot = (both[..., k:, k].abs().argmax(-1) + k).unsqueeze(-1)
        order = torch.where(rows == k, pivot, torch.where(rows == pivot, k, rows))
        both = both.gather(-2, order.unsqueeze(-1).expand(both.shape))
        line = both[..., k : k + 1, :] / both[..., k : k + 1, k : k + 1]
        both = torch.where((rows == k).unsqueeze(-1), line, both - both[..., :, k : k + 1] * line)
    return both[..., n:]
