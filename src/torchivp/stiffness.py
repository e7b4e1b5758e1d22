"""Who takes the next step: a method alone, watched for stiffness; or one of two, explicit and implicit, whichever suits.

What is looked at is known from the steps anyway: no evaluation of ``f`` is made, and no step is altered by being watched.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from typing import NamedTuple

from .errors import StiffnessWarning
from .field import Field
from .methods.base import Method, Step
from .methods.stability import Twins
from .plan import Plan

STIFF = 0.9  # of the stability size: a step this long is as long as stability allows
_STIFF_LOOKS, _CALM_LOOKS = 5, 2  # a watched method is in trouble after so many looks, and out of it again


class Taken(NamedTuple):
    """An accepted step, as far as it tells of stiffness.

    Attributes:
        size: its length in time.
    """

    field: Field
    size: float
    step: Step


class Steering(ABC):
    """Chooses who takes the steps of one solve.

    Attributes:
        method: takes the next step.
        switches: how often it became another one.
        stiff: it is explicit, and the problem has been stiff for a while.
    """

    def __init__(self, method: Method):
        self.method = method
        self.switches = 0
        self.stiff = False

    @abstractmethod
    def after(self, taken: Taken) -> float:
        """Look at an accepted step; a factor for the size of the next one."""


class Unwatched(Steering):
    """A method alone."""

    def after(self, taken: Taken) -> float:
        return 1.0


class Streak:
    """Counts looks that found a problem stiff, with fewer than ``patience`` others in a row between them.

    Args:
        patience: so many others in a row, and counting begins anew.
    """

    def __init__(self, patience: int):
        self.patience = patience
        self.stiff = self.calm = 0

    def note(self, stiffness: float) -> None:
        if stiffness > STIFF:
            self.stiff, self.calm = self.stiff + 1, 0
        else:
            self.calm += 1
            self.stiff = self.stiff if self.calm < self.patience else 0


class Watched(Steering):
    """An explicit method alone, which warns once where the problem is stiff.

    Short solves are not worth a word, and looks cost time: it begins after ``BEGIN`` accepted steps and looks at every
    ``EVERY``-th. As in Hairer's dopri5.f single steps say nothing: stability lets steps grow and fail in turns.
    """

    BEGIN, EVERY = 100, 8

    def __init__(self, method: Method, twins: Twins):
        super().__init__(method)
        self.twins = twins
        self.steps = 0
        self.streak = Streak(_CALM_LOOKS)
        self.warned = False

    def after(self, taken: Taken) -> float:
        self.steps += 1
        if self.steps > self.BEGIN and self.steps % self.EVERY == 0:
            self.look(taken.step)
        return 1.0

    def look(self, step: Step) -> None:
        self.streak.note(self.twins.stiffness(step.k))
        if self.streak.stiff >= _STIFF_LOOKS:
            self.stiff = True
        elif not self.streak.stiff:
            self.stiff = False
        if self.stiff and not self.warned:
            self.warned = True
            warnings.warn(
                f"The problem is stiff: for a while now the steps of {self.method!r} have been as long as it is stable, not as "
                f"accuracy would allow. The solve goes on; method='kvaerno5' or 'rodas5p' (implicit), or 'auto' (which "
                f"switches), may take far fewer steps.",
                StiffnessWarning,
                stacklevel=2,
            )


def steering(plan: Plan) -> Steering:
    """Who steers a solve by this plan."""
    twins = Twins.of(plan.method) if plan.watch_stiffness and plan.controller.adaptive else None
    return Unwatched(plan.method) if twins is None else Watched(plan.method, twins)
