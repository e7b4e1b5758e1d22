"""One solve backwards in time, which lands on every output and takes its cotangent along.

What is integrated is a ``System``: the adjoint alone, with the state, or with the gradients of the parameters as well.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._types import BackwardRow, Rows
from ..errors import SolveError
from ..failures import message
from ..field import Field
from ..loop import LoopState, TakenStep, march, start
from ..methods import Method
from ..plan import Plan
from ..problem import Clock, Problem
from ..tolerance import Tolerance
from .closure import check_all_seen


@dataclass(frozen=True)
class Outputs:
    """Where the backward solve lands.

    Attributes:
        times: increasing, as inside the library; the first one is the start.
        states: there, ``[T, D]``.
        cotangents: of these states, ``[T, D]``.
    """

    times: list[float]
    states: Tensor
    cotangents: Tensor


class System(ABC):
    """What is integrated backwards, as one row, and the integrals for the parameters.

    Attributes:
        field: of the rows; counts time as the backward solve does.
    """

    field: Field

    @abstractmethod
    def begin(self, y: Rows, adjoint: Rows) -> BackwardRow:
        """The row at the last output."""

    @abstractmethod
    def land(self, row: BackwardRow, y: Rows, cotangent: Rows) -> BackwardRow:
        """The row at another output, its cotangent added to the adjoint; ``y`` is the stored state there."""

    @abstractmethod
    def adjoint(self, row: BackwardRow) -> Rows:
        """The adjoint ``[1, D]`` in a row."""

    @abstractmethod
    def parameters(self, row: BackwardRow) -> list[Tensor]:
        """The gradients of the parameters, from the last row."""

    @abstractmethod
    def tolerance(self, forward: Tolerance) -> Tolerance:
        """What is small in a row, from what is small in a state."""

    def for_runner(self, steps_back: Callable[..., Any], method: Method) -> System | None:
        """The same for a runner that takes the steps of this method itself: the integrals for the parameters are in the state (in
        the matrix of an implicit method they may not be). None: there is no such thing."""
        return None

    def steps(self, problem: Problem, plan: Plan, state: LoopState) -> Iterator[TakenStep | None]:
        """Solve backwards, and stop after every accepted step, or at least at all of ``problem.t``, where ``state.y`` may be
        changed."""
        start(problem, plan, state)
        return march(problem, plan, state)

    def took(self, taken: TakenStep) -> None:
        """Called after every accepted step."""
        return

    def check(self, rtol: float) -> None:
        """Raise where the backward solve turns out to be worthless; ``rtol`` is 1 for fixed steps."""
        return


class Linearised:
    """The forward field with its vector-Jacobian products.

    Args:
        field: the forward field.
        params: tensors the gradient is wanted for; ``field`` must use these very tensors.
    """

    def __init__(self, field: Field, params: Sequence[Tensor]):
        self.field = field
        self.params = tuple(params)

    def __call__(
        self, t: Tensor, y: Rows, adjoint: Rows, wrt_params: bool = True
    ) -> tuple[Rows, Rows, list[Tensor | None]]:
        """``f``, ``adjoint . df/dy`` and ``adjoint . df/dp`` at the time ``t`` as the forward solve counts it. With autograd on
        (an implicit method wants their Jacobian) they can be differentiated in turn."""
        params = self.params if wrt_params else ()
        if torch.is_grad_enabled():
            return self.differentiable(t, y, adjoint, params)
        slope, y = self.evaluate(t, y)
        if not slope.requires_grad:
            return slope, torch.zeros_like(y), [None] * len(params)
        at_y, *at_params = torch.autograd.grad(slope, (y, *params), adjoint, allow_unused=True, retain_graph=True)
        return slope.detach(), torch.zeros_like(y) if at_y is None else at_y, list(at_params)

    def at(self, t: float, y: Rows) -> Rows:
        """The slope with its graph at a time, a number as inside the forward solve."""
        return self.evaluate(self.field.time(t * self.field.direction), y)[0]

    def differentiable(
        self, t: Tensor, y: Rows, adjoint: Rows, params: Sequence[Tensor]
    ) -> tuple[Rows, Rows, list[Tensor | None]]:
        y = y if y.requires_grad else y.detach().requires_grad_()
        slope = self.slope(t, y)
        if not slope.requires_grad:
            return slope, torch.zeros_like(y), [None] * len(params)
        at_y, *at_params = torch.autograd.grad(slope, (y, *params), adjoint, allow_unused=True, create_graph=True)
        return slope, torch.zeros_like(y) if at_y is None else at_y, list(at_params)

    def slope(self, t: Tensor, y: Rows) -> Rows:
        turned = (
            t if self.field.turn is None else t * self.field.direction
        )  # not rounded again: it could end up outside
        return self.field(turned.view(self.field.layout.batch), y)

    def evaluate(self, t: Tensor, y: Rows) -> tuple[Rows, Rows]:
        """The slope with its graph, and the leaf ``y`` that it was computed from."""
        with torch.enable_grad():
            y = y.detach().requires_grad_()
            slope = self.slope(t, y)
        if slope.requires_grad:
            check_all_seen([slope], [y, *self.params], t)
        return slope, y


@dataclass(frozen=True)
class Back:
    """Result of the backward solve.

    Attributes:
        at_start: the adjoint ``[1, D]`` at the first time, before the cotangent of the first output is added.
        params: gradients of the parameters.
        attempted: steps.
    """

    at_start: Rows
    params: list[Tensor]
    attempted: int


@torch.no_grad()
def solve_back(system: System, outputs: Outputs, tolerance: Tolerance, plan_for: Callable[[Problem], Plan]) -> Back:
    """One solve from the last output back to the first.

    Args:
        system: what to integrate.
        outputs: where to land.
        tolerance: what is small in a state.
        plan_for: chooses the pieces for the backward problem, which runs in the negated times.

    Raises:
        SolveError: if the backward solve fails.
        GradientError: if it turns out to be worthless.
    """
    times, states, cotangents = outputs.times, outputs.states.split(1), outputs.cotangents.split(1)
    row = system.begin(states[-1], cotangents[-1])
    if len(times) == 1:
        return Back(torch.zeros_like(states[0]), system.parameters(row), 0)
    problem = Problem(
        field=system.field,
        layout=system.field.layout,
        y0=row,
        t=[-t for t in reversed(times)],
        clock=Clock(None),
        direction=-1,
        tolerance=system.tolerance(tolerance),
    )
    plan = plan_for(problem)
    number = {-t: i for i, t in enumerate(times)}
    state = LoopState(problem.t0, problem.y0, math.inf)
    for taken in system.steps(problem, plan, state):
        if taken is not None:
            system.took(taken)
        i = number.get(state.t)
        if i is not None:
            landed = system.land(state.y, states[i], cotangents[i])
            state.y = landed if i else state.y  # at the first time there is nothing to go on to
    if not state.status.success:
        raise SolveError(
            f"The backward solve of the gradient failed: {message(problem, plan, state)} A solution that is stable forwards may "
            f"be unstable backwards: gradient='discrete' has no such trouble."
        )
    system.check(float(torch.as_tensor(tolerance.rtol).max()) if plan.controller.adaptive else 1.0)
    return Back(system.adjoint(state.y), system.parameters(state.y), state.attempted)


@torch.no_grad()
def time_gradients(field: Field, outputs: Outputs, at_start: Rows) -> Tensor:
    """Gradients ``[T]`` of the times: an output moves along the flow, a later start takes a piece of it away."""
    slopes = [field(field.time(t), y) for t, y in zip(outputs.times, outputs.states.split(1))]
    moved = [torch.sum((c.conj() * k).real) for c, k in zip(outputs.cotangents.split(1), slopes)]
    moved[0] = -torch.sum((at_start.conj() * slopes[0]).real)
    return torch.stack(moved)
