"""What went wrong in which rows, for people."""

from __future__ import annotations

from torch import Tensor

from ..failures import message
from ..loop import LoopState
from ..plan import Plan
from ..problem import Clock, Problem
from ..tolerance import Tolerance
from .loop import CODES, RowsState
from .problem import RowsProblem


def messages_of(problem: RowsProblem, plan: Plan, state: RowsState) -> dict[int, str]:
    """What happened to each row that failed."""
    messages = {b: message_of(problem, plan, state, b) for b in state.failed}
    code = state.code
    for number, status in enumerate(CODES):
        rows = [] if status.success else (code == number).nonzero().flatten().tolist()
        messages.update((b, f"{status.value}.") for b in rows if b not in messages)
    return messages


def message_of(problem: RowsProblem, plan: Plan, state: RowsState, b: int) -> str:
    """What happened to a row that failed, as a solve of it alone would say."""
    failed = state.failed[b]
    width = problem.layout.width
    layout = problem.layout.of_a_row()

    def part(x: Tensor) -> Tensor:
        return x[:, b * width : (b + 1) * width] if x.dim() else x

    tolerance = problem.tolerance
    rtol = part(tolerance.rtol) if isinstance(tolerance.rtol, Tensor) else tolerance.rtol
    direction = int(problem.direction[b])
    alone = Problem(
        problem.field.with_args(problem.field.args), layout, part(problem.y0), problem.t[b].tolist(), Clock(None), direction,
        Tolerance(rtol, part(tolerance.atol)),
    )  # fmt: skip
    stands = LoopState(
        float(state.t[b]), part(state.y), failed.dt, attempted=int(state.attempted[b]), accepted=int(state.accepted[b]),
        rejected=int(state.rejected[b]), status=CODES[int(state.code[b])], failed=failed,
    )  # fmt: skip
    return message(alone, plan, stands)


def summary(n: int, messages: dict[int, str], what: str = "row") -> str:
    """How it went, with what the first rows failed at."""
    if not messages:
        return f"All {n} {what}s did what they were asked to do."
    first = [f"{what} {b}: {messages[b]}" for b in sorted(messages)[:3]]
    more = f"\n... and {len(messages) - 3} more (see `.messages`)." if len(messages) > 3 else ""
    numbers = ", ".join(map(str, sorted(messages)[:20])) + (", ..." if len(messages) > 20 else "")
    return f"{len(messages)} of {n} {what}s failed ({numbers}); the others finished.\n" + "\n".join(first) + more
