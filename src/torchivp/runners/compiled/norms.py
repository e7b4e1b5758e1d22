"""The norm of the scaled error as a pure function of tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...errors import NotCompilable
from ...per_sample.tolerance import RowTolerance
from ...plan import Plan
from ...problem import Problem
from ...state import Layout
from ...tolerance import Norm, OfState, max_norm, rms_norm
from .columns import Leaves
from .compile import not_compiled
from .pure import Pure, tracer_of

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
    try:
        with torch.no_grad():
            seen = tracer_of(of)(f, t, y, (of,))
    except Exception as error:
        why = not_compiled(error)
        if not isinstance(why, NotCompilable):
            raise
        raise NotCompilable(
            f"runner='compiled' does not go with this norm, because it is no function of torch operations alone: {why} A norm "
            f"by name ('rms', 'max', 'rows') does."
        ) from error
    return seen.pure, tuple(x.detach() for x in seen.held)


_of_state = lambda t, y, norm: torch.as_tensor(norm(y))  # no def: see pure._call
_of_row = lambda t, ys, norm: torch.as_tensor(norm(torch.cat([y.reshape(1, -1) for y in ys], dim=1)))
