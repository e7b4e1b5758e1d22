"""Solvers with adaptive steps: torchdiffeq's classes, options translated into the engine's pieces."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...field import time_dtype
from ...methods import AdaptiveHeun, Bosh3, Dopri5, Dopri8, ExplicitRungeKutta, Tsit5
from ...methods import Fehlberg2 as EngineFehlberg2
from ...methods.tableau import Tableau
from ...problem import may_carry_gradient
from . import engine, rows
from .control import AsAsked, whole
from .fixed import handle_unused_kwargs
from .functions import CALLBACKS
from .methods import method_from
from .stepping import Stepwise, landings

ButcherTableau = namedtuple("ButcherTableau", "alpha, beta, c_sol, c_error")


class AdaptiveStepsizeODESolver:
    """Base for a solver of your own: define ``_advance(next_t)``, which returns the state there.

    Args:
        dtype: of the times.
        y0: state, any shape.
        norm: of the error.
    """

    def __init__(self, dtype: torch.dtype, y0: Tensor, norm: Callable[[Tensor], Any], **unused_kwargs: Any):
        engine.refuse_abstract(self, AdaptiveStepsizeODESolver, "_advance")
        handle_unused_kwargs(self, unused_kwargs)
        self.y0 = y0
        self.dtype = dtype
        self.norm = norm

    def _before_integrate(self, t: Tensor) -> None:
        """Called once with all times."""

    def _advance(self, next_t: Tensor) -> Tensor:
        raise NotImplementedError(
            f"{type(self).__name__} has no _advance(next_t). Define it: it returns the state there."
        )

    @classmethod
    def valid_callbacks(cls) -> set[str]:
        return set()

    def integrate(self, t: Tensor) -> Tensor:
        t = t.to(self.dtype)
        self._before_integrate(t)
        return torch.stack([self.y0, *(self._advance(next_t) for next_t in t[1:])])


class AdaptiveStepsizeEventODESolver(AdaptiveStepsizeODESolver):
    """The same with ``_advance_until_event(event_fn)``, which returns time and state of the event."""

    def _advance_until_event(self, event_fn: Callable[..., Tensor]) -> tuple[Tensor, Tensor]:
        raise NotImplementedError(
            f"{type(self).__name__} has no _advance_until_event(event_fn), so it cannot find events."
        )

    def integrate_until_event(self, t0: Tensor, event_fn: Callable[..., Tensor]) -> tuple[Tensor, Tensor]:
        t0 = t0.to(self.y0.device, self.dtype)
        self._before_integrate(t0.reshape(-1))
        event_time, y1 = self._advance_until_event(event_fn)
        return event_time, torch.stack([self.y0, y1])


HOOKS = ("_before_integrate", "_advance", "_advance_until_event", "_adaptive_step", "_interp_fit")


class RKAdaptiveStepsizeODESolver(Stepwise, AdaptiveStepsizeEventODESolver):
    """Adaptive Runge-Kutta methods. Subclass it with ``order``, ``tableau`` and ``mid`` for a method of your own.

    The engine takes the steps, unless a subclass overrides one of the hooks (see ``stepping``), which then take them.

    Args:
        func: ``func(t, y, *, perturb)`` in normal form.
        y0: state, any shape.
        rtol, atol: numbers, or tensors that broadcast to ``y0``.
        norm: of tensors of ``y0``'s shape.
        min_step, max_step: limits of the step size, in the units of ``t``; steps of ``min_step`` are always accepted.
        first_step: size of the first step; chosen from the problem if None.
        step_t: times to land on.
        jump_t: times at which ``func`` jumps: land there, and ask it just before and just after.
        safety, ifactor, dfactor: of the step-size control; the change from step to step is within [dfactor, ifactor].
        max_num_steps: largest number of attempted steps between two output times.
        dtype: of the times handed to callbacks and event functions. The engine's times are always float64.
        runner: as in ``torchivp.solve``; not of torchdiffeq.

    Raises:
        InputError: if a time stands twice in step_t and jump_t, or the steps could not get anywhere.
        StepCountError: if max_num_steps is no number of steps.
    """

    order: int
    tableau: Any
    mid: Tensor | None = None

    def __init__(
        self, func: Any, y0: Tensor, rtol: Any, atol: Any, min_step: Any = 0, max_step: Any = float("inf"),
        first_step: Any = None, step_t: Any = None, jump_t: Any = None, safety: Any = 0.9, ifactor: Any = 10.0,
        dfactor: Any = 0.2, max_num_steps: Any = 2**31 - 1, dtype: torch.dtype = torch.float64, runner: str = "eager",
        **kwargs: Any,
    ):  # fmt: skip
        super().__init__(dtype=torch.promote_types(dtype, y0.real.dtype), y0=y0, **kwargs)
        engine.check_runner(self, runner)
        self.func = func
        self.runner = runner
        self.rtol, self.atol = (
            tol if isinstance(tol, int | float) else torch.as_tensor(tol, device=y0.device) for tol in (rtol, atol)
        )
        self.min_step, self.max_step, self.safety, self.ifactor, self.dfactor = (
            torch.as_tensor(x, dtype=self.dtype, device=y0.device)
            for x in (min_step, max_step, safety, ifactor, dfactor)
        )
        self.first_step = first_step
        self.step_t, self.jump_t = (
            None if x is None else torch.as_tensor(x, dtype=self.dtype, device=y0.device).reshape(-1)
            for x in (step_t, jump_t)
        )
        self.max_num_steps = whole(max_num_steps)
        self.controller = AsAsked(
            safety=float(safety), min_factor=float(dfactor), max_factor=float(ifactor),
            min_step=max(0.0, min(float(min_step), float(max_step))), max_step=float(max_step),
        )  # fmt: skip

    @classmethod
    def valid_callbacks(cls) -> set[str]:
        return set(CALLBACKS)

    def engine_method(self) -> ExplicitRungeKutta:
        """This solver as a method of the engine."""
        return method_from(self.tableau, self.mid, self.order)

    @property
    def in_engine(self) -> bool:
        return not engine.is_overridden(self, RKAdaptiveStepsizeODESolver, "integrate", *HOOKS)

    def setup(self, t: Tensor, *, landing: bool = False) -> engine.Setup:
        return self._setup(t, float(t.detach()[-1]), landing)

    def setup_event(self, t0: Tensor) -> engine.Setup:
        return self._setup(t0, engine.last_time(self.y0), landing=False, event_times=self.dtype)

    @property
    def by_rows(self) -> bool:
        """Under vmap every row may have steps of its own: nobody looks at them or says where they end."""
        return self.in_engine and self.step_t is self.jump_t is None and engine.watch(self, self.dtype) is None

    @property
    def dt(self) -> float | None:
        """The size of the first step, if it was asked for."""
        limits = self.controller
        return None if self.first_step is None else min(max(float(self.first_step), limits.min_step), limits.max_step)

    def _setup(self, t: Tensor, end: float, landing: bool, event_times: torch.dtype | None = None) -> engine.Setup:
        tolerance = engine.tolerance_of(self.rtol, self.atol, self.y0, self.norm)
        t = t.to(time_dtype(t.device))
        stops, jumps = landings(self.step_t, self.jump_t, t[0].detach())
        moving = tuple(x[(x > t[0]) & (x < end)] for x in (stops, jumps) if may_carry_gradient(x))
        problem = engine.make_problem(self.func, self.y0, _apart(t, moving), tolerance, moving, event_times)
        plan = engine.make_plan(
            problem, self.engine_method(), self.controller, end=end,
            stops=[*stops.tolist(), *(problem.t[1:] if landing else ())], jumps=jumps.tolist(), open_ends=True, dt=self.dt,
            max_steps=self.max_num_steps, watch=engine.watch(self, self.dtype), runner=self.runner,
        )  # fmt: skip
        return engine.Setup(problem, plan)

    def integrate(self, t: Tensor) -> Tensor:
        if engine.is_overridden(self, RKAdaptiveStepsizeODESolver, *HOOKS):
            return super().integrate(t)
        like = rows.of_solver(self, t)
        return engine.integrate(self, t) if like is None else rows.integrate(self, t, like)

    def integrate_until_event(self, t0: Tensor, event_fn: Callable[..., Tensor]) -> tuple[Tensor, Tensor]:
        if engine.is_overridden(self, RKAdaptiveStepsizeODESolver, *HOOKS):
            return super().integrate_until_event(t0, event_fn)
        return engine.integrate_until_event(self, t0.to(self.y0.device, self.dtype), event_fn)


def _apart(t: Tensor, moving: tuple[Tensor, ...]) -> Tensor:
    """``t``, just before the moving times that it meets: an output there moves with its own time, not with theirs."""
    if not moving:
        return t
    times = t.detach()
    meets = torch.isin(times, torch.cat(moving).detach().to(times))
    before = torch.nextafter(times, times - 1)
    return t + torch.where(meets, before - times, torch.zeros_like(times))


def as_butcher(tableau: Tableau) -> ButcherTableau:
    """An engine's tableau in torchdiffeq's form."""

    def row(numbers: Any) -> Tensor:
        return torch.tensor([float(x) for x in numbers], dtype=torch.float64)

    return ButcherTableau(row(tableau.c[1:]), [row(a) for a in tableau.a[1:]], row(tableau.b), row(tableau.b_err or ()))


def middle(tableau: Tableau) -> Tensor | None:
    """Weights of the middle of a step, from a dense output without extra stages."""
    if tableau.dense is None or tableau.dense.c:
        return None
    weights = torch.tensor([[float(w) for w in row] for row in tableau.dense.weights], dtype=torch.float64)
    return 0.5 ** torch.arange(1, len(weights) + 1, dtype=torch.float64) @ weights


class BuiltIn(RKAdaptiveStepsizeODESolver):
    """A method of the engine under torchdiffeq's name. A subclass may still bring another ``tableau``.

    ``mid`` is torchdiffeq's; the engine has interpolants of its own, which are as exact as the steps.
    """

    method: ClassVar[ExplicitRungeKutta]
    own_tableau: ClassVar[ButcherTableau]

    def __init_subclass__(cls) -> None:
        if "method" in vars(cls):
            cls.order = cls.method.tableau.error_order or cls.method.tableau.order
            cls.tableau = cls.own_tableau = as_butcher(cls.method.tableau)

    def engine_method(self) -> ExplicitRungeKutta:
        return self.method if self.tableau is self.own_tableau else super().engine_method()


def _row(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


class AdaptiveHeunSolver(BuiltIn):
    method = AdaptiveHeun()
    mid = _row(0.5, 0.0)


class Fehlberg2(BuiltIn):
    method = EngineFehlberg2()
    mid = _row(0.0, 0.5, 0.0)


class Bosh3Solver(BuiltIn):
    method = Bosh3()
    mid = _row(0.0, 0.5, 0.0, 0.0)


class Dopri5Solver(BuiltIn):
    method = Dopri5()
    mid = middle(method.tableau)


class Tsit5Solver(BuiltIn):
    method = Tsit5()
    mid = middle(method.tableau)


class Dopri8Solver(BuiltIn):
    method = Dopri8()
    mid = _row(
        0.04103130360739393, 0.0, 0.0, 0.0, 0.0, 0.05100562801991382, 0.2388930677412202,
        0.3096870143996103, -0.2172325471755352, 0.07833405679331928, -0.0018614369715579948,
        0.007072844202678841, 0.00690847373200576, -0.013838404349047373,
    )  # fmt: skip
