"""What the backward pass by a backward solve is, of one state or of many rows: outputs go in and come out with a gradient."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from .._types import Rows
from ..autocast import without_autocast
from ..plan import Plan
from ..runners.eager import Run
from .backsolve import Linearised
from .closure import check_still_held
from .inputs import Inputs
from .once import first_derivative_only
from .side_effects import no_side_effects

if TYPE_CHECKING:
    from .backward_gradient import BackwardGradient


@runtime_checkable
class Points(Protocol):
    """What the backward solve starts from: everything a run has to show, and its way back into the run.

    Attributes:
        states: ``[N, D]``.
    """

    states: Tensor

    def put_back(self, states: Tensor) -> None:
        """Replace what the run has by the same values with a gradient."""


class Found(NamedTuple):
    """Gradients that a backward solve found.

    Attributes:
        y0, times, params: gradients of the start, of the times (None if not wanted), of the parameters.
        attempted: steps it took (a tensor ``[B]`` for rows).
    """

    y0: Rows
    times: Tensor | None
    params: list[Tensor]
    attempted: Any


class BackwardPass(ABC):
    """The backward pass of a solve. It must not hold the run, whose outputs hold it.

    Args:
        how: the settings.
        problem, plan: of the forward solve.
        inputs: what to differentiate.

    Raises:
        InputError: for settings that do not fit.
    """

    def __init__(self, how: BackwardGradient, problem: Any, plan: Plan, inputs: Inputs):
        self.how, self.problem, self.plan, self.inputs = how, problem, plan, inputs
        self.counters: dict[str, Any] = {}

    @abstractmethod
    def keep(self, out: Run) -> Points:
        """The points of a finished run; what the backward solve needs besides is kept here."""

    @abstractmethod
    def solve(self, linear: Linearised, states: Tensor, cotangents: Tensor) -> Found:
        """Solve backwards from the points ``[N, D]`` and their cotangents."""

    def attach(self, out: Run) -> None:
        """Put the gradient on what a run has to show."""
        self.counters = out.counters
        with torch.no_grad():
            points = self.keep(out)
        points.put_back(_Backward.apply(self, points.states, *self.inputs.tensors))

    @without_autocast
    def gradients(self, states: Tensor, cotangents: Tensor, tensors: Sequence[Tensor]) -> list[Tensor | None]:
        """Gradients of ``inputs.tensors``."""
        inputs = self.inputs
        check_still_held(self.problem.field.f, inputs.held)
        field, given = inputs.for_backward_solve(self.problem.field, tensors)
        with no_side_effects(field, inputs.moving):
            found = self.solve(Linearised(field, [x for x in given if x.requires_grad]), states, cotangents)
        self.counters["replayed"] += field.evaluations
        self.counters["backward_attempted"] = self.counters.get("backward_attempted", 0) + found.attempted
        return inputs.in_order(found.y0, found.times, given, found.params)


class _Backward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, backward: BackwardPass, states: Tensor, *tensors: Tensor) -> Tensor:
        ctx.pass_back = backward
        ctx.save_for_backward(states, *tensors)
        return states.detach()

    @staticmethod
    @first_derivative_only
    def backward(ctx: Any, cotangents: Tensor) -> tuple[Tensor | None, ...]:
        states, *tensors = ctx.saved_tensors
        return (None, None, *ctx.pass_back.gradients(states, cotangents, tensors))
