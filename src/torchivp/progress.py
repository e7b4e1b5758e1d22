"""A progress bar over the time of a solve."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from .errors import InputError

if TYPE_CHECKING:
    from .loop import LoopState, TakenStep
    from .plan import Plan
    from .problem import Problem


def watched(steps: Iterator[TakenStep], problem: Problem, plan: Plan, state: LoopState) -> Iterator[TakenStep]:
    """The same steps, with a bar on stderr if the plan asks for one."""
    return _with_bar(steps, problem, plan, state) if plan.progress else steps


def _with_bar(steps: Iterator[TakenStep], problem: Problem, plan: Plan, state: LoopState) -> Iterator[TakenStep]:
    try:
        from tqdm.auto import tqdm
    except ImportError:
        raise InputError("progress=True needs tqdm. Write `pip install torchivp[progress]`, or leave it out.") from None
    whole = plan.limits.end - problem.t0
    with tqdm(total=1.0, desc="solve", bar_format="{l_bar}{bar}| {elapsed}<{remaining}{postfix}") as bar:
        for taken in steps:
            bar.update((state.t - problem.t0) / whole - bar.n)
            bar.set_postfix_str(f"t={state.t * problem.direction:.4g}, steps={state.accepted}", refresh=False)
            yield taken
