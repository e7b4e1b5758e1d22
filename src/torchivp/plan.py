"""The frozen choice of pieces for one solve, and whether they fit together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from ._types import Rows
from .controllers import PID, Controller, FixedSteps
from .errors import InputError
from .methods.base import Method

if TYPE_CHECKING:
    from .events import Event


@runtime_checkable
class Watch(Protocol):
    """Whoever wants to see every attempt (the drop-in's callbacks). Times and states as inside the library."""

    def attempt(self, t: float, y: Rows, dt: float) -> None: ...
    def accept(self, t: float, y: Rows, dt: float) -> None: ...
    def reject(self, t: float, y: Rows, dt: float) -> None: ...


@dataclass(frozen=True)
class Plan:
    """What a solve is made of.

    Attributes:
        method, controller: the step, and its size.
        limits: where it must end (``controllers.Limits``, or ``RowLimits`` of many rows).
        save: what to keep (``saving.Save``, or ``RowSave``); with ``dense`` and ``events``.
        max_steps: attempted steps; per output interval where ``max_steps_per_output``.
        dt: the user's first step, or None.
        on_step: called after each accepted step with the user's time and state; True stops.
        progress: show a bar.
        interruptible: Ctrl-C ends the solve instead of raising.
        check_finite: fixed steps look for nan and inf (adaptive ones always do).
        watch: sees every attempt.
        one_by_one: the trajectory of a dense solve has to hold its steps, because a gradient goes along them.
        watch_stiffness: warn where an explicit method solves a stiff problem.
        run, steps_back, with_gradient: of the runner (see ``runners.Runner``).
    """

    method: Method
    controller: Controller
    limits: Any
    save: Any
    dense: bool = False
    events: tuple[Event, ...] = ()
    max_steps: int = 100_000
    max_steps_per_output: bool = False
    dt: float | None = None
    on_step: Callable[[Any, Any], object] | None = None
    progress: bool = False
    interruptible: bool = False
    check_finite: bool = True
    watch: Watch | None = None
    one_by_one: bool = False
    watch_stiffness: bool = False
    run: Callable[..., Any] = field(kw_only=True)
    with_gradient: Callable[..., Any] | None = None
    steps_back: Callable[..., Any] | None = None

    @property
    def steps_vary(self) -> bool:
        """Whether the number of steps depends on the numbers in the solve."""
        return self.controller.adaptive or any(event.terminal for event in self.events)


def choose_controller(method: Method, controller: Controller | None, dt: float | None) -> Controller:
    """Fixed steps for a method without an error estimate, the classical controller for the others."""
    if controller is None:
        return PID() if method.adaptive else FixedSteps(dt=dt)
    if controller.adaptive and not method.adaptive:
        raise InputError(
            f"{method!r} has no error estimate, and {controller!r} needs one. Take an adaptive method such as 'tsit5', "
            f"or leave `controller` out and give `dt`."
        )
    if not controller.adaptive and dt is not None:
        raise InputError(
            f"dt={dt} and {controller!r} both set the step size. Write `controller=FixedSteps(dt={dt})` alone."
        )
    return controller
