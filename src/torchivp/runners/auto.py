"""``runner="auto"``: plain PyTorch, until a function was solved so much that compiling pays (docs/design/compiled.md)."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from ..errors import NotCompilable, NotCompiledWarning
from ..field import Field
from ..plan import Plan
from ..problem import Problem
from ..randomness import RandomState
from ..trajectory import Tape
from .compiled.pure import name_of, owner_of, uncounted
from .compiled.setup import check
from .eager import UNKNOWN, KnownSlope, Run

SOLVES = 3  # never before
STEPS = 40_000  # attempted in plain PyTorch: about what the compilation costs
_WITH_GRADIENT = 3  # a step that is taken again, with its derivative, costs about three


@dataclass
class Habit:
    """What is known of a function.

    Attributes:
        solves, steps: made in plain PyTorch so far.
        compiles: nothing speaks against it.
        told: what was warned of.
    """

    solves: int = 0
    steps: int = 0
    compiles: bool = True
    told: set[str] = field(default_factory=set)

    @property
    def established(self) -> bool:
        return self.compiles and self.solves >= SOLVES and self.steps >= STEPS

    def note(self, out: Run, taken_again: bool) -> None:
        self.solves += 1
        self.steps += int(torch.as_tensor(out.counters["attempted"]).max()) * (_WITH_GRADIENT if taken_again else 1)

    def tell(self, f: Any, error: NotCompilable) -> None:
        """Warn, once for each reason."""
        if str(error) not in self.told:
            self.told.add(str(error))
            warnings.warn(
                f"runner='auto' solves {name_of(owner_of(f))} by plain PyTorch, because: {error}",
                NotCompiledWarning,
                stacklevel=2,
            )


_habits: weakref.WeakKeyDictionary[Any, Habit] = weakref.WeakKeyDictionary()


def habit_of(field: Field) -> Habit:
    """Of the function that is solved: one for all functions with the same code, and one for each module."""
    return _habits.setdefault(owner_of(function(field)), Habit())


def function(field: Field) -> Any:
    return uncounted(field.f)


class Auto:
    """A runner that starts as one and goes on as another.

    Args:
        plain, compiled: their ``run``.
        with_gradient, steps_back: of the compiled one.
    """

    def __init__(
        self,
        plain: Callable[..., Run],
        compiled: Callable[..., Run],
        with_gradient: Callable[..., Run | None],
        steps_back: Callable[..., Any],
    ):
        self.plain, self.compiled, self.gradient, self.back = plain, compiled, with_gradient, steps_back

    def run(
        self,
        problem: Problem,
        plan: Plan,
        *,
        new_tape: Callable[[], Tape] | None = None,
        known: KnownSlope = UNKNOWN,
    ) -> Run:
        again = new_tape is not None
        out = None
        if again or not torch.is_grad_enabled():  # else autograd watches every step
            out = self.attempt(problem, plan, lambda: self.compiled(problem, plan, new_tape=new_tape, known=known))
        if out is None:
            out = self.plain(problem, plan, new_tape=new_tape, known=known)
            habit_of(problem.field).note(out, again)
        return out

    def with_gradient(self, problem: Problem, plan: Plan, *how: Any, **settings: Any) -> Run | None:
        return self.attempt(problem, plan, lambda: self.gradient(problem, plan, *how, **settings))

    def steps_back(self, forward: Field) -> Callable[..., Any] | None:
        habit = habit_of(forward)

        def steps(*problem_and_plan: Any, **settings: Any) -> Any:
            try:
                return self.back(*problem_and_plan, **settings)
            except NotCompilable as error:
                habit.tell(function(forward), error)
                return None

        return steps if habit.established else None

    def attempt(self, problem: Problem, plan: Plan, solve: Callable[[], Run | None]) -> Run | None:
        """The compiled solve; None if it is not worth its compilation yet, or cannot be."""
        habit = habit_of(problem.field)
        if not habit.established:
            return None
        try:
            check(problem, plan, "compiled")
        except NotCompilable as error:  # this solve
            habit.tell(function(problem.field), error)
            return None
        draws, evaluations = RandomState.now(problem.layout.device), problem.field.evaluations
        try:
            return solve()
        except NotCompilable as error:  # this function, in any solve
            habit.compiles = False
            habit.tell(function(problem.field), error)
        draws.put_back()
        problem.field.evaluations = evaluations
        return None
