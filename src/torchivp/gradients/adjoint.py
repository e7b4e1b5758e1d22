"""``gradient="adjoint"``: the continuous adjoint, one solve backwards in time.

The gradient of the differential equation, not of the computed solution: it differs from it by the solver's error, and the
state is solved again on the way back. One solve runs from the last output to the first; it lands on every output, adds its
cotangent, takes up the stored state, and goes on with its step size. Parameter gradients are a quadrature beside the state:
the error norm does not look at them unless asked.

Source: R. T. Q. Chen et al., Neural Ordinary Differential Equations (2018), doi:10.48550/arXiv.1806.07366; the norm:
P. Kidger, R. T. Q. Chen, T. Lyons, "Hey, that's not an ODE" (2021), doi:10.48550/arXiv.2009.09457.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
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
from ..state import Layout
from ..tolerance import Norm, Tolerance
from .backsolve import Linearised, System
from .backward_gradient import BackwardGradient
from .drift import check_drift, most_drift, relative
from .quadrature import PointIntegral, StageIntegral
from .row_systems import RowSystem, StateAndAdjoint


@dataclass(frozen=True)
class Adjoint(BackwardGradient):
    """The continuous adjoint: state and adjoint are solved backwards, in memory that does not grow with the steps.

    Args:
        method, rtol, atol: of the backward solve; those of the forward solve if None.
        norm: ``"seminorm"``: the step size of the backward solve follows state and adjoint; ``"full"``: the gradients of the
            parameters, too.

    Raises:
        InputError: for another norm.

    Example:
        >>> torchivp.solve(f, y0, t, gradient=torchivp.gradients.Adjoint(method="dopri8", rtol=1e-8, atol=1e-10))
    """

    norm: str = "seminorm"

    def __post_init__(self) -> None:
        if self.norm not in ("seminorm", "full"):
            raise InputError(
                f"norm={self.norm!r} of the adjoint is not known. Write 'seminorm' (state and adjoint) or 'full' (the gradients "
                f"of the parameters as well)."
            )

    def system(self, linear: Linearised, y: Rows, kept: Any) -> System:
        systems: dict[str, Callable[[Linearised, Rows], System]] = {"seminorm": Beside, "full": Inside}
        return systems[self.norm](linear, y)

    def row_system(self) -> type[RowSystem]:
        if self.norm == "full":
            raise InputError(
                "Adjoint(norm='full') has the gradients of the parameters in the state, and with batch_dims that would be one "
                "set of them for every row. Write gradient='adjoint' (they are integrated beside the state)."
            )
        return StateAndAdjoint


class Beside(System):
    """Rows of state, adjoint, and the number of an evaluation (see ``StageIntegral``).

    Args:
        linear: the forward field.
        y: a state, for its size and dtype.
    """

    def __init__(self, linear: Linearised, y: Rows):
        self.linear = linear
        self.size = y.shape[1]
        self.integral = StageIntegral(linear.params)
        self.points = PointIntegral(
            linear.at, lambda t, row: row[:, : self.size], self.adjoint, linear.params, self.integral.totals
        )
        self.field = Field(self.slope, Layout(y.new_zeros(1, 2 * self.size + 1)), direction=-1)
        self.drift, self.last = y.new_zeros(()).real, y

    def slope(self, t: Tensor, row: BackwardRow) -> BackwardRow:
        y, adjoint = row[:, : self.size], row[:, self.size : -1]
        slope, at_y, at_params = self.linear(t, y, adjoint)
        return torch.cat([slope, -at_y, row.new_full((1, 1), self.integral.note(at_params))], dim=1)

    def begin(self, y: Rows, adjoint: Rows) -> BackwardRow:
        self.last = y
        return torch.cat([y, adjoint, y.new_zeros(1, 1)], dim=1)

    def land(self, row: BackwardRow, y: Rows, cotangent: Rows) -> BackwardRow:
        self.drift = torch.maximum(self.drift, relative(row[:, : self.size] - y, y, self.last))
        return self.begin(y, self.adjoint(row) + cotangent)

    def took(self, taken: TakenStep) -> None:
        self.integral.took(taken, self.points)

    def adjoint(self, row: BackwardRow) -> Rows:
        return row[:, self.size : -1]

    def parameters(self, row: BackwardRow) -> list[Tensor]:
        return self.integral.totals

    def tolerance(self, forward: Tolerance) -> Tolerance:
        return widened(forward, 2, 1, seminorm(forward.norm, self.size))

    def for_runner(self, steps_back: Callable[..., Any], method: Method) -> System | None:
        return None if method.uses_jacobian else Inside(self.linear, self.last, 2, steps_back)

    def check(self, rtol: float) -> None:
        check_drift(self.drift, most_drift(rtol), "The state")


class Inside(System):
    """Rows of state, adjoint and the gradients of the parameters.

    Args:
        linear: the forward field.
        y: a state, for its size and dtype.
        parts: how many of these are in the error norm; None: all.
        steps_back: of the runner.
    """

    def __init__(
        self, linear: Linearised, y: Rows, parts: int | None = None, steps_back: Callable[..., Any] | None = None
    ):
        self.linear, self.parts, self.steps_back = linear, parts, steps_back
        self.norm: Norm | None = None
        self.layout = Layout((y, y, *(p.detach() for p in linear.params)))
        self.field = Field(self.slope, self.layout, direction=-1)
        self.drift, self.last = y.new_zeros(()).real, y

    def slope(self, t: Tensor, parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        y, adjoint, *totals = parts
        slope, at_y, at_params = self.linear(t, y, adjoint)
        integrands = (torch.zeros_like(p) if g is None else -g for p, g in zip(totals, at_params))
        return (slope, -at_y, *integrands)

    def begin(self, y: Rows, adjoint: Rows) -> BackwardRow:
        self.last = y
        return self.layout.ravel((y, adjoint, *(torch.zeros_like(p) for p in self.linear.params)))

    def land(self, row: BackwardRow, y: Rows, cotangent: Rows) -> BackwardRow:
        back, adjoint, *totals = self.layout.unravel(row)
        self.drift = torch.maximum(self.drift, relative(back - y, y, self.last))
        self.last = y
        return self.layout.ravel((y, adjoint + cotangent, *totals))

    def adjoint(self, row: BackwardRow) -> Rows:
        return self.layout.unravel(row)[1]

    def parameters(self, row: BackwardRow) -> list[Tensor]:
        return list(self.layout.unravel(row)[2:])

    def for_runner(self, steps_back: Callable[..., Any], method: Method) -> System | None:
        return None if method.uses_jacobian else Inside(self.linear, self.last, None, steps_back)

    def steps(self, problem: Problem, plan: Plan, state: LoopState) -> Iterator[TakenStep | None]:
        linear, found = self.linear, None
        if self.steps_back is not None:
            found = self.steps_back(linear.field, linear.params, problem, plan, state, self.norm, self.parts)
        return super().steps(problem, plan, state) if found is None else found

    def tolerance(self, forward: Tolerance) -> Tolerance:
        sizes, self.norm = self.layout.sizes, forward.norm

        def largest(row: Tensor) -> Tensor:
            parts = row.split(sizes, dim=1)[: self.parts]
            return torch.stack([torch.as_tensor(forward.norm(part)) for part in parts]).amax()

        y = sizes[0]
        rest = self.layout.size - 2 * y
        return widened(forward, 2, rest, largest)

    def check(self, rtol: float) -> None:
        check_drift(self.drift, most_drift(rtol), "The state")


def widened(forward: Tolerance, times: int, rest: int, norm: Norm) -> Tolerance:
    """A state's tolerance for a row that holds ``times`` of them and ``rest`` other numbers (which get the largest)."""

    def wide(tol: Tensor) -> Tensor:
        return tol if tol.dim() == 0 else torch.cat([*[tol] * times, tol.amax().expand(1, rest)], dim=1)

    rtol = wide(forward.rtol) if isinstance(forward.rtol, Tensor) else forward.rtol
    return Tolerance(rtol, wide(forward.atol), norm)


def seminorm(norm: Norm, size: int) -> Norm:
    """The larger of the norms of the state and of the adjoint."""

    def of_state_and_adjoint(row: Tensor) -> Tensor:
        y, adjoint = norm(row[:, :size]), norm(row[:, size : 2 * size])
        return torch.maximum(torch.as_tensor(y), torch.as_tensor(adjoint))

    return of_state_and_adjoint
