"""A progress bar: over the time of a solve, or over the members of an ensemble."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from .errors import InputError

if TYPE_CHECKING:
    from .loop import LoopState
    from .per_sample.loop import RowsState
    from .plan import Plan
    from .problem import Problem

T = TypeVar("T")


def watched(steps: Iterator[T], problem: Problem, plan: Plan, state: LoopState | RowsState) -> Iterator[T]:
    """The same steps, with a bar on stderr if the plan asks for one."""
    return _with_bar(steps, problem, plan, state) if plan.progress else steps


def _with_bar(steps: Iterator[T], problem: Problem, plan: Plan, state: LoopState | RowsState) -> Iterator[T]:
    whole = plan.limits.end - problem.t0 + 1e-300
    with tqdm_bar(total=1.0, desc="solve", bar_format="{l_bar}{bar}| {elapsed}<{remaining}{postfix}") as bar:
        for taken in steps:
            bar.update(mean((state.t - problem.t0) / whole) - bar.n)
            bar.set_postfix_str(
                f"t={mean(state.t * problem.direction):.4g}, steps={mean(state.accepted):.4g}", refresh=False
            )
            yield taken


def tqdm_bar(**settings: Any) -> Any:
    """A bar on stderr."""
    try:
        from tqdm.auto import tqdm
    except ImportError:
        raise InputError("progress=True needs tqdm. Write `pip install torchivp[progress]`, or leave it out.") from None
    return tqdm(**settings)


def mean(x: float | Tensor) -> float:
    """Of all rows, where there are many."""
    return float(torch.as_tensor(x, dtype=torch.float64).mean())
