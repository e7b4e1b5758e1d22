"""A tolerance that the numbers cannot resolve: said once, because nothing fails, only steps are wasted."""

from __future__ import annotations

import warnings

import torch

from ._types import PyTree
from .errors import PrecisionWarning
from .plan import Plan
from .problem import Problem


def warn_of_rounding(problem: Problem, plan: Plan, rtol: PyTree, atol: PyTree) -> None:
    """Warn if steps are judged by a tolerance that lies below the rounding of the state or of ``f`` under autocast.

    Args:
        rtol, atol: as the user gave them; trees and tensors are not looked into.
    """
    numbers = isinstance(rtol, int | float) and isinstance(atol, int | float)
    if not (numbers and plan.controller.adaptive):
        return
    dtype = max((*problem.layout.dtypes, *problem.field.autocast_dtypes), key=resolution)
    least = 0.5 * resolution(dtype)
    if rtol < least and atol < least:
        where = "under autocast f calculates" if dtype in problem.field.autocast_dtypes else "the state is held"
        warnings.warn(
            f"rtol={rtol:g} is below what {dtype} resolves ({2 * least:.1g}), and {where} in it: the error estimate measures "
            f"rounding, and steps become needlessly small. Write rtol={2 * least:.1g} or more, or take a wider dtype.",
            PrecisionWarning,
            stacklevel=3,
        )


def resolution(dtype: torch.dtype) -> float:
    """Distance of 1 from the next number."""
    return torch.finfo(dtype).eps
