"""Whether a state that was computed backwards still is the one it should be."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import GradientError


def relative(error: Tensor, *states: Tensor) -> Tensor:
    """Size of an error, relative to the largest of the states."""
    sizes = torch.stack([torch.linalg.vector_norm(y) for y in states])
    return torch.linalg.vector_norm(error) / sizes.amax().clamp(min=torch.finfo(sizes.dtype).tiny)


def check_drift(drift: Tensor | float, rtol: float, what: str) -> None:
    """Raise if a state that was computed backwards has drifted away from the stored one."""
    drift = float(drift)
    most = min(0.5, max(0.1, 1_000 * rtol))
    if not drift <= most:
        raise GradientError(
            f"{what}, computed backwards from the end of the solve, came out {drift:.1%} away from the stored one (more than "
            f"{most:.0%}): the equation is unstable backwards, and so the gradient would be worthless. Write "
            f"gradient='discrete', which does not compute the solution backwards."
        )
