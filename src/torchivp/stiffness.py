"""Who takes the next step: a method alone, watched for stiffness; or one of two, explicit and implicit, whichever suits.

What is looked at is known from the steps anyway: no evaluation of ``f`` is made, and no step is altered by being watched.
"""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch

from ._types import Rows
from .errors import StiffnessWarning
from .field import Field
from .methods.base import Method, Step
from .methods.stability import Twins
from .plan import Plan
from .transforms import as_float

STIFF = 0.9  # of the stability size: a step this long is as long as stability allows
STIFF_LOOKS, CALM_LOOKS = 5, 2  # a watched method is in trouble after so many looks, and out of it again


class Taken(NamedTuple):
    """An accepted step, as far as it tells of stiffness.

    Attributes:
        size: its length in time.
        start: the state it started from, ``[1, D]``.
    """

    field: Field
    size: float
    step: Step
    start: Rows


class Steering(ABC):
    """Chooses who takes the steps of one solve.

    Attributes:
        method: takes the next step.
        switches: how often it became another one.
        stiff: it is explicit, and the problem has been stiff for a while.
        warned: somebody has said so.
    """

    def __init__(self, method: Method):
        self.method = method
        self.switches = 0
        self.stiff = self.warned = False

    @abstractmethod
    def after(self, taken: Taken) -> float:
        """Look at an accepted step; a factor for the size of the next one."""


def stiffness(twins: Twins, taken: Taken, following: Taken | None = None) -> float:
    """Of a step: near 1 where stability limits it.

    Args:
        following: the step that began where it ended, where the twins are late.
    """
    k = taken.step.k
    if following is not None:
        k = torch.cat((k[: twins.tableau.stages - 1], following.step.k[:1]))
    return twins.stiffness(k, taken.field.tolerance.scale(taken.step.y1.detach()))


class Unwatched(Steering):
    """A method alone."""

    def after(self, taken: Taken) -> float:
        return 1.0


def warn_of(method: Method, what: str) -> None:
    """Warn of a stiff problem.

    Args:
        what: has been happening, up to the word "steps".
    """
    warnings.warn(
        f"The problem is stiff: {what} as long as {method!r} is stable, not as accuracy would allow. method='kvaerno5' or "
        f"'rodas5p' (implicit), or 'auto' (which switches), may take far fewer.",
        StiffnessWarning,
        stacklevel=2,
    )


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
        self.streak = Streak(CALM_LOOKS)
        self.before: Taken | None = None

    def after(self, taken: Taken) -> float:
        self.steps += 1
        before, self.before = self.before, taken if self.twins.late else None
        if self.steps > self.BEGIN and self.steps % self.EVERY == 0:
            if not self.twins.late:
                self.look(stiffness(self.twins, taken))
            elif before is not None and taken.start is before.step.y1:
                self.look(stiffness(self.twins, before, taken))
        return 1.0

    def look(self, found: float) -> None:
        self.streak.note(found)
        if self.streak.stiff >= STIFF_LOOKS:
            self.stiff = True
        elif not self.streak.stiff:
            self.stiff = False
        if self.stiff and not self.warned:
            self.warned = True
            warn_of(self.method, "for a while now the solve, which goes on, has been taking steps")


class Switching(Steering):
    """An explicit method while it can, an implicit one while it must.

    From the explicit one it looks at every ``EVERY``-th step, and switches after ``STIFF_LOOKS``. From the implicit one it goes
    back after ``CALM`` steps in a row that the explicit one could have taken, by the spectral radius of the Jacobian.

    Source of the rules: the automatic switching of OrdinaryDiffEq.jl (10 stiff steps, 3 that are not, a factor of 2 in size).
    """

    EVERY, STIFF_LOOKS, CALM = 4, 3, 3

    def __init__(self, nonstiff: Method, implicit: Method):
        super().__init__(nonstiff)
        self.nonstiff, self.implicit = nonstiff, implicit
        self.twins = Twins.required(nonstiff)
        self.begin()

    def begin(self) -> None:
        """A method takes over."""
        self.steps = self.calm = 0
        self.streak = Streak(CALM_LOOKS)
        self.radius = SpectralRadius()

    def after(self, taken: Taken) -> float:
        self.steps += 1
        return self.after_explicit(taken) if self.method is self.nonstiff else self.after_implicit(taken)

    def after_explicit(self, taken: Taken) -> float:
        if self.steps % self.EVERY:
            return 1.0
        self.streak.note(stiffness(self.twins, taken))
        return self.switch(self.implicit, 2.0) if self.streak.stiff >= self.STIFF_LOOKS else 1.0

    def after_implicit(self, taken: Taken) -> float:
        calm = taken.size * self.radius.of(taken.field) < STIFF * self.twins.size
        self.calm = self.calm + 1 if calm else 0
        return self.switch(self.nonstiff, 0.5) if self.calm >= self.CALM else 1.0

    def switch(self, method: Method, factor: float) -> float:
        self.method, self.switches = method, self.switches + 1
        self.begin()
        return factor


class SpectralRadius:
    """Of the Jacobians that an implicit method finds: power iteration with one product a step, along the solve."""

    def __init__(self) -> None:
        self.direction: Rows | None = None

    @torch.no_grad()
    def of(self, field: Field) -> float:
        """Of the newest Jacobian of ``field``, nearly; infinite if there is none."""
        if field.linearised is None:
            return math.inf
        y, _, linear = field.linearised
        image = linear.times(some_direction(y) if self.direction is None else self.direction).detach()
        size = torch.linalg.vector_norm(image)
        radius = as_float(size)
        self.direction = image / size if 0 < radius < math.inf else None
        return radius


def some_direction(y: Rows) -> Rows:
    """Of length 1, with a share of every eigenvector."""
    v = torch.cos(torch.arange(1, y.shape[1] + 1, dtype=y.real.dtype, device=y.device)).to(y.dtype).unsqueeze(0)
    return v / torch.linalg.vector_norm(v)


def steering(plan: Plan) -> Steering:
    """Who steers a solve by this plan."""
    if plan.method.members is not None:
        return Switching(*plan.method.members)
    twins = Twins.of(plan.method) if plan.watch_stiffness and plan.controller.adaptive else None
    return Unwatched(plan.method) if twins is None else Watched(plan.method, twins)
