"""The backward pass of a solve of many rows by a backward solve of all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import InputError
from ..methods import Method
from ..per_sample.dense import RowsDense, dense_of
from ..per_sample.limits import RowLimits
from ..per_sample.problem import RowsProblem
from ..per_sample.saving import RowEnds, value_of
from ..per_sample.trajectory import Values
from ..plan import Plan
from ..runners.eager import Run
from .backsolve import Linearised
from .backward_pass import BackwardPass, Found
from .inputs import Inputs
from .row_backsolve import RowOutputs, arrange, row_time_gradients, solve_rows_back

if TYPE_CHECKING:
    from .backward_gradient import BackwardGradient


class RowBackward(BackwardPass):
    """The backward pass of a solve of many rows."""

    problem: RowsProblem

    def __init__(self, how: BackwardGradient, problem: RowsProblem, plan: Plan, inputs: Inputs):
        super().__init__(how, problem, plan, inputs)
        self.system = how.row_system()
        check_fits(how, how.pieces(plan)[0], plan)

    def keep(self, out: Run) -> RowPoints:
        points = RowPoints(self.problem, out)
        self.rows, self.t = points.rows, points.t
        self.stored = self._stored(out) if self.system.along else None
        return points

    def _stored(self, out: Run) -> RowsDense:
        problem, trajectory = self.problem, out.trajectory
        bounds = (problem.t0, trajectory.end_time)
        return dense_of(trajectory.pieces, problem.y0.detach(), bounds, problem.direction)

    def solve(self, linear: Linearised, states: Tensor, cotangents: Tensor) -> Found:
        problem, user_times = self.problem, self.inputs.times
        outputs = arrange(self.rows, self.t, states, cotangents)
        system = self.system(linear, problem, self.stored)
        tolerance = self.how.tolerance_for(problem)
        back = solve_rows_back(system, outputs, problem.direction, tolerance, lambda p: self._plan(p, outputs))
        at_times = None
        if user_times is not None:
            at_times = row_time_gradients(linear, outputs, back.at_start, user_times)
        at_y0 = back.at_start + outputs.cotangents[outputs.last]
        return Found(at_y0.view(1, -1), at_times, back.params, back.attempted)

    def _plan(self, backward: RowsProblem, outputs: RowOutputs) -> Plan:
        """The same method and control, backwards: landing on every output, where pieces of a stored solution meet, and on the
        points of a fixed grid. An equation that is unstable backwards has to show it soon; but a row that used up its steps
        forwards needs as many backwards."""
        method, controller = self.how.pieces(self.plan)
        forward = self.plan.limits
        stops = [outputs.stops()]
        if self.stored is not None:
            stops.append(-self.stored.until)
        if forward.stops is not None:
            stops.append(-forward.stops)
        limits = RowLimits(
            backward.t0.contiguous(),
            backward.t[:, -1].contiguous(),
            backward.layout,
            stops=torch.cat(stops, dim=1),
            jumps=None if forward.jumps is None else -forward.jumps,
        )
        most = 1_000 + 50 * int(self.counters["attempted"].max())
        return Plan(
            method, controller, limits, RowEnds(), max_steps=most, run=self.plan.run, steps_back=self.plan.steps_back
        )


def check_fits(how: BackwardGradient, method: Method, plan: Plan) -> None:
    """Raise for what cannot be solved backwards row by row."""
    name = type(how).__name__
    if plan.events:
        raise InputError(
            f"gradient={name.lower()!r} with events and batch_dims would have to start at an event of every row. Write "
            f"gradient='discrete', which differentiates events row by row."
        )
    if not method.by_rows:
        raise InputError(
            f"gradient={name.lower()!r} would solve the rows backwards with {method!r}, which mixes slopes of several steps, "
            f"whose sizes differ from row to row. Name another method, {name}(method='tsit5'), or write gradient='discrete'."
        )


class RowPoints:
    """The ends, outputs and starts of all rows as points of their solutions, and their way back into the run.

    Attributes:
        rows, t: of every point ``[N]``.
        states: ``[N, D]``.
    """

    def __init__(self, problem: RowsProblem, out: Run):
        self.problem, self.out = problem, out
        layout, trajectory = problem.layout, out.trajectory
        everyone = torch.arange(layout.rows, device=layout.device)
        shape = (layout.rows, layout.width)
        groups = [
            (everyone, trajectory.end_time, trajectory.end.view(shape)),
            *((o.rows, o.t, value_of(trajectory, o, layout.rows)) for o in trajectory.outputs),
            (everyone, problem.t0, problem.y0.detach().view(shape)),
        ]
        self.sizes = [len(rows) for rows, _, _ in groups]
        self.rows, self.t, self.states = (torch.cat(x) for x in zip(*groups))

    def put_back(self, states: Tensor) -> None:
        """Every output becomes a value."""
        trajectory, problem = self.out.trajectory, self.problem
        end, *outputs, _ = states.split(self.sizes)
        trajectory.outputs = [Values(y, o.rows, o.columns, o.t) for y, o in zip(outputs, trajectory.outputs)]
        trajectory.with_times(problem.clock)
        trajectory.knots, trajectory.pieces = [], []
        trajectory.end = self.out.state.y = end.reshape(1, -1)
