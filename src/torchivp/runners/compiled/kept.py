"""The matrix of an iteration, carried through a compiled loop for as long as it serves: the rules of ``linalg.kept``."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ...field import Field
from ...linalg.kept import NEAR, SLOW
from .program import kept
from .step import Carry
from .systems import BandMatrix, DenseMatrix


class Keep(NamedTuple):
    """What is carried from attempt to attempt.

    Attributes:
        counts: Jacobians found and matrices factorised so far, int64 ``[2]``.
        marks: of every row, float64 ``[3, *batch]``: start of the step that its Jacobian was found for, ``c`` of its matrix, and
            whether the iteration was slow (at the start: it would be).
        jacobian: ``[*batch, n, n]``; ``lu``, ``pivots``: factors of ``I - c J``.
    """

    counts: Tensor
    marks: Tensor
    jacobian: Tensor
    lu: Tensor
    pivots: Tensor

    def of_rows(self, rows: Tensor, field: Field) -> Keep:
        """That of these rows ``[n]`` alone, as ``linalg.kept`` has it."""
        n = self.pivots.shape[-1]
        jacobian, lu = (x.reshape(-1, n, n)[rows] for x in (self.jacobian, self.lu))
        return Keep(self.counts, self.marks.reshape(3, -1)[:, rows], jacobian, lu, self.pivots.reshape(-1, n)[rows])


def nothing_kept(at: Carry) -> Keep:
    """Before the first attempt from there."""
    batch, y = at.t.shape, at.ys[0]
    width = sum(y.numel() for y in at.ys) // max(1, at.t.numel())
    marks = torch.tensor([torch.nan, 1.0, 1.0], dtype=torch.float64, device=y.device)
    matrix = y.new_zeros(*batch, width, width)
    return Keep(
        torch.zeros(2, dtype=torch.int64, device=y.device),
        marks.reshape(-1, *[1] * len(batch)).expand(-1, *batch).clone(),
        matrix,
        matrix.clone(),
        torch.zeros(*batch, width, dtype=torch.int32, device=y.device),
    )


class Serving(NamedTuple):
    """The matrix that a step iterates with.

    Attributes:
        keep: with the marks as they are before the iteration.
        scale: what solutions are multiplied by, ``[*batch, 1]``.
        still: whose step has no size (their matrix is the identity), ``[*batch, 1]``.
        old: the Jacobian is that of another step, ``[*batch]``.
        found: how many Jacobians were found for it, 0-d.
    """

    keep: Keep
    scale: Tensor
    still: Tensor
    old: Tensor
    found: Tensor

    def smooth(self, b: Tensor) -> Tensor:
        """x of the systems with right sides ``[*batch, n]``, with the matrix as it is."""
        return torch.linalg.lu_solve(self.keep.lu, self.keep.pivots, b.unsqueeze(-1)).squeeze(-1)

    def solve(self, b: Tensor) -> Tensor:
        """With the exact one, nearly."""
        return torch.where(self.still, b, self.smooth(b) * self.scale)

    def served(self, most: Tensor) -> Keep:
        """What the next attempt gets, if so much ``[*batch]`` remained of increments."""
        step, c, before = self.keep.marks.unbind(0)
        slow = (self.old & (most > SLOW)).to(torch.float64)
        slow = torch.where(self.still.squeeze(-1), before, slow)  # a row may wait for others before it goes on
        return self.keep._replace(marks=torch.stack([step, c, slow]))


def renewed(
    keep: Keep, t: Tensor, c: Tensor, moving: Tensor, jacobian: Callable[[], DenseMatrix | BandMatrix]
) -> Serving:
    """The matrix for steps that start at ``t``, with the rows renewed that need it.

    Args:
        c: of the exact matrix, float64 ``[*batch]``; ``moving``: whose steps have a size.
        jacobian: finds that of all rows.
    """
    step, was, slow = keep.marks.unbind(0)
    anew = moving & (slow > 0)
    resized = anew | (moving & ((c / was - 1).abs() > NEAR))
    step, now = torch.where(anew, t, step), torch.where(resized, c, was)

    def wanted(go: Tensor, *rest: Tensor) -> Tensor:
        return go != 0

    def found(go: Tensor, entries: Tensor) -> tuple[Tensor, Tensor]:
        return go * 0, torch.where(anew[..., None, None], jacobian().entries, entries).contiguous()

    some_anew, some_resized = (rows.any().to(torch.int64) for rows in (anew, resized))
    _, entries = kept(wanted, found, (some_anew, keep.jacobian))

    def factorised(go: Tensor, lu: Tensor, pivots: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        matrix = DenseMatrix(entries).minus_identity(now.unsqueeze(-1).to(entries.dtype))
        new, order, _ = torch.linalg.lu_factor_ex(matrix)
        rows = resized.unsqueeze(-1)
        return go * 0, torch.where(rows.unsqueeze(-1), new, lu).contiguous(), torch.where(rows, order, pivots)

    _, lu, pivots = kept(wanted, factorised, (some_resized, keep.lu, keep.pivots))
    scale = torch.where(c == now, torch.ones_like(c), 2 / (1 + c / now)).unsqueeze(-1).to(entries.dtype)
    after = Keep(
        keep.counts + torch.stack([some_anew, some_resized]), torch.stack([step, now, slow]), entries, lu, pivots
    )
    return Serving(after, scale, ~moving.unsqueeze(-1), step != t, some_anew)
