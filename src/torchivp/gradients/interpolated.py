"""``gradient="interpolated"``: the adjoint along the stored solution, which is not solved again.

The forward solve keeps its step polynomials; the backward solve integrates the adjoint alone, along them, and lands where
they meet. Stable where the plain adjoint is not (there, the state is solved backwards as well), at the price of memory.

Source: C. Rackauckas et al., Universal differential equations (2020), doi:10.48550/arXiv.2001.04385 (``InterpolatingAdjoint``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .._types import BackwardRow, Rows
from ..errors import InputError
from ..field import Field
from ..loop import LoopState, TakenStep
from ..methods import Method
from ..plan import Plan
from ..problem import Problem
from ..runners.eager import Run
from ..state import Layout
from ..tolerance import Tolerance
from ..trajectory import Tape
from .adjoint import widened
from .backsolve import Linearised, System
from .backward_gradient import BackwardGradient
from .discrete import Discrete
from .quadrature import PointIntegral, StageIntegral
from .row_systems import AdjointAlone, RowSystem
from .stored import Pieces, Stored, from_pieces, from_tape


@dataclass(frozen=True)
class Interpolated(BackwardGradient):
    """The adjoint along the stored dense solution.

    Args:
        method, rtol, atol: of the backward solve; those of the forward solve if None.
        every, checkpoints: as for ``Discrete``: keep states only, and compute the polynomials again from them. None keeps
            the polynomials.

    Example:
        >>> torchivp.solve(f, y0, t, gradient=torchivp.gradients.Interpolated(every="sqrt"))
    """

    every: int | str | None = None
    checkpoints: int | None = None

    def __post_init__(self) -> None:
        self._states_kept()

    def _states_kept(self) -> Discrete | None:
        if self.every is None and self.checkpoints is None:
            return None
        return Discrete(1 if self.every is None else self.every, self.checkpoints)

    def new_tape(self) -> Callable[[], Tape] | None:
        kept = self._states_kept()
        return None if kept is None else kept.new_tape()

    def forward_plan(self, plan: Plan) -> Plan:
        return replace(plan, dense=True, one_by_one=True) if self._states_kept() is None else plan

    def kept(self, out: Run, plan: Plan) -> Pieces:
        return from_tape(out) if self._states_kept() is not None else from_pieces(out)

    def system(self, linear: Linearised, y: Rows, kept: Any) -> System:
        return Along(linear, y, kept)

    def row_system(self) -> type[RowSystem]:
        if self._states_kept() is not None:
            raise InputError(
                f"every= and checkpoints= of {type(self).__name__} compute the stored solution again piece by piece, and the "
                f"rows of a batch need different pieces at a time. Leave them out with batch_dims, or write "
                f"gradient=Discrete(every='sqrt')."
            )
        return AdjointAlone

    def stops(self, kept: Any) -> list[float]:
        return kept.times


class Along(System):
    """Rows of the adjoint and the number of an evaluation (see ``StageIntegral``).

    Args:
        linear: the forward field.
        y: a state, for its size and dtype.
        kept: the stored solution.
    """

    def __init__(self, linear: Linearised, y: Rows, kept: Pieces):
        self.linear, self.y, self.kept = linear, y, kept
        self.solution = solution = Stored(kept.read(linear.field))
        self.integral = StageIntegral(linear.params)
        self.points = PointIntegral(
            linear.at, lambda t, row: solution(t), self.adjoint, linear.params, self.integral.totals
        )
        self.field = Field(self.slope, Layout(y.new_zeros(1, y.shape[1] + 1)), direction=-1)

    def slope(self, t: Tensor, row: BackwardRow) -> BackwardRow:
        _, at_y, at_params = self.linear(t, self.solution(t), row[:, :-1])
        return torch.cat([-at_y, row.new_full((1, 1), self.integral.note(at_params))], dim=1)

    def begin(self, y: Rows, adjoint: Rows) -> BackwardRow:
        return torch.cat([adjoint, y.new_zeros(1, 1)], dim=1)

    def land(self, row: BackwardRow, y: Rows, cotangent: Rows) -> BackwardRow:
        return self.begin(y, self.adjoint(row) + cotangent)

    def took(self, taken: TakenStep) -> None:
        self.integral.took(taken, self.points)
        self.solution.came_to(-taken.span.t1)

    def adjoint(self, row: BackwardRow) -> Rows:
        return row[:, :-1]

    def parameters(self, row: BackwardRow) -> list[Tensor]:
        return self.integral.totals

    def tolerance(self, forward: Tolerance) -> Tolerance:
        return widened(forward, 1, 1, lambda row: forward.norm(row[:, :-1]))

    def for_runner(self, steps_back: Callable[..., Any], method: Method) -> System | None:
        if self.kept.kept is None or method.uses_jacobian:
            return None
        return AlongInOne(self.linear, self.y, self.kept, steps_back)


class AlongInOne(System):
    """Rows of the adjoint and the gradients of the parameters.

    Args:
        linear: the forward field.
        y: a state, for its size and dtype.
        kept: the stored solution.
        steps_back: of the runner.
    """

    def __init__(self, linear: Linearised, y: Rows, kept: Pieces, steps_back: Callable[..., Any]):
        self.linear, self.kept, self.steps_back = linear, kept, steps_back
        self.solution = Stored(kept.read(linear.field))
        self.layout = Layout((y, *(p.detach() for p in linear.params)))
        self.field = Field(self.slope, self.layout, direction=-1)

    def slope(self, t: Tensor, parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        adjoint, *totals = parts
        _, at_y, at_params = self.linear(t, self.solution(t), adjoint)
        return (-at_y, *(torch.zeros_like(p) if g is None else -g for p, g in zip(totals, at_params)))

    def begin(self, y: Rows, adjoint: Rows) -> BackwardRow:
        return self.layout.ravel((adjoint, *(torch.zeros_like(p) for p in self.linear.params)))

    def land(self, row: BackwardRow, y: Rows, cotangent: Rows) -> BackwardRow:
        adjoint, *totals = self.layout.unravel(row)
        return self.layout.ravel((adjoint + cotangent, *totals))

    def steps(self, problem: Problem, plan: Plan, state: LoopState) -> Iterator[TakenStep | None]:
        linear = self.linear
        found = self.steps_back(linear.field, linear.params, problem, plan, state, self.norm, 1, self.kept.kept)
        return super().steps(problem, plan, state) if found is None else found

    def took(self, taken: TakenStep) -> None:
        self.solution.came_to(-taken.span.t1)

    def adjoint(self, row: BackwardRow) -> Rows:
        return self.layout.unravel(row)[0]

    def parameters(self, row: BackwardRow) -> list[Tensor]:
        return list(self.layout.unravel(row)[1:])

    def tolerance(self, forward: Tolerance) -> Tolerance:
        size, self.norm = self.layout.sizes[0], forward.norm
        return widened(forward, 1, self.layout.size - size, lambda row: forward.norm(row[:, :size]))
