"""Names of ``torchdiffeq._impl.event_handling``."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..functions import combine_event_functions


@torch.no_grad()
def _bisect(
    interp_fn: Callable[[Tensor], Tensor], sign0: Tensor, t0: Tensor, t1: Tensor, event_fn: Callable[..., Any], tol: Any
) -> Tensor:
    for _ in range(max(0, math.ceil(math.log2(float(t1 - t0) / float(tol))))):
        middle = (t0 + t1) / 2
        before = torch.sign(event_fn(middle, interp_fn(middle))) == sign0
        t0, t1 = torch.where(before, middle, t0), torch.where(before, t1, middle)
    return (t0 + t1) / 2


def find_event(
    interp_fn: Callable[[Tensor], Tensor], sign0: Tensor, t0: Tensor, t1: Tensor, event_fn: Callable[..., Any], tol: Any
) -> tuple[Tensor, Tensor]:
    """Time and state of the sign change of ``event_fn`` on ``interp_fn`` between ``t0`` and ``t1``, to ``tol``."""
    event_t = _bisect(interp_fn, sign0, t0, t1, event_fn, tol)
    return event_t, interp_fn(event_t)


__all__ = ["combine_event_functions", "find_event"]
