"""What "small enough" means for each row of a batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from .._types import Rows
from ..errors import InputError
from ..names import named
from ..tolerance import Tolerance
from ..transforms import outside_of_transforms

RowNorm = Callable[[Tensor], Tensor]
"""``[1, B * D] -> [B]``"""


@dataclass(frozen=True)
class RowTolerance(Tolerance):
    """The mixed criterion row by row.

    Args:
        norm: of each row; ``name`` says which one it is, ``couple`` that the largest counts for all.
    """

    norm: RowNorm
    name: str = "rms"
    couple: bool = False

    def ratio(self, error: Rows, y0: Rows, y1: Rows, lower: Rows | None = None) -> Tensor:  # type: ignore[override]
        """Error over tolerance of every row ``[B]``; nan where ``y1`` overflowed. Stays on the device."""
        error, y0, y1 = error.detach(), y0.detach(), y1.detach()  # forward mode reaches into no_grad
        return self.ratio_of(error, y0, y1, lower).to(torch.float64)


def of_rows(rows: int, couple: bool, norm: object = "rms") -> RowNorm:
    """The norm of each row; coupled, the largest of them for all: then all rows take the same steps.

    Args:
        norm: ``"rms"`` or ``"max"``.
    """
    if callable(norm) or norm == "rows":
        raise InputError(
            f"norm={norm!r} looks at all rows, and with batch_dims each is judged by itself. Write norm='rms' or 'max'; to let "
            f"the row that is hardest decide for all, add couple=True."
        )

    def rms(x: Tensor) -> Tensor:
        width = x.shape[1] // rows
        x = x.abs() if x.is_complex() else x
        mean = torch.mv((x * x).view(rows, width), mean_of(width, x.dtype, x.device))  # faster than a norm by rows
        return mean.rsqrt().reciprocal()  # sqrt wakes all threads for a few numbers (docs/design/speed.md)

    def largest(x: Tensor) -> Tensor:
        return x.abs().view(rows, -1).amax(1) if x.numel() else x.new_zeros(rows).real

    by_row = named("norm", norm, {"rms": rms, "max": largest})
    return (lambda x: by_row(x).amax().expand(rows)) if couple else by_row


@lru_cache(maxsize=64)
@outside_of_transforms
def mean_of(width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Weights ``[D]`` of a mean."""
    return torch.full((width,), 1 / max(1, width), dtype=dtype, device=device)
