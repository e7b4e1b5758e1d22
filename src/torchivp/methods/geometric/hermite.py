"""Interpolants of methods that know slopes at both ends of a step and the mean slope over it."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction as F
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from ..._types import Rows, Slopes
from ...field import Field, time_dtype
from ...span import Span
from ...transforms import outside_of_transforms
from ..explicit_rk import combine
from ..tableau import Number, Row, c1_weights

# Slopes: at the start, the mean over the step, at the end; the quintic one has two more, at these nodes.
INNER = (F(1, 3), F(2, 3))
CUBIC = c1_weights((0, 1, 0), end=2)
_FREE = (0, 1, 0, 0, 0)
QUINTIC = c1_weights(
    _FREE,
    end=2,
    # The slopes at the nodes minus those of the cubic there, (4 m - f1) / 3 and (4 m - f0) / 3, are r and s; then
    # theta^2 (1 - theta)^2 (-27 / 4 (r + 2 s) + 81 / 4 (r + s) theta) mends both.
    bumps=((F(-9, 2), 27, F(-9, 4), F(-27, 4), F(-27, 2)), (F(27, 4), -54, F(27, 4), F(81, 4), F(81, 4))),
)


def values_at(weights: Sequence[Row], node: Number) -> Row:
    """The weights of the slopes in the value of an interpolant at one node."""
    return tuple(sum(x * node**p for p, x in enumerate(column, 1)) for column in zip(*weights))


class _Tensors(NamedTuple):
    """Interpolants on one device.

    Attributes:
        cubic, quintic: weights ``[P, S]``.
        inner: values at the two inner nodes, of the cubic one and of the quintic one, each ``[1, S]``.
        from_end: where these nodes are, for ``Field.times``; ``end``: the end of the step; ``halfway``: its middle and its end.
    """

    cubic: Tensor
    quintic: Tensor
    inner: tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]
    from_end: Tensor
    end: Tensor
    halfway: Tensor


@lru_cache(maxsize=64)
@outside_of_transforms
def interpolants(dtype: torch.dtype, device: torch.device) -> _Tensors:
    def matrix(rows: Sequence[Row]) -> Tensor:
        return torch.tensor([[float(x) for x in row] for row in rows], dtype=torch.float64).to(device, dtype)

    def values(weights: tuple[Row, ...]) -> tuple[Tensor, Tensor]:
        first, second = (matrix([values_at(weights, node)]) for node in INNER)
        return first, second

    def from_end(*nodes: float) -> Tensor:
        return torch.tensor([node - 1 for node in nodes], dtype=time_dtype(device), device=device)

    return _Tensors(
        cubic=matrix(CUBIC),
        quintic=matrix(QUINTIC),
        inner=(values(CUBIC), values(QUINTIC)),
        from_end=from_end(*map(float, INNER)),
        end=from_end(1.0),
        halfway=from_end(0.5, 1.0),
    )


def with_inner_slopes(field: Field, span: Span, y: Rows, k: Slopes) -> Tensor:
    """The five slopes of the quintic interpolant, of order 5, from the three of the cubic one.

    Slopes at states that the cubic says are wrong by its error, O(dt^4), which makes the quintic wrong by O(dt^5); slopes at
    states that this one says make the next wrong by O(dt^6). That takes four evaluations.
    """
    c = interpolants(y.dtype, y.device)
    times = field.times(span, c.from_end)
    ends: Tensor = k
    inner: tuple[Rows, ...] = ()
    for values in c.inner:
        inner = tuple(field(t, combine(y, at, torch.cat((ends, *inner)), span)) for t, at in zip(times, values))
    return torch.cat((ends, *inner))
