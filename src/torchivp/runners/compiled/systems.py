"""The linear systems of implicit steps in a compiled loop: a Jacobian, and ``(I - c J) x = b``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...linalg.lapack import factorised, shape_of, solved
from ...linalg.structured import compare
from .derivatives import derivative_of, flat, leaves_of
from .pure import Pure
from .step import Fixed, Form, State, limited, wide

_SMALL = 16  # numbers up to which a matrix is inverted in the loop: a call of a library costs more

Solve = Callable[[Tensor], Tensor]
"""From b to x, ``[*batch, n]``."""


def linearised(
    form: Form, pure: Pure, fixed: Fixed, held: State, t: Tensor, ys: State
) -> tuple[DenseMatrix | BandMatrix, Tensor]:
    """The Jacobian, and the derivative by the time ``[*batch, n]``, as the library counts it."""
    t = limited(fixed, t)
    t = (t * fixed.sign if form.turned else t).to(form.time_dtype)
    inside = [y.to(dtype) for y, dtype in zip(ys, form.dtypes)]
    *lines, by_time = derivative_of(pure, t, inside, held, form.band)(t, *inside, *held)
    compressed = torch.stack(lines, -2).to(ys[0].dtype)
    compressed = compressed * wide(fixed.sign, compressed) if form.turned else compressed
    by_time = by_time.to(ys[0].dtype)
    return (DenseMatrix(compressed) if form.band is None else BandMatrix(compressed, *form.band)), by_time


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

    def solver(self, c: Tensor, transposed: bool) -> Solve:
        main = torch.arange(self.lower + self.upper + 1, device=c.device).unsqueeze(-1) == self.upper
        band = main.to(c.dtype) - c.unsqueeze(-1) * self.entries
        lu, pivots = band_factors(band, self.lower, self.upper)
        return lambda b: band_solution(lu, pivots, b, self.lower, self.upper, transposed)


def check_band(pure: Pure, t: Tensor, ys: State, held: State, band: tuple[int, int]) -> None:
    """Raise if ``f`` has derivatives outside of the band; asked once, along one direction, as the eager runner does."""
    if ("checked", band) in pure.programs:
        return
    batch = t.dim()
    compressed = torch.stack(derivative_of(pure, t, ys, held, band)(t, *ys, *held)[:-1], -2)
    entries = BandMatrix(compressed, *band).entries
    along = torch.cos(1.0 + torch.arange(entries.shape[-1], device=t.device)).to(entries.dtype)
    lines = torch.nn.functional.pad(along, (band[1], band[0])).unfold(
        0, entries.shape[-1], 1
    )  # what stands left of each entry
    with torch.enable_grad():
        vjp = torch.func.vjp(lambda *ys: tuple(pure(t, ys, held)), *ys)[1]
    found = flat(vjp(leaves_of(along.expand(*t.shape, -1), ys)), batch)
    compare((entries * lines).sum(-2), found)
    pure.programs["checked", band] = True


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
