"""Solvers with fixed steps: torchdiffeq's classes, options translated into the engine's pieces."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...controllers import FixedSteps
from ...errors import InputError
from ...field import time_dtype
from ...methods import RK4 as EngineRK4
from ...methods import Euler as EngineEuler
from ...methods import ExplicitAdams, ImplicitAdams, Method
from ...methods import Heun2 as EngineHeun2
from ...methods import Heun3 as EngineHeun3
from ...methods import Midpoint as EngineMidpoint
from ...methods.explicit_rk import ExplicitRungeKutta
from ...problem import Problem
from ...tolerance import Tolerance
from . import engine
from .errors import ArgumentError, EventNotFound, MaxStepsExceeded
from .functions import Perturb
from .methods import Chord, StepFunction
from .norms import linf_norm

MAX_EVENT_STEPS = 20000


def handle_unused_kwargs(solver: object, unused_kwargs: dict[str, Any]) -> None:
    """Warn about options that a solver does not know (torchdiffeq never raises for them)."""
    if unused_kwargs:
        warnings.warn(f"{type(solver).__name__}: Unexpected arguments {unused_kwargs}", stacklevel=3)


class FixedGridODESolver:
    """Fixed steps on a grid. Subclass it with ``order`` and ``_step_func`` for a method of your own.

    As in torchdiffeq, nan and inf are returned, not raised: training loops look for them in the loss.

    Args:
        func: ``func(t, y, *, perturb)`` in normal form.
        y0: state, any shape.
        step_size: size of the steps, in the units of ``t``; the last one is shortened.
        grid_constructor: ``(func, y0, t) -> grid [G]`` from ``t[0]`` to ``t[-1]``. With neither, ``t`` is the grid.
        interp: between step points: "cubic" (also where nothing is said: torchdiffeq's default, "linear", throws the
            method's accuracy away), or "linear".
        perturb: ask ``func`` just inside each step instead of at its ends.

    Raises:
        InputError: if both step_size and grid_constructor are given.
    """

    order: int

    def __init__(
        self, func: Any, y0: Tensor, step_size: Any = None, grid_constructor: Callable[..., Any] | None = None,
        interp: str = "cubic", perturb: bool = False, **unused_kwargs: Any,
    ):  # fmt: skip
        self.atol = unused_kwargs.pop("atol", None)
        for name in ("rtol", "norm"):
            unused_kwargs.pop(name, None)
        handle_unused_kwargs(self, unused_kwargs)
        if step_size is not None and grid_constructor is not None:
            raise InputError("step_size and grid_constructor are mutually exclusive arguments.")
        self.func = func
        self.y0 = y0
        self.dtype = y0.dtype
        self.device = y0.device
        self.step_size = step_size
        self.interp = interp
        self.perturb = perturb
        if step_size is not None:
            grid_constructor = self._grid_constructor_from_step_size(step_size)
        self.grid_constructor = grid_constructor or (lambda func, y0, t: t)

    @classmethod
    def valid_callbacks(cls) -> set[str]:
        return {"callback_step"}

    @staticmethod
    def _grid_constructor_from_step_size(step_size: Any) -> Callable[..., Tensor]:
        def grid(func: Any, y0: Tensor, t: Tensor) -> Tensor:
            times = t.detach().to(time_dtype(t.device))
            inner = FixedSteps(dt=float(step_size)).grid([times[0].item(), times[-1].item()])
            return torch.cat([times[:1], times.new_tensor(inner), times[1:][-1:]])

        return grid

    def _step_func(self, func: Any, t0: Tensor, dt: Tensor, t1: Tensor, y0: Tensor) -> tuple[Tensor, Tensor]:
        """``(dy, f0)``: the increment over a step and the slope at its start."""
        raise NotImplementedError(f"{type(self).__name__} has no _step_func. Define it, and `order`, in your class.")

    def engine_method(self) -> Method:
        """This solver as a method of the engine."""
        return StepFunction(self._step_func, self.func, self.order)

    def setup(self, t: Tensor, *, landing: bool = False) -> engine.Setup:
        """The solve over ``t``; with ``landing``, on a grid of its own for each interval of ``t``."""
        grid = self._grid(t) if not landing else self._joined([self._grid(t[i : i + 2]) for i in range(len(t) - 1)])
        own = None if self.step_size is not None else grid  # steps of one size are constants
        problem = engine.make_problem(self.func, self.y0, t, engine.no_tolerance(self.y0), own)
        controller = FixedSteps(times=grid.detach().tolist())
        return self._plan(
            problem, controller, end=problem.t[-1], stops=controller.grid(problem.t),
            watch=engine.watch(self.func, self.y0, t.dtype), max_steps=len(grid) + 1,
        )  # fmt: skip

    def setup_event(self, t0: Tensor) -> engine.Setup:
        if self.step_size is None:
            raise ArgumentError(
                "Event handling for fixed step solvers currently requires `step_size` to be provided in options."
            )
        problem = engine.make_problem(self.func, self.y0, t0, engine.no_tolerance(self.y0))
        controller = FixedSteps(dt=float(self.step_size))
        return self._plan(problem, controller, end=engine.NO_END, max_steps=MAX_EVENT_STEPS)

    def integrate(self, t: Tensor) -> Tensor:
        return engine.integrate(self, t)

    def integrate_until_event(self, t0: Tensor, event_fn: Callable[..., Tensor]) -> tuple[Tensor, Tensor]:
        try:
            return engine.integrate_until_event(self, t0, event_fn)
        except MaxStepsExceeded as error:
            raise EventNotFound(
                f"Reached maximum number of iterations {MAX_EVENT_STEPS}. No event was found in that many steps of size "
                f"{self.step_size}. Check the event function, or take an adaptive method."
            ) from error

    def _grid(self, t: Tensor) -> Tensor:
        grid = torch.as_tensor(self.grid_constructor(self.func, self.y0, t), device=t.device)
        ends = grid.detach()[[0, -1]].tolist()
        if ends != t.detach()[[0, -1]].tolist() or not bool((grid[1:] > grid[:-1]).all()):
            raise ArgumentError(
                f"The time grid runs from {ends[0]} to {ends[1]}. It must run strictly monotonically from t[0]={t[0].item()} "
                f"to t[-1]={t[-1].item()}."
            )
        return grid

    @staticmethod
    def _joined(grids: list[Tensor]) -> Tensor:
        return torch.cat([grids[0], *(grid[1:] for grid in grids[1:])])

    def _plan(self, problem: Problem, controller: FixedSteps, **rest: Any) -> engine.Setup:
        if self.interp not in _INTERPOLANTS:
            raise InputError(f"Unknown interpolation method {self.interp}")
        method = _INTERPOLANTS[self.interp](self.engine_method())
        plan = engine.make_plan(
            problem, method, controller, open_ends=self.perturb, open_starts=self.perturb, check_finite=False, **rest
        )
        return engine.Setup(problem, plan)


_INTERPOLANTS: dict[str, Callable[[Method], Method]] = {"cubic": lambda method: method, "linear": Chord}


class Tabulated(FixedGridODESolver):
    """A built-in Runge-Kutta method. A subclass may still override ``_step_func`` and call ours."""

    method: ClassVar[ExplicitRungeKutta]

    @property
    def order(self) -> int:  # type: ignore[override]
        return self.method.order

    def engine_method(self) -> Method:
        own = type(self)._step_func is not Tabulated._step_func
        return super().engine_method() if own else self.method

    def _step_func(self, func: Any, t0: Tensor, dt: Tensor, t1: Tensor, y0: Tensor) -> tuple[Tensor, Tensor]:
        tableau = self.method.tableau
        k: list[Tensor] = []
        for c, row in zip(tableau.c, tableau.a):
            perturb = _PERTURB.get(c, Perturb.NONE) if self.perturb else Perturb.NONE
            y = y0 + dt * sum(float(a) * slope for a, slope in zip(row, k)) if k else y0
            k.append(func(t1 if c == 1 else t0 + float(c) * dt, y, perturb=perturb))
        return dt * sum(float(b) * slope for b, slope in zip(tableau.b, k)), k[0]


_PERTURB: dict[Any, Perturb] = {0: Perturb.NEXT, 1: Perturb.PREV}


class Euler(Tabulated):
    method = EngineEuler()


class Midpoint(Tabulated):
    method = EngineMidpoint()


class Heun2(Tabulated):
    method = EngineHeun2()


class Heun3(Tabulated):
    method = EngineHeun3()


class RK4(Tabulated):
    """The 3/8 rule, as in torchdiffeq."""

    method = EngineRK4()


MIN_ADAMS_ORDER, MAX_ADAMS_ORDER = 4, 12
EXPLICIT_DEFAULT, IMPLICIT_DEFAULT = 5, 8


class AdamsBashforthMoulton(FixedGridODESolver):
    """Adams methods on any grid (torchdiffeq's coefficients hold for equal steps only).

    Args:
        rtol, atol: of the corrector's iteration.
        implicit: predict and correct, instead of predict only.
        max_iters: largest number of corrections in a step.
        max_order: order of the corrector; a predictor alone has one less. Below 4 this is rk4. If None, a predictor of
            order 4 or a corrector of order 8: torchdiffeq's 12 is unstable but for very small steps.

    Raises:
        ArgumentError: if max_order is above 12.
    """

    order = 4

    def __init__(
        self, func: Any, y0: Tensor, rtol: Any = 1e-3, atol: Any = 1e-4, implicit: bool = True, max_iters: int = 4,
        max_order: int | None = None, **kwargs: Any,
    ):  # fmt: skip
        super().__init__(func, y0, rtol=rtol, atol=atol, **kwargs)
        if max_order is None:
            max_order = IMPLICIT_DEFAULT if implicit else EXPLICIT_DEFAULT
        if max_order > MAX_ADAMS_ORDER:
            raise ArgumentError(f"max_order must be at most {MAX_ADAMS_ORDER}")
        if max_order < MIN_ADAMS_ORDER:
            warnings.warn(f"max_order is below {MIN_ADAMS_ORDER}, so the solver reduces to `rk4`.", stacklevel=2)
        self.implicit = implicit
        self.max_iters = max_iters
        self.max_order = int(max_order)
        self.tolerance = engine.tolerance_of(rtol, atol, y0, linf_norm)

    def engine_method(self) -> Method:
        if self.max_order < MIN_ADAMS_ORDER:
            return EngineRK4()
        if not self.implicit:
            return ExplicitAdams(self.max_order - 1)
        return ImplicitAdams(self.max_order, self.max_iters, Convergence(self.tolerance, self.max_iters))


class AdamsBashforth(AdamsBashforthMoulton):
    def __init__(self, func: Any, y0: Tensor, **kwargs: Any):
        super().__init__(func, y0, implicit=False, **kwargs)


class Convergence:
    """Says when a corrector may stop, and warns (once a solve) when it had to stop too early.

    Args:
        tolerance: of the change from one correction to the next.
        max_iters: number of the last correction.
    """

    def __init__(self, tolerance: Tolerance, max_iters: int):
        self.tolerance = tolerance
        self.max_iters = max_iters
        self.warned = False

    def __call__(self, old: Tensor, new: Tensor, i: int) -> bool:
        done = self.tolerance.ratio((new - old).detach(), old.detach(), new.detach()) < 1
        if not done and i + 1 == self.max_iters and not self.warned:
            self.warned = True
            warnings.warn("Functional iteration did not converge. Solution may be incorrect.", stacklevel=2)
        return done
