"""Banded systems by LAPACK's ``gbtrf`` and ``gbtrs`` (tridiagonal ones by ``gttrf`` and ``gttrs``), which SciPy brings along:
where nobody differentiates, on the CPU."""

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
    """``gbtrf``, ``gbtrs``, ``gttrf`` and ``gttrs`` for numbers of this dtype; None without SciPy."""
    try:
        from scipy.linalg.lapack import get_lapack_funcs
    except ImportError:
        return None
    return get_lapack_funcs(("gbtrf", "gbtrs", "gttrf", "gttrs"), dtype=np.dtype(dtype))


def serves(entries: Tensor) -> bool:
    """Whether LAPACK may factorise this band."""
    asked = torch.is_grad_enabled() or transformed() or torch.compiler.is_compiling()
    return not asked and entries.device.type == "cpu" and routines(str(entries.dtype)[6:]) is not None


def shape_of(n: int, lower: int, upper: int) -> tuple[int, int]:
    """Of the factors of a band with ``n`` columns."""
    return (4, n) if lower == upper == 1 else (n, 2 * lower + upper + 1)


def factorised(band: np.ndarray, lower: int, upper: int) -> tuple[np.ndarray, np.ndarray]:
    """LU and pivots ``[n]`` of one band ``[lower + upper + 1, n]``, the highest diagonal first; nan if it is singular."""
    gbtrf, _, gttrf, _ = routines(band.dtype.name)
    lu = np.zeros(shape_of(band.shape[1], lower, upper), dtype=band.dtype)
    if lower == upper == 1:
        lu[0, :-1], lu[1], lu[2, :-1], lu[3, :-2], pivots, info = gttrf(band[2, :-1], band[1], band[0, 1:])
    else:
        lu[:, lower:] = band.T
        factors, pivots, info = gbtrf(lu.T, lower, upper, overwrite_ab=True)
        lu = np.ascontiguousarray(factors.T)
    if info != 0:
        lu[:] = np.nan
    return lu, pivots


def solved(
    lu: np.ndarray, pivots: np.ndarray, lower: int, upper: int, b: np.ndarray, transposed: bool = False
) -> np.ndarray:
    """x of one system with the right side ``b [n]``."""
    _, gbtrs, _, gttrs = routines(lu.dtype.name)
    if lower == upper == 1:
        x: np.ndarray = gttrs(lu[0, :-1], lu[1], lu[2, :-1], lu[3, :-2], pivots, b, trans="T" if transposed else "N")[0]
    else:
        x = gbtrs(lu.T, lower, upper, b, pivots, trans=int(transposed))[0]
    return x


class LapackFactors(Factors):
    """LU of the bands ``[B, lower + upper + 1, n]``, row by row of the batch."""

    def __init__(self, entries: Tensor, lower: int, upper: int):
        self.lower, self.upper = lower, upper
        self.lu = [factorised(band, lower, upper) for band in entries.detach().numpy()]

    def solve(self, b: Vectors) -> Vectors:
        right = b.detach().resolve_conj().numpy()
        found = [solved(lu, pivots, self.lower, self.upper, x) for (lu, pivots), x in zip(self.lu, right)]
        return torch.from_numpy(found[0][None] if len(found) == 1 else np.stack(found))
