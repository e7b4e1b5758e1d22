"""One backward solve for all rows of a batch, each with its own steps and its own outputs to land on.

The gradients of the parameters are integrals beside it: after each attempted step one vector-Jacobian product at each of a few
Gauss points, for all rows at once, in which the rows count as much as the step moved them (not at all, if it was rejected).

Source: A. Norcliffe, M. P. Deisenroth, Faster training of neural ODEs using Gauss-Legendre quadrature (2023),
doi:10.48550/arXiv.2308.10644.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from .._types import Rows
from ..errors import SolveError
from ..per_sample.failures import messages_of, summary
from ..per_sample.loop import RowsState, RowsTaken, begin, march, start
from ..per_sample.problem import RowClock, RowsProblem
from ..plan import Plan
from ..span import spread
from ..tolerance import Tolerance
from .backsolve import Linearised
from .quadrature import add_up
from .row_systems import RowSystem


@dataclass(frozen=True)
class RowOutputs:
    """Where the rows land on their way back: all points of the first row down to its start, those of the next, ...

    Attributes:
        rows, t: row and time ``[M]`` of every point, as inside the forward solve.
        states, cotangents: ``[M, D]``.
        first, last: numbers of the points at which each row begins and ends (its start), ``[B]``.
    """

    rows: Tensor
    t: Tensor
    states: Tensor
    cotangents: Tensor
    first: Tensor
    last: Tensor

    def stops(self) -> Tensor:
        """The times of each row as the backward solve counts them, increasing and padded with inf, ``[B, K]``."""
        number = torch.arange(len(self.t), device=self.t.device) - self.first[self.rows]
        table = self.t.new_full((len(self.first), int(number.max()) + 1), torch.inf)
        table[self.rows, number] = -self.t
        return table


def arrange(rows: Tensor, t: Tensor, states: Tensor, cotangents: Tensor) -> RowOutputs:
    """Outputs from points in any order ``[N]``; every row has one at its start. Those at the same time are one, with the state
    of the first of them. A row begins at its last point that has a cotangent: what comes after it has no gradient."""
    order = t.argsort(descending=True, stable=True)
    order = order[rows[order].argsort(stable=True)]
    rows, t = rows[order], t[order]
    new = torch.ones_like(rows, dtype=torch.bool)
    new[1:] = (rows[1:] != rows[:-1]) | (t[1:] != t[:-1])
    rows, t, states = rows[new], t[new], states[order][new]
    together = torch.zeros_like(states).index_add_(0, new.cumsum(0) - 1, cotangents[order])
    matter = reached_by_cotangents(rows, together)
    rows = rows[matter]
    lengths = torch.bincount(rows)
    last = lengths.cumsum(0) - 1
    return RowOutputs(rows, t[matter], states[matter], together[matter], last - lengths + 1, last)


def reached_by_cotangents(rows: Tensor, cotangents: Tensor) -> Tensor:
    """Of points in order: those with a cotangent there or before, counted from the end of their row; and all starts ``[M]``."""
    lengths = torch.bincount(rows)
    last = lengths.cumsum(0) - 1
    some = (cotangents != 0).any(1).long()
    so_far = some.cumsum(0)
    before_row = (so_far[last] - some.new_zeros(len(last)).index_add_(0, rows, some))[rows]
    matter = so_far > before_row
    matter[last] = True
    return matter


@dataclass(frozen=True)
class RowsBack:
    """Result of the backward solve.

    Attributes:
        at_start: the adjoints ``[B, D]`` at the starts, before the cotangents of outputs there are added.
        params: gradients of the parameters, summed over the rows.
        attempted: steps, ``[B]``.
    """

    at_start: Tensor
    params: list[Tensor]
    attempted: Tensor


@torch.no_grad()
def solve_rows_back(
    system: RowSystem,
    outputs: RowOutputs,
    direction: Tensor,
    tolerance: Tolerance,
    plan_for: Callable[[RowsProblem], Plan],
) -> RowsBack:
    """One solve from the last outputs of the rows back to their starts.

    Args:
        system: what to integrate.
        outputs: where to land.
        direction: of the forward solve.
        tolerance: what is small in a state.
        plan_for: chooses the pieces for the backward problem, which runs in the negated times.

    Raises:
        SolveError: if the backward solve of a row fails.
        GradientError: if it turns out to be worthless.
    """
    moves = (outputs.first != outputs.last).unsqueeze(1)
    at_ends = torch.where(moves, outputs.cotangents[outputs.first], 0)
    problem = RowsProblem(
        field=system.field,
        layout=system.field.layout,
        y0=system.row(outputs.states[outputs.first], at_ends),
        t=torch.stack([-outputs.t[outputs.first], -outputs.t[outputs.last]], dim=1),
        clock=RowClock(None),
        direction=-direction,
        tolerance=system.tolerance(tolerance),
    )
    plan = plan_for(problem)
    landings, steps = Landings(system, outputs), steps_of(system, problem, plan, outputs)
    state = steps.state
    for moved in steps:
        landings.after(moved, state)
    if not state.status.success:
        raise SolveError(
            f"The backward solve of the gradient failed: {summary(len(state.t), messages_of(problem, plan, state))}\nA solution "
            f"that is stable forwards may be unstable backwards: gradient='discrete' has no such trouble."
        )
    system.check(float(torch.as_tensor(tolerance.rtol).max()) if plan.controller.adaptive else 1.0)
    return RowsBack(system.adjoint(state.y), steps.totals, state.attempted)


@runtime_checkable
class Steps(Protocol):
    """The steps of a backward solve: iterates over the rows ``[B]`` that moved, at least whenever one of them landed. Then
    ``state.y`` may be changed.

    Attributes:
        state: of the rows.
        totals: the integrals for the parameters so far.
    """

    state: RowsState
    totals: list[Tensor]

    def __iter__(self) -> Iterator[Tensor]: ...


def steps_of(system: RowSystem, problem: RowsProblem, plan: Plan, outputs: RowOutputs) -> Steps:
    """Those of the runner, if it has a way of its own."""
    linear = system.linear
    steps_back = None if plan.steps_back is None else plan.steps_back(linear.field)
    found: Steps | None = None
    if steps_back is not None:
        found = steps_back(linear.field, linear.params, problem, plan, outputs.stops(), system.solution)
    return found or StepByStep(system, problem, plan)


class StepByStep:
    """One attempted step after the other, in plain PyTorch."""

    def __init__(self, system: RowSystem, problem: RowsProblem, plan: Plan):
        self.problem, self.plan = problem, plan
        self.state: RowsState = begin(problem)
        self.integral = GaussIntegral(system)
        self.totals = self.integral.totals

    def __iter__(self) -> Iterator[Tensor]:
        start(self.problem, self.plan, self.state)
        for taken in march(self.problem, self.plan, self.state):
            self.integral.took(taken)
            yield taken.span.moved


class Landings:
    """Where every row lands next, and what it takes up there.

    Args:
        system: what is integrated.
        outputs: where to land.
    """

    def __init__(self, system: RowSystem, outputs: RowOutputs):
        self.system, self.outputs = system, outputs
        self.place = torch.minimum(outputs.first + 1, outputs.last)
        system.came_to(
            system.row(*(outputs.states[outputs.first],) * 2), outputs.states[outputs.first], self.place >= 0
        )

    def after(self, moved: Tensor, state: RowsState) -> None:
        """After a step of the rows that ``moved [B]``: those that landed go on from the stored state, their cotangent there added
        to the adjoint (but at their start there is nothing to go on to)."""
        system, outputs = self.system, self.outputs
        landed = (outputs.t[self.place] == -state.t) & moved
        if not bool(landed.any()):
            return
        y = outputs.states[self.place]
        system.came_to(state.y, y, landed)
        goes_on = landed & (self.place < outputs.last)
        if bool(goes_on.any()):
            row = system.row(y, system.adjoint(state.y) + outputs.cotangents[self.place])
            state.y = torch.where(spread(goes_on, row), row, state.y)
            self.place = torch.where(goes_on, self.place + 1, self.place)


class GaussIntegral:
    """The integral of ``adjoint . df/dp`` over all rows.

    Args:
        system: gives states and adjoints.
    """

    def __init__(self, system: RowSystem):
        self.system = system
        self.totals = [torch.zeros_like(p) for p in system.linear.params]

    def took(self, taken: RowsTaken) -> None:
        """Add the integral over an attempted step, of the rows that take it."""
        if not self.totals:
            return
        step, span = taken.look_inside(), taken.span
        moved = spread(span.moved, taken.y0)
        dt = torch.where(span.moved, span.dt, 0.0)
        nodes, weights = np.polynomial.legendre.leggauss((taken.plan.method.order + 1) // 2)
        for node, weight in zip(nodes.tolist(), weights.tolist()):
            theta = 0.5 * (1 + node)
            powers = theta ** torch.arange(1, len(step.weights) + 1, dtype=dt.dtype, device=dt.device)
            slope = powers.to(step.weights.dtype).unsqueeze(0) @ step.weights @ step.k.to(step.weights.dtype)
            row = torch.addcmul(taken.y0, slope.to(taken.y0.dtype), span.size)
            self._add(-(span.t + theta * dt), torch.where(moved, row, taken.y0), 0.5 * weight * dt)

    def _add(self, t: Tensor, row: Rows, weight: Tensor) -> None:
        """Of rows at times ``t [B]``, each with a ``weight [B]``."""
        system, linear = self.system, self.system.linear
        seen = t.to(linear.field.layout.real_dtype)  # as f sees the time
        slope, _ = linear.evaluate(seen, system.state(t, system.unpacked(row)))
        if not slope.requires_grad:
            return
        adjoint = system.adjoint(row).reshape(1, -1)
        cotangent = adjoint * spread(weight, adjoint)
        grads = torch.autograd.grad(slope, linear.params, cotangent, allow_unused=True, retain_graph=True)
        add_up(self.totals, grads, 1.0)


@torch.no_grad()
def row_time_gradients(linear: Linearised, outputs: RowOutputs, at_start: Tensor, times: Tensor) -> Tensor:
    """Gradients of the user's ``times [B, T]``: an output moves along the flow, a later start takes a piece of it away. (Step
    points move with the start, as in the loop.)"""
    field, moved = linear.field, outputs.t.new_zeros(len(outputs.t))
    for number in range(int((outputs.last - outputs.first).max()) + 1):
        place = torch.minimum(outputs.first + number, outputs.last)  # rows with fewer points stay at their start
        slope = field(field.time(outputs.t[place]), outputs.states[place].reshape(1, -1)).view_as(at_start)
        at_start_now = (place == outputs.last).unsqueeze(1)
        cotangent = torch.where(at_start_now, -at_start, outputs.cotangents[place])
        moved[place] = torch.sum((cotangent.conj() * slope).real, dim=1).to(moved.dtype)
    user = times.detach().requires_grad_()
    with torch.enable_grad():
        points = RowClock(user).at(outputs.t, outputs.rows)
    return torch.autograd.grad(points, user, moved)[0]
