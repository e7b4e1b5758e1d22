"""A band of diagonals: LU by blocks along the diagonal."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .lapack import LapackFactors, serves
from .matrix import Factors, Matrix, Size, Vectors


class BandedMatrix(Matrix):
    """Entries ``[B, lower + upper + 1, n]`` by diagonal, the highest first: ``entries[:, k, j]`` stands in row ``j + k - upper``,
    column j (zero where there is no such row)."""

    def __init__(self, entries: Tensor, lower: int, upper: int):
        self.entries, self.lower, self.upper = entries, lower, upper

    def times(self, v: Vectors) -> Vectors:
        n = v.shape[1]
        terms = torch.nn.functional.pad(self.entries * v.unsqueeze(1), (self.lower, self.upper))
        lines = (terms[:, k, i : i + n] for k, i in enumerate(reversed(range(self.lower + self.upper + 1))))
        return torch.stack(list(lines)).sum(0)

    def shifted(self, c: Size) -> Factors:
        c = c.unsqueeze(-1) if isinstance(c, Tensor) and c.dim() else c
        shifted = -self.entries * c
        main = shifted[:, self.upper : self.upper + 1] + 1
        entries = torch.cat([shifted[:, : self.upper], main, shifted[:, self.upper + 1 :]], 1)
        kind = LapackFactors if serves(entries) else BlockFactors
        return kind(entries, self.lower, self.upper)


class BlockFactors(Factors):
    """LU of a band cut into blocks ``[B, m, m]``, block tridiagonal; rows are exchanged inside a block."""

    def __init__(self, entries: Tensor, lower: int, upper: int):
        n = entries.shape[2]
        self.m = max(lower, upper, 2 * math.isqrt(n))
        blocks = -(-n // self.m)
        self.padding = blocks * self.m - n
        main, below, above = in_blocks(entries, lower, upper, self.m, blocks)
        self.below = below
        self.lu: list[tuple[Tensor, Tensor]] = []
        self.above: list[Tensor] = []  # what is left of the blocks above, divided by those on the diagonal
        for p in range(blocks):
            block = main[p] - below[p - 1] @ self.above[-1] if p else main[p]
            lu, pivots, _ = torch.linalg.lu_factor_ex(block)
            self.lu.append((lu, pivots))
            if p + 1 < blocks:
                self.above.append(torch.linalg.lu_solve(lu, pivots, above[p]))

    def solve(self, b: Vectors) -> Vectors:
        parts = torch.nn.functional.pad(b, (0, self.padding)).unflatten(1, (-1, self.m, 1)).unbind(1)
        found: list[Tensor] = []
        for p, (lu, pivots) in enumerate(self.lu):
            right = parts[p] - self.below[p - 1] @ found[-1] if p else parts[p]
            found.append(torch.linalg.lu_solve(lu, pivots, right))
        for p in reversed(range(len(found) - 1)):
            found[p] = found[p] - self.above[p] @ found[p + 1]
        return torch.cat(found, 1).squeeze(-1)[:, : b.shape[1]]


def in_blocks(
    entries: Tensor, lower: int, upper: int, m: int, blocks: int
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Blocks ``[B, m, m]`` on the diagonal, below and above it; the identity fills up the last one."""
    width, n = entries.shape[1:]
    device = entries.device
    at = torch.arange(blocks * m, device=device).view(blocks, m)

    def cut(i: Tensor, j: Tensor) -> tuple[Tensor, ...]:
        k = i.unsqueeze(2) - j.unsqueeze(1) + upper  # [blocks, m, m]
        j = j.unsqueeze(1).expand_as(k)
        known = (k >= 0) & (k < width) & (i.unsqueeze(2) < n) & (j < n)
        picked = entries[:, k.clamp(0, width - 1), j.clamp(max=n - 1)]
        fill = (k == upper).to(entries.dtype) * (j >= n)
        return torch.where(known, picked, fill).unbind(1)

    return cut(at, at), cut(at[1:], at[:-1]), cut(at[:-1], at[1:])
