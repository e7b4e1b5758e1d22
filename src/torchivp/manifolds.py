"""Projections onto manifolds, for ``torchivp.methods.Projected``: what takes a state that is nearly there the rest of the way."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import InputError


@dataclass(frozen=True)
class Sphere:
    """The sphere: vectors along the last axis whose length is ``radius``.

    Args:
        radius: the length, positive.

    Raises:
        InputError: for a radius that is not positive.

    Example:
        >>> torchivp.manifolds.Sphere()(torch.tensor([3.0, 4.0]))
        tensor([0.6000, 0.8000])
    """

    radius: float = 1.0

    def __post_init__(self) -> None:
        if not self.radius > 0:
            raise InputError(f"A sphere of radius={self.radius} has no points. Give a positive number.")

    def __call__(self, y: Tensor) -> Tensor:
        return y * (self.radius / torch.linalg.vector_norm(y, dim=-1, keepdim=True))


@dataclass(frozen=True)
class Orthogonal:
    """The orthogonal group O(n), the rotations SO(n) in it, and for complex matrices the unitary group U(n): square matrices in
    the last two axes, whose inverse is their (conjugate) transpose.

    The projection is the nearest such matrix, the orthogonal factor of the polar decomposition. Its determinant has the sign (the
    phase) of the matrix's own: rotations stay rotations. It is found by Newton's iteration, whose derivative exists
    where that of the singular vectors does not: at matrices with equal singular values, which is to say, here.

    Args:
        iterations: of Newton's method. After a step of a solve, three reach rounding; the default does from singular values
            between 0.05 and 20.

    Example:
        >>> torchivp.manifolds.Orthogonal()(torch.tensor([[0.0, -1.1], [0.9, 0.0]]))
        tensor([[ 0., -1.],
                [ 1.,  0.]])

    Source: N. J. Higham, Computing the polar decomposition, with applications (1986), doi:10.1137/0907079.
    """

    iterations: int = 9

    def __call__(self, y: Tensor) -> Tensor:
        for _ in range(self.iterations):
            y = (y + torch.linalg.inv_ex(y.mH).inverse) / 2
        return y
