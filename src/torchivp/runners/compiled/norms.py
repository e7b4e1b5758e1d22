"""The norm of the scaled error as a pure function of tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...errors import NotCompilable
from ...per_sample.tolerance import RowTolerance
from ...plan import Plan
from ...problem import Problem
from ...tolerance import max_norm, rms_norm
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
    norm = problem.tolerance.norm
    if not plan.controller.adaptive or norm in _NAMES:
        return _NAMES.get(norm, "rms"), ()
    y = problem.finite_start().detach()
    try:
        with torch.no_grad():
            seen = tracer_of(norm)(_of_state, torch.zeros((), dtype=torch.float64, device=y.device), y, (norm,))
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


def size_by(norm: Pure, held: tuple[Tensor, ...], xs: Any, like: Tensor) -> Tensor:
    """The norm of a scaled error ``xs``, in the shape of the times ``like``."""
    row = torch.cat([x.reshape(1, -1) for x in xs], dim=1)
    (out,) = norm(like, [row], held)
    return out.to(torch.float64).reshape(like.shape)
