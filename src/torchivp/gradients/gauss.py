"""``gradient="gauss"``: the adjoint along the stored solution, and the parameters' integral by Gauss quadrature.

While the adjoint is solved backwards nothing is differentiated with respect to parameters; after each accepted step the
integral over it is taken with a few Gauss points on the step's polynomials.

Source: A. Norcliffe, M. P. Deisenroth, Faster training of neural ODEs using Gauss-Legendre quadrature (2023),
doi:10.48550/arXiv.2308.10644.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._types import BackwardRow, Rows
from ..field import Field
from ..loop import TakenStep
from ..state import Layout
from ..tolerance import Tolerance
from .backsolve import Linearised, System
from .interpolated import Interpolated
from .quadrature import PointIntegral
from .stored import Stored


@dataclass(frozen=True)
class Gauss(Interpolated):
    """The adjoint along the stored dense solution, the parameters by Gauss quadrature: fewest derivatives with respect to
    parameters, so the one for many of them.

    Args:
        method, rtol, atol, every, checkpoints: as for ``Interpolated``.

    Example:
        >>> torchivp.solve(f, y0, t, gradient="gauss")
    """

    def system(self, linear: Linearised, y: Rows, kept: Any) -> System:
        return ByPoints(linear, y, Stored(kept.read(linear.field)))


class ByPoints(System):
    """Rows of the adjoint alone.

    Args:
        linear: the forward field.
        y: a state, for its size and dtype.
        solution: the stored one.
    """

    def __init__(self, linear: Linearised, y: Rows, solution: Stored):
        self.linear = linear
        self.solution = solution
        self.totals = [torch.zeros_like(p) for p in linear.params]
        self.integral = PointIntegral(linear.at, lambda t, row: solution(t), self.adjoint, linear.params, self.totals)
        self.field = Field(self.slope, Layout(torch.zeros_like(y)), direction=-1)

    def slope(self, t: Tensor, row: BackwardRow) -> BackwardRow:
        return -self.linear(t, self.solution(t), row, wrt_params=False)[1]

    def begin(self, y: Rows, adjoint: Rows) -> BackwardRow:
        return adjoint

    def land(self, row: BackwardRow, y: Rows, cotangent: Rows) -> BackwardRow:
        return row + cotangent

    def took(self, taken: TakenStep) -> None:
        self.integral.took(taken)
        self.solution.came_to(-taken.span.t1)

    def adjoint(self, row: BackwardRow) -> Rows:
        return row

    def parameters(self, row: BackwardRow) -> list[Tensor]:
        return self.totals

    def tolerance(self, forward: Tolerance) -> Tolerance:
        return forward
