"""One error from two estimates of different order."""

from __future__ import annotations

import torch
from torch import Tensor

_WEIGHT = 0.1  # of the lower estimate; 0.01 in the formula, which squares it


def combined(error: Tensor, lower: Tensor) -> Tensor:
    """``error**2 / sqrt(error**2 + 0.01 * lower**2)``, of sizes that are not negative, without overflow; 0 where both are 0.

    Estimates of order p and q give one of order ``2 * p - q``. Not finite where one of them is not.

    Source: E. Hairer, S. P. Nørsett, G. Wanner, Solving Ordinary Differential Equations I, section II.10,
    doi:10.1007/978-3-540-78862-1.
    """
    both = torch.hypot(error, _WEIGHT * lower)
    return error * (error / both.clamp(min=torch.finfo(both.dtype).tiny))
