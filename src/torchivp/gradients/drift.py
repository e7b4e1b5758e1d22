"""Whether a state that was computed backwards still is the one it should be."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import GradientError


def relative(error: Tensor, *states: Tensor, dim: int | None = None) -> Tensor:
    """Size of an error, relative to the largest of the states; row by row with ``dim=1``."""
    sizes = torch.stack([torch.linalg.vector_norm(y, dim=dim) for y in states])
    return torch.linalg.vector_norm(error, dim=dim) / sizes.amax(0).clamp(min=torch.finfo(sizes.dtype).tiny)


def most_drift(rtol: float) -> float:
    """How far the state may come out that the adjoint's backward solve computes with this tolerance."""
    return min(0.5, max(0.1, 1_000 * rtol))


def check_drift(drift: Tensor | float, most: float, what: str) -> None:
    """Raise if ``what``, a state that was computed backwards, is further than ``most`` (relatively) from the stored one."""
    drift = float(drift)
    if not drift <= most:
        raise GradientError(
            f"{what}, computed backwards from the end of the solve, came out {drift:.2g} (relatively) away from the stored one "
            f"(more than {most:.2g}): the equation is unstable backwards, and so the gradient would be worthless. Write "
            f"gradient='discrete', which does not compute the solution backwards."
        )


def check_drift_of_rows(drift: Tensor, most: float) -> None:
    """The same for every row of a batch, ``drift [B]``."""
    rows = (~(drift <= most)).nonzero().flatten().tolist()
    if rows:
        numbers = ", ".join(map(str, rows[:8])) + (", ..." if len(rows) > 8 else "")
        check_drift(drift[rows].max(), most, f"The state of row{'s' * (len(rows) > 1)} {numbers}")
