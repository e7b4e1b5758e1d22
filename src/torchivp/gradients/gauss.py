"""``gradient="gauss"``: the adjoint along the stored solution, and the parameters' integral by Gauss quadrature.

While the adjoint is solved backwards nothing is differentiated with respect to parameters; after each accepted step the
integral over it is taken with a few Gauss points on the step's polynomials.

Source: A. Norcliffe, M. P. Deisenroth, Faster training of neural ODEs using Gauss-Legendre quadrature (2023),
doi:10.48550/arXiv.2308.10644.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._types import BackwardRow, Rows
from ..field import Field
from ..loop import LoopState, TakenStep
from ..methods import Method
from ..plan import Plan
from ..problem import Problem
from ..state import Layout
from ..tolerance import Tolerance
from .backsolve import Linearised, System
from .interpolated import Interpolated
from .quadrature import PointIntegral
from .stored import Pieces, Stored


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
        return ByPoints(linear, y, kept)


class ByPoints(System):
    """Rows of the adjoint alone.

    Args:
        linear: the forward field.
        y: a state, for its size and dtype.
        kept: the stored solution.
        steps_back: of the runner.
    """

    def __init__(self, linear: Linearised, y: Rows, kept: Pieces, steps_back: Callable[..., Any] | None = None):
        self.linear, self.y, self.kept, self.steps_back = linear, y, kept, steps_back
        self.solution = solution = Stored(kept.read(linear.field))
        self.totals = [torch.zeros_like(p) for p in linear.params]
        self.integral = PointIntegral(linear.at, lambda t, row: solution(t), self.adjoint, linear.params, self.totals)
        self.field = Field(self.slope, Layout(torch.zeros_like(y)), direction=-1)

    def slope(self, t: Tensor, row: BackwardRow) -> BackwardRow:
        return -self.linear(t, self.solution(t), row, wrt_params=False)[1]

    def begin(self, y: Rows, adjoint: Rows) -> BackwardRow:
        return adjoint

    def land(self, row: BackwardRow, y: Rows, cotangent: Rows) -> BackwardRow:
        return row + cotangent

    def for_runner(self, steps_back: Callable[..., Any], method: Method) -> System | None:
        return None if self.kept.kept is None else ByPoints(self.linear, self.y, self.kept, steps_back)

    def steps(self, problem: Problem, plan: Plan, state: LoopState) -> Iterator[TakenStep | None]:
        linear, found = self.linear, None
        if self.steps_back is not None:
            found = self.steps_back(
                linear.field, linear.params, problem, plan, state, problem.tolerance.norm, 1, self.kept.kept,
                totals=self.totals,
            )  # fmt: skip
        return super().steps(problem, plan, state) if found is None else found

    def took(self, taken: TakenStep) -> None:
        self.integral.took(taken)
        self.solution.came_to(-taken.span.t1)

    def adjoint(self, row: BackwardRow) -> Rows:
        return row

    def parameters(self, row: BackwardRow) -> list[Tensor]:
        return self.totals

    def tolerance(self, forward: Tolerance) -> Tolerance:
        return forward
