"""Whether a state that was computed backwards still is the one it should be."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import GradientError


def relative(error: Tensor, *states: Tensor) -> Tensor:
    """Size of an error, relative to the largest of the states."""
    sizes = torch.stack([torch.linalg.vector_norm(y) for y in states])
    return torch.linalg.vector_norm(error) / sizes.amax().clamp(min=torch.finfo(sizes.dtype).tiny)


def check_drift(drift: Tensor | float, most: float, what: str) -> None:
    """Raise if ``what``, a state that was computed backwards, is further than ``most`` (relatively) from the stored one."""
    drift = float(drift)
    if not drift <= most:
        raise GradientError(
            f"{what}, computed backwards from the end of the solve, came out {drift:.2g} (relatively) away from the stored one "
            f"(more than {most:.2g}): the equation is unstable backwards, and so the gradient would be worthless. Write "
            f"gradient='discrete', which does not compute the solution backwards."
        )
