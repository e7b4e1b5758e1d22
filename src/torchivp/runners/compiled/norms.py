"""The norm of the scaled error as a pure function of tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...per_sample.tolerance import RowTolerance
from ...plan import Plan
from ...problem import Problem
from ...state import Layout
from ...tolerance import Norm, OfState, max_norm, rms_norm
from .columns import Leaves
from .compile import refused
from .pure import Pure, tracer_of
from .step import State
from .tolerance import size

_NAMES: dict[Any, str] = {rms_norm: "rms", max_norm: "max"}


def norm_of(problem: Problem, plan: Plan) -> tuple[str | Pure, tuple[Tensor, ...]]:
    """The norm, by name or as it was traced, and the tensors that it holds.

    Raises:
        NotCompilable: if it cannot be traced.
    """
    if isinstance(problem.tolerance, RowTolerance):
        return problem.tolerance.name, ()
    if not plan.controller.adaptive:
        return "rms", ()
    return traced(problem.tolerance.norm, problem.layout)


def traced(norm: Norm, layout: Layout) -> tuple[str | Pure, tuple[Tensor, ...]]:
    """The same for states of this layout."""
    if norm in _NAMES:
        return _NAMES[norm], ()
    row = torch.zeros(1, layout.size, dtype=layout.dtype, device=layout.device)
    t = torch.zeros((), dtype=torch.float64, device=layout.device)
    f, of, y = _of_row, norm, Leaves.whole(layout).of(row)
    if isinstance(norm, OfState):
        f, of, y = _of_state, norm.norm, layout.unravel(row)
    before = "runner='compiled' does not go with this norm, because it is no function of torch operations alone: "
    with refused(before, " A norm by name ('rms', 'max', 'rows') does."), torch.no_grad():
        seen = tracer_of(of)(f, t, y, (of,))
    return seen.pure, tuple(x.detach() for x in seen.held)


_of_state = lambda t, y, norm: torch.as_tensor(norm(y))  # no def: see pure._call
_of_row = lambda t, ys, norm: torch.as_tensor(norm(torch.cat([y.reshape(1, -1) for y in ys], dim=1)))


@dataclass(frozen=True)
class Largest:
    """The largest of the norms of the parts (of each row): the state (unless it is stored), the adjoint, and every parameter.

    Args:
        norm: of one part, by name or as it was traced.
        leaves: so many tensors make up a state; ``states``: so many of them there are.
        parts: how many parts count; None: all.
        front: so many tensors before them do not count.
    """

    norm: str | Pure
    leaves: int
    states: int
    parts: int | None
    front: int = 0

    def __call__(self, like: Tensor, xs: State, held: State) -> tuple[Tensor]:
        xs = xs[self.front :]
        n, rest = self.leaves, self.leaves * self.states
        parts = [*(xs[i : i + n] for i in range(0, rest, n)), *([x] for x in xs[rest:])][: self.parts]
        if isinstance(self.norm, str):
            sizes = [size(self.norm, part, like.dim()) for part in parts]
        else:
            sizes = [self.norm(like, part, held)[0].to(torch.float64).reshape(like.shape) for part in parts]
        return (torch.stack(sizes).amax(0),)
