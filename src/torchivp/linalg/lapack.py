"""Banded systems by LAPACK's ``gbtrf`` and ``gbtrs``, which SciPy brings along: where nobody differentiates, on the CPU."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..transforms import transformed
from .matrix import Factors, Vectors


@cache
def routines(dtype: str) -> Any:
    """``gbtrf`` and ``gbtrs`` for numbers of this dtype; None without SciPy."""
    try:
        from scipy.linalg.lapack import get_lapack_funcs
    except ImportError:
        return None
    return get_lapack_funcs(("gbtrf", "gbtrs"), dtype=np.dtype(dtype))


def serves(entries: Tensor) -> bool:
    """Whether LAPACK may factorise this band."""
    asked = torch.is_grad_enabled() or transformed() or torch.compiler.is_compiling()
    return not asked and entries.device.type == "cpu" and routines(str(entries.dtype)[6:]) is not None


class LapackFactors(Factors):
    """LU of the bands ``[B, lower + upper + 1, n]``, the highest diagonal first, row by row of the batch."""

    def __init__(self, entries: Tensor, lower: int, upper: int):
        self.lower, self.upper = lower, upper
        factorise, self.solves = routines(str(entries.dtype)[6:])
        self.lu = []
        for band in entries.detach().numpy():
            room = np.zeros((2 * lower + upper + 1, band.shape[1]), dtype=band.dtype, order="F")
            room[lower:] = band
            lu, pivots, info = factorise(room, lower, upper, overwrite_ab=True)
            self.lu.append((lu if info == 0 else np.full_like(lu, np.nan), pivots))

    def solve(self, b: Vectors) -> Vectors:
        right = b.detach().resolve_conj().numpy()
        found = [self.solves(lu, self.lower, self.upper, x, pivots)[0] for (lu, pivots), x in zip(self.lu, right)]
        return torch.from_numpy(np.stack(found))
