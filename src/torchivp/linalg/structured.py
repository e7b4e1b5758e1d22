"""Jacobians of which one knows where their entries are: a diagonal, a band, a pattern.

Rows of the matrix that share no column come out of one product with a cotangent, and columns that share no row out of one with a
tangent: as few products are taken as groups of such rows (or columns) are needed.

Source: A. R. Curtis, M. J. D. Powell, J. K. Reid, On the estimation of sparse Jacobian matrices (1974),
doi:10.1093/imamat/13.1.117.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .._types import Rows
from ..errors import InputError
from ..field import Field
from ..span import Span
from ..transforms import outside_of_transforms, recorded
from .banded import BandedMatrix
from .derivatives import Point, point_at, vectors
from .jacobian import Jacobian, without_trace
from .matrix import DenseMatrix, DiagonalMatrix, Matrix

_DENSE = 200  # up to so many numbers LU of the whole matrix is faster than of the blocks along its diagonal


class Banded(Jacobian):
    """Entries ``[i, j]`` with ``-upper <= i - j <= lower`` alone: a diagonal for (0, 0).

    Args:
        lower, upper: how many diagonals there are below and above the main one.

    Example:
        >>> torchivp.solve(f, y0, t, method="rodas5p", jac=torchivp.linalg.Banded(1, 1))
    """

    full = False

    def __init__(self, lower: int, upper: int):
        if min(lower, upper) < 0:
            raise InputError(
                f"Banded({lower}, {upper}) counts diagonals below and above the main one. Give numbers from 0 on."
            )
        self.lower, self.upper = lower, upper

    def at(self, field: Field, span: Span, y: Rows, slope: Rows) -> tuple[Matrix, Rows | None]:
        point = point_at(field, span, y, slope)
        if point is None:
            return without_trace(field, span, y)
        double = 2 if y.is_complex() else 1  # real and imaginary parts lie side by side
        lower, upper = (double * (w + 1) - 1 for w in (self.lower, self.upper))
        band = places(vectors(y, field.layout.rows).shape[1], lower, upper, y.real.dtype, y.device)
        by_colour, at_time = point.products(band.seeds)
        matrix = band_matrix(by_colour.transpose(0, 1), band, lower, upper)
        check(matrix, point, y)
        return matrix, None if at_time is None else point.time_derivative()

    def __repr__(self) -> str:
        return f"Banded({self.lower}, {self.upper})"


class Places(NamedTuple):
    """Where the entries of a band are found.

    Attributes:
        colours: of each row, ``[n]``; ``seeds [G, n]``: what adds up the rows of a colour.
        row, inside: of each entry of the band ``[w, n]``, the colour of its row, and whether there is such a row.
    """

    colours: Tensor
    seeds: Tensor
    row: Tensor
    inside: Tensor


@lru_cache(maxsize=64)
@outside_of_transforms
def places(n: int, lower: int, upper: int, dtype: torch.dtype, device: torch.device) -> Places:
    at = torch.arange(n, device=device)
    colours = at % (lower + upper + 1)
    row = at + torch.arange(-upper, lower + 1, device=device).unsqueeze(1)
    one_hot = torch.nn.functional.one_hot(colours).T.to(dtype)
    return Places(colours, one_hot, colours[row.clamp(0, n - 1)], (row >= 0) & (row < n))


def band_matrix(compressed: Tensor, band: Places, lower: int, upper: int) -> Matrix:
    """The matrix from sums of its rows by colour, ``[B, G, n]``."""
    n = len(band.colours)
    if lower == upper == 0:
        return DiagonalMatrix(compressed[:, 0])
    if n <= _DENSE:
        at = torch.arange(n, device=band.colours.device)
        off = at.unsqueeze(1) - at
        return DenseMatrix(torch.where((off <= lower) & (off >= -upper), compressed[:, band.colours], 0))
    entries = compressed.gather(1, band.row.expand(len(compressed), -1, -1))
    return BandedMatrix(torch.where(band.inside, entries, 0), lower, upper)


class Sparse(Jacobian):
    """Entries where a pattern says so.

    Args:
        pattern: ``[D, D]``, not zero where slope i depends on state j: a tensor, an array, or a sparse one of torch or SciPy.

    Example:
        >>> torchivp.solve(f, y0, t, method="rodas5p", jac_sparsity=pattern)
    """

    def __init__(self, pattern: Any):
        self.pattern = as_mask(pattern)
        self.groups: dict[bool, Groups] = {}

    def at(self, field: Field, span: Span, y: Rows, slope: Rows) -> tuple[Matrix, Rows | None]:
        point = point_at(field, span, y, slope)
        if point is None:
            return without_trace(field, span, y)
        groups = self.groups_for(field, y)
        pattern, colours = groups.pattern.to(y.device), groups.colours.to(y.device)
        if groups.of_rows:
            entries = point.products(seeds(colours, y))[0].transpose(0, 1)[:, colours]
        else:
            entries = point.tangent_products(seeds(colours, y)).transpose(0, 1)[:, colours].mT
        matrix = DenseMatrix(torch.where(pattern, entries, 0))
        check(matrix, point, y)
        return matrix, point.time_derivative()

    def groups_for(self, field: Field, y: Rows) -> Groups:
        """Of the real numbers in a state."""
        if len(self.pattern) != field.layout.width:
            raise InputError(
                f"jac_sparsity has shape {tuple(self.pattern.shape)}, but a state holds {field.layout.width} number(s). Give a "
                f"pattern of shape {(field.layout.width,) * 2}: entry [i, j] says whether slope i depends on state j."
            )
        if y.is_complex() not in self.groups:
            double = np.ones((2, 2), dtype=bool)
            pattern = np.kron(self.pattern, double) if y.is_complex() else self.pattern
            self.groups[y.is_complex()] = Groups(pattern)
        return self.groups[y.is_complex()]

    def __repr__(self) -> str:
        return f"Sparse({len(self.pattern)}x{len(self.pattern)}, {int(self.pattern.sum())} entries)"


def as_mask(pattern: Any) -> np.ndarray:
    """Where a pattern is not zero."""
    if isinstance(pattern, Tensor):
        pattern = (pattern.to_dense() if pattern.layout != torch.strided else pattern).detach().cpu().numpy()
    elif hasattr(pattern, "toarray"):
        pattern = pattern.toarray()
    mask = np.asarray(pattern) != 0
    if mask.ndim != 2 or mask.shape[0] != mask.shape[1]:
        raise InputError(
            f"jac_sparsity has shape {mask.shape}, but a pattern is a square matrix: entry [i, j] says whether slope i depends "
            f"on state j."
        )
    return mask


class Groups:
    """Rows (or columns) of a pattern in groups whose members share no column (row).

    Attributes:
        of_rows: which of the two needs fewer groups.
        colours: group of each, ``[n]``; ``number``: of groups.
    """

    def __init__(self, pattern: np.ndarray):
        rows, columns = coloured(pattern), coloured(pattern.T)
        self.of_rows = rows.max() <= columns.max()
        colours = rows if self.of_rows else columns
        self.pattern, self.colours = torch.from_numpy(pattern), torch.from_numpy(colours)
        self.number = int(colours.max()) + 1


def coloured(pattern: np.ndarray) -> np.ndarray:
    """The group of each row, by the greedy rule: the first one without a member that shares a column; densest rows first."""
    colours = np.zeros(len(pattern), dtype=np.int64)
    taken: list[np.ndarray] = []  # columns, by group
    for i in np.argsort(-pattern.sum(1), kind="stable"):
        row = pattern[i]
        colour = next((g for g, columns in enumerate(taken) if not (columns & row).any()), len(taken))
        if colour == len(taken):
            taken.append(np.zeros_like(row))
        taken[colour] |= row
        colours[i] = colour
    return colours


def seeds(colours: Tensor, y: Rows) -> Tensor:
    """One for each colour, ``[G, n]``: 1 where the number has it."""
    return torch.nn.functional.one_hot(colours).T.to(y.real.dtype)


def check(matrix: Matrix, point: Point, y: Rows) -> None:
    """Raise if ``f`` has derivatives where the structure says that there are none; asked once, along one direction."""
    counts = point.field.counts
    if counts.structure_checked or recorded():
        return
    counts.structure_checked = True
    x = vectors(y, point.field.layout.rows)
    along = torch.cos(1.0 + torch.arange(x.shape[1], device=y.device)).to(x.dtype)
    with torch.no_grad():
        found = point.tangent_products(along.unsqueeze(0))[0]
    compare(matrix.times(along.expand_as(x)), found)


def compare(known: Tensor, found: Tensor) -> None:
    """Raise where a product with the entries that are known is another one than that with the Jacobian itself."""
    known, found = known.detach(), found.detach()
    off, size = float((found - known).abs().amax()), float(found.abs().amax())
    if off > 100 * torch.finfo(found.dtype).eps ** 0.5 * size:
        raise InputError(
            f"The Jacobian has entries outside of the structure it was said to have: along one direction its product is off by "
            f"{off:.3g} of {size:.3g}. Give a jac_sparsity that covers every entry that can be nonzero, or leave it out."
        )
