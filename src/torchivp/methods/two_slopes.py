"""What the reversible methods of order 2 share: a step by the mean of the slopes at its two ends."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from .._types import Rows, Slopes
from ..field import time_dtype
from ..span import Span
from ..transforms import outside_of_transforms
from .base import History, Step
from .explicit_rk import combine, error_estimate


class TwoSlopes(NamedTuple):
    """Coefficients over one slope (``one``, ``half``) and over the two ``[start, end]``, on one device.

    Attributes:
        mean: weights of the step.
        error: difference to Euler's method, which is of order 1.
        weights: the interpolant: the slope goes on a straight line from the one to the other.
        end, middle: where in the step, for ``Field.times``.
    """

    one: Tensor
    half: Tensor
    mean: Tensor
    error: Tensor
    weights: Tensor
    end: Tensor
    middle: Tensor


@lru_cache(maxsize=64)
@outside_of_transforms
def two_slopes(dtype: torch.dtype, device: torch.device) -> TwoSlopes:
    def matrix(*rows: tuple[float, ...]) -> Tensor:
        return torch.tensor(rows, dtype=dtype, device=device)

    def from_end(node: float) -> Tensor:
        return torch.full((1,), node, dtype=time_dtype(device), device=device)

    return TwoSlopes(
        one=matrix((1.0,)),
        half=matrix((0.5,)),
        mean=matrix((0.5, 0.5)),
        error=matrix((-0.5, 0.5)),
        weights=matrix((1.0, 0.0), (-0.5, 0.5)),
        end=from_end(0.0),
        middle=from_end(-0.5),
    )


def trapezoid(y: Rows, k: Slopes, span: Span, history: History) -> Step:
    """The step from ``y`` by the mean of the slopes ``k``: at the start and at the end."""
    c = two_slopes(y.dtype, y.device)
    return Step(combine(y, c.mean, k, span), k, c.weights, error_estimate(y, c.error, k, span), history)


def trapezoid_back(y1: Rows, k: Slopes, span: Span) -> Rows:
    """Where ``trapezoid`` came from."""
    return combine(y1, -two_slopes(y1.dtype, y1.device).mean, k, span)
