"""The backward solve of ``odeint_adjoint``.

torchdiffeq starts a new one for every output interval. Here one solve starts at the last output, lands on each of the
others, puts the state back to its stored value, adds the gradient that arrives there, and goes on with its step size; that
costs one evaluation for each landing.

The gradient with respect to times needs no integral: ``dL/dt[i] = grad[i] . f(t[i], y[i])``, and ``dL/dt[0] = - a(t[0]) .
f(t[0], y[0])``, because moving the start by dt is the same as starting from ``y[0] - f dt``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...field import Field
from ...loop import LoopState, march, start
from ...plan import Plan
from ...problem import Problem
from ...runners import RUNNERS, Runner
from ...state import Layout
from . import engine
from .forward import make_solver, odeint
from .functions import ADJOINT_CALLBACKS, CALLBACKS, PerturbFunc, TupleFunc, flat_to_shape
from .inputs import check_inputs
from .norms import Seminorm
from .solvers import SOLVERS


class OdeintAdjointMethod(torch.autograd.Function):
    """The forward solve without autograd, and the backward solve. ``grad_fn.adjoint_options`` is read when it starts."""

    @staticmethod
    def forward(
        ctx: Any, shapes: Any, func: Any, y0: Tensor, t: Tensor, rtol: Any, atol: Any, method: Any, options: Any,
        event_fn: Any, adjoint_rtol: Any, adjoint_atol: Any, adjoint_method: Any, adjoint_options: Any,
        t_requires_grad: bool, *adjoint_params: Tensor,
    ) -> Any:  # fmt: skip
        ctx.shapes = shapes
        ctx.func = func
        ctx.adjoint_rtol = adjoint_rtol
        ctx.adjoint_atol = adjoint_atol
        ctx.adjoint_method = adjoint_method
        ctx.adjoint_options = adjoint_options
        ctx.t_requires_grad = t_requires_grad
        ctx.event_mode = event_fn is not None
        t = t.detach()
        with torch.no_grad():
            out = _solve_forward(func, y0, t, rtol, atol, method, options, event_fn)
            if event_fn is None:
                y = out.clone()  # no view, so that it can be changed in place
                ctx.save_for_backward(t, y, *adjoint_params)
                return y
            event_t, y = out
            ctx.save_for_backward(torch.stack([t[0].to(event_t), event_t]), y, *adjoint_params)
            return event_t, y

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        t, y, *params = ctx.saved_tensors
        with torch.no_grad():
            adj_y, time_vjps, adj_params = solve_backward(
                ctx.func, t, y, grads[-1], params, rtol=ctx.adjoint_rtol, atol=ctx.adjoint_atol,
                method=ctx.adjoint_method, options=ctx.adjoint_options, time_grads=ctx.t_requires_grad,
            )  # fmt: skip
        if ctx.event_mode and time_vjps is not None:  # the event's time is a constant here, see odeint_event
            time_vjps = torch.cat([time_vjps[:1], torch.zeros_like(time_vjps[1:])])
        return (None, None, adj_y, time_vjps, *[None] * 10, *adj_params)


def _solve_forward(
    func: Any, y0: Tensor, t: Tensor, rtol: Any, atol: Any, method: Any, options: Any, event_fn: Any
) -> Any:
    if not isinstance(func, PerturbFunc) or method is None or "norm" not in options:  # not in normal form yet
        return odeint(func, y0, t, rtol=rtol, atol=atol, method=method, options=options, event_fn=event_fn)
    solver = SOLVERS[method](func=func, y0=y0, rtol=rtol, atol=atol, **options)
    return solver.integrate(t) if event_fn is None else solver.integrate_until_event(t[0], event_fn)


def solve_backward(
    func: Callable[..., Any], t: Tensor, y: Tensor, grad_y: Tensor, params: Sequence[Tensor], *, rtol: Any, atol: Any,
    method: Any, options: dict[str, Any], time_grads: bool,
) -> tuple[Tensor, Tensor | None, Sequence[Tensor]]:  # fmt: skip
    """Gradients with respect to the state at ``t[0]``, the times (or None) and the parameters.

    Args:
        func: in normal form.
        t: increasing, ``[T]``.
        y, grad_y: states there and the gradients that arrive at them, ``[T, *shape]``.
        params: tensors that require grad.
        rtol, atol, method, options: of the backward solve; as ``odeint`` takes them, for the tuple (t, y, adj_y, *params).
        time_grads: whether gradients with respect to ``t`` are wanted.
    """
    dynamics = AugmentedDynamics(func, params, y)
    state = (y.new_zeros(()).real, y[-1], grad_y[-1], *(torch.zeros_like(p) for p in params))
    options, runner = options.copy(), RUNNERS[options.get("runner", "eager")]
    options.pop("runner", None)
    if len(t) > 1:
        state = _one_solve(dynamics, state, t, y, grad_y, runner, rtol=rtol, atol=atol, method=method, options=options)
    _, _, adj_y, *adj_params = state
    adj_y = cast(adj_y, y)
    adj_params = [cast(a, p) for a, p in zip(adj_params, params)]
    time_vjps = None
    if time_grads:
        cotangents = torch.cat([-adj_y.unsqueeze(0), grad_y[1:]]) if len(t) > 1 else torch.zeros_like(grad_y)
        rates = [(g.conj() * func(s, x)).real.sum() for s, x, g in zip(t, y, cotangents)]
        time_vjps = torch.stack(rates).to(t)
    return (adj_y + grad_y[0] if len(t) > 1 else adj_y), time_vjps, adj_params


def _one_solve(
    dynamics: AugmentedDynamics,
    state: tuple[Tensor, ...],
    t: Tensor,
    y: Tensor,
    grad_y: Tensor,
    runner: Runner,
    **how: Any,
) -> tuple[Tensor, ...]:
    """The backward state at ``t[0]``, before the gradient that arrives there is added."""
    inputs = check_inputs(dynamics, state, t.flip(0), event_fn=None, solvers=SOLVERS, **how)
    solver = make_solver(inputs)
    if not getattr(solver, "in_engine", False):
        return _interval_by_interval(dynamics, state, t, y, grad_y, **how)
    problem, plan = solver.setup(inputs.t, landing=True)
    loop = LoopState(problem.t0, problem.y0, math.inf)
    steps = _steps_of_runner(runner, dynamics, y[-1], how["options"].get("norm"), problem, plan, loop)
    if steps is None:
        start(problem, plan, loop)
        steps = march(problem, plan, loop)
    arrivals = dict(zip(problem.t[1:-1], range(len(t) - 2, 0, -1)))
    n = y[0].numel()
    for _ in steps:
        i = arrivals.get(loop.t)
        if i is not None:
            row = loop.y.clone()
            row[:, 1 : 1 + n] = y[i].reshape(1, n)
            row[:, 1 + n : 1 + 2 * n] += grad_y[i].reshape(1, n)
            loop.y = row
            loop.budget_from = loop.attempted
    engine.raise_failure(problem, plan, loop)
    return flat_to_shape(loop.y.view(-1), (), inputs.shapes or ())


def _steps_of_runner(
    runner: Runner, dynamics: AugmentedDynamics, y: Tensor, norm: Any, problem: Problem, plan: Plan, loop: LoopState
) -> Iterator[Any] | None:
    """The steps as the runner takes them; None where it has no way of its own, or not for these options.

    Args:
        y: a forward state.
        norm: of the parts.
        problem, plan, loop: of the backward solve.
    """
    if runner.steps_back is None or not isinstance(norm, Seminorm):
        return None
    func = dynamics.func.base_func if isinstance(dynamics.func, PerturbFunc) else dynamics.func
    shapes = [x.shape for x in (y.new_zeros(()), y, y, *dynamics.params)]
    forward = Field(func, Layout(y), broadcast=True)
    turned = Field(TupleFunc(dynamics, shapes), problem.layout, direction=-1, broadcast=True)
    of_rows = engine.norm_of_rows(norm.of_state, y.shape)
    steps_back = runner.steps_back(forward)
    if steps_back is None:
        return None
    steps: Iterator[Any] | None = steps_back(
        forward, dynamics.params, replace(problem, field=turned), plan, loop, of_rows, 2, front=1, others=True
    )
    return steps


def _interval_by_interval(
    dynamics: AugmentedDynamics, state: tuple[Tensor, ...], t: Tensor, y: Tensor, grad_y: Tensor, **how: Any
) -> tuple[Tensor, ...]:
    """The same with one solve for each interval, for solvers that are not the engine's."""
    for i in range(len(t) - 1, 0, -1):
        solution = odeint(dynamics, state, t[i - 1 : i + 1].flip(0), **how)
        time, _, adj_y, *adj_params = (part[1] for part in solution)
        state = (time, y[i - 1], adj_y + grad_y[i - 1] if i > 1 else adj_y, *adj_params)
    return state


def cast(x: Tensor, like: Tensor) -> Tensor:
    """``x`` in the dtype of ``like``; the real part where that is real."""
    return (x.real if x.is_complex() and not like.is_complex() else x).to(like.dtype)


class AugmentedDynamics:
    """Backward dynamics of ``(t, y, adj_y, *params)``: the state, its adjoint, and the integrands of the parameters.

    The first entry stays zero (see the head of this file); a norm of the user's finds it where torchdiffeq has it.

    Args:
        func: of the forward solve, in normal form; its ``..._adjoint`` callbacks become the callbacks of this one.
        params: tensors that require grad.
        like: has the dtype of the forward state (the parts share one row, which has the widest dtype of all).
    """

    def __init__(self, func: Callable[..., Any], params: Sequence[Tensor], like: Tensor):
        self.func = func
        self.params = tuple(params)
        self.like = like
        self.time_sign = getattr(func, "time_sign", 1)
        for name, adjoint_name in zip(CALLBACKS, ADJOINT_CALLBACKS):
            if hasattr(func, adjoint_name):
                setattr(self, name, getattr(func, adjoint_name))

    def __call__(self, t: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        time, y, adj_y, *adj_params = state
        with torch.enable_grad():
            y = cast(y.detach(), self.like).requires_grad_(True)
            slope = cast(self.func(t.detach(), y), self.like).expand(y.shape)
        wrt = (y, *self.params)
        grads: Sequence[Tensor | None] = [None] * len(wrt)
        if slope.requires_grad:
            grads = torch.autograd.grad(slope, wrt, -cast(adj_y, self.like), allow_unused=True, retain_graph=True)
        zeros = (y, *adj_params)
        integrands = (torch.zeros_like(z) if g is None else g for g, z in zip(grads, zeros))
        return (torch.zeros_like(time), slope.detach(), *integrands)
