"""Solvers with fixed steps: torchdiffeq's classes, options translated into the engine's pieces."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...errors import InputError
from ...methods import RK4 as EngineRK4
from ...methods import Euler as EngineEuler
from ...methods import ExplicitAdams, ImplicitAdams, Method
from ...methods import Heun2 as EngineHeun2
from ...methods import Heun3 as EngineHeun3
from ...methods import Midpoint as EngineMidpoint
from ...methods.chord import Chord
from ...methods.explicit_rk import ExplicitRungeKutta
from ...problem import Problem
from ...tolerance import Tolerance
from . import engine
from .control import AnyState
from .errors import ArgumentError, EventNotFound, IterationsError, MaxStepsExceeded, StepSizeError
from .functions import Perturb
from .methods import StepFunction
from .norms import linf_norm

MAX_EVENT_STEPS = 20000


def handle_unused_kwargs(solver: object, unused_kwargs: dict[str, Any]) -> None:
    """Warn about options that a solver does not know (torchdiffeq never raises for them)."""
    engine.check_runner(solver, unused_kwargs.pop("runner", "eager"))
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
        runner: as in ``torchivp.solve``; not of torchdiffeq.

    Raises:
        InputError: if both step_size and grid_constructor are given.
        InputTypeError: for a class without ``_step_func``.
    """

    order: int

    def __init__(
        self, func: Any, y0: Tensor, step_size: Any = None, grid_constructor: Callable[..., Any] | None = None,
        interp: str = "cubic", perturb: bool = False, runner: str = "eager", **unused_kwargs: Any,
    ):  # fmt: skip
        self._refuse_abstract()
        engine.check_runner(self, runner)
        self.runner = runner
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

    def _refuse_abstract(self) -> None:
        engine.refuse_abstract(self, FixedGridODESolver, "_step_func")

    @staticmethod
    def _grid_constructor_from_step_size(step_size: Any) -> Callable[..., Tensor]:
        def grid(func: Any, y0: Tensor, t: Tensor) -> Tensor:
            """Points and their number in the dtype of ``t``: it decides what is a whole number of steps."""
            start, end = t.detach()[:1], t.detach()[-1:]
            steps = float(torch.ceil((end - start) / step_size + 1)) - 1
            if not 0 <= steps < math.inf or not step_size > 0:
                raise StepSizeError(
                    f"step_size={step_size} is no step size. Give a positive number, in the units of t; the direction "
                    f"follows t."
                )
            inner = torch.arange(1, max(1, int(steps)), dtype=t.dtype, device=t.device) * step_size + start
            return torch.cat([start, inner[inner < end], end])

        return grid

    def _step_func(self, func: Any, t0: Tensor, dt: Tensor, t1: Tensor, y0: Tensor) -> tuple[Tensor, Tensor]:
        """``(dy, f0)``: the increment over a step and the slope at its start."""
        raise NotImplementedError(f"{type(self).__name__} has no _step_func. Define it, and `order`, in your class.")

    def _linear_interp(self, t0: Tensor, t1: Tensor, y0: Tensor, y1: Tensor, t: Tensor) -> Tensor:
        """The straight line of a step, at time ``t``."""
        if bool(t == t0):
            return y0
        if bool(t == t1):
            return y1
        return y0 + (t - t0) / (t1 - t0) * (y1 - y0)

    def _cubic_hermite_interp(
        self, t0: Tensor, y0: Tensor, f0: Tensor, t1: Tensor, y1: Tensor, f1: Tensor, t: Tensor
    ) -> Tensor:
        """The cubic through values and slopes at both ends of a step, at time ``t``."""
        dt = t1 - t0
        x, rise = (t - t0) / dt, y1 - y0
        return y0 + x * (dt * f0 + x * (3 * rise - dt * (2 * f0 + f1) + x * (dt * (f0 + f1) - 2 * rise)))

    def engine_method(self, times: torch.dtype) -> Method:
        """This solver as a method of the engine.

        Args:
            times: dtype of the times that a step function gets.
        """
        return StepFunction(self._step_func, self.func, self.order, times)

    def tolerance_of_stages(self) -> Tolerance:
        """What an implicit method calls small; steps of given sizes ask for nothing else."""
        return engine.no_tolerance(self.y0)

    @property
    def in_engine(self) -> bool:
        return not engine.is_overridden(self, FixedGridODESolver, "integrate")

    def setup(self, t: Tensor, *, landing: bool = False) -> engine.Setup:
        """The solve over ``t``; with ``landing``, on a grid of its own for each interval of ``t``."""
        grid = self._grid(t) if not landing else self._joined([self._grid(t[i : i + 2]) for i in range(len(t) - 1)])
        moving = () if grid is t or self.step_size is not None else (grid[1:-1],)  # steps of one size are constants
        problem = engine.make_problem(self.func, self.y0, t, self.tolerance_of_stages(), moving)
        controller = AnyState(times=grid.detach().tolist())
        return self._plan(
            problem, controller, grid.dtype, end=problem.t[-1], stops=controller.grid(problem.t),
            watch=engine.watch(self, t.dtype), max_steps=len(grid) + 1,
        )  # fmt: skip

    def setup_event(self, t0: Tensor) -> engine.Setup:
        if self.step_size is None:
            raise ArgumentError(
                "Event handling for fixed step solvers currently requires `step_size` to be provided in options."
            )
        problem = engine.make_problem(self.func, self.y0, t0, self.tolerance_of_stages())
        controller = AnyState(dt=float(self.step_size))
        times = self.y0.real.dtype
        return self._plan(problem, controller, times, end=engine.NO_END, max_steps=MAX_EVENT_STEPS)

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
        sizes = grid.detach().diff()
        if ends != t.detach()[[0, -1]].tolist() or not bool((sizes >= 0).all()):
            raise ArgumentError(
                f"The time grid runs from {ends[0]} to {ends[1]}. It must run monotonically from t[0]={t[0].item()} "
                f"to t[-1]={t[-1].item()}."
            )
        return grid if bool((sizes > 0).all()) else grid[torch.cat([sizes.new_ones(1), sizes]) > 0]

    @staticmethod
    def _joined(grids: list[Tensor]) -> Tensor:
        return torch.cat([grids[0], *(grid[1:] for grid in grids[1:])])

    def _plan(self, problem: Problem, controller: AnyState, times: torch.dtype, **rest: Any) -> engine.Setup:
        if self.interp not in _INTERPOLANTS:
            raise InputError(f"Unknown interpolation method {self.interp}")
        method = _INTERPOLANTS[self.interp](self.engine_method(times))
        plan = engine.make_plan(
            problem,
            method,
            controller,
            open_ends=self.perturb,
            open_starts=self.perturb,
            check_finite=False,
            runner=self.runner,
            **rest,
        )
        return engine.Setup(problem, plan)


_INTERPOLANTS: dict[str, Callable[[Method], Method]] = {"cubic": lambda method: method, "linear": Chord}


class Tabulated(FixedGridODESolver):
    """A built-in Runge-Kutta method. A subclass may still override ``_step_func`` and call ours."""

    method: ClassVar[ExplicitRungeKutta]

    def __init_subclass__(cls) -> None:
        if "method" in vars(cls):
            cls.order = cls.method.order

    def engine_method(self, times: torch.dtype) -> Method:
        own = engine.is_overridden(self, Tabulated, "_step_func")
        return super().engine_method(times) if own else self.method

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
        IterationsError: if max_iters is no positive number.
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
        if implicit and max_iters < 1:
            raise IterationsError(f"max_iters={max_iters}: a corrector that never corrects. Give 1 or more.")
        self.implicit = implicit
        self.max_iters = max_iters
        self.max_order = int(max_order)
        self.tolerance = engine.tolerance_of(rtol, atol, y0, linf_norm)

    def _refuse_abstract(self) -> None:
        """These methods need no step function."""

    def engine_method(self, times: torch.dtype) -> Method:
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
        if not done and i + 1 == self.max_iters:
            self.missed()
        return done

    def as_tensor(self, old: Tensor, new: Tensor, i: int) -> Tensor:
        """The same without a look at the device, and without a warning."""
        return self.tolerance.ratio_of((new - old).detach(), old.detach(), new.detach()) < 1

    def missed(self) -> None:
        """Some corrections did not suffice."""
        if not self.warned:
            self.warned = True
            warnings.warn("Functional iteration did not converge. Solution may be incorrect.", stacklevel=2)
