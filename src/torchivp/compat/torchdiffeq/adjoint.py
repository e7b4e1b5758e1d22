"""``odeint_adjoint``: gradients by the continuous adjoint, in one backward solve.

torchdiffeq starts a new backward solve for every output interval. Here one solve starts at the last output, lands on each
of the others, puts the state back to its stored value, adds the gradient that arrives there, and goes on with its step size;
that costs one evaluation for each landing.

The gradient with respect to times needs no integral: ``dL/dt[i] = grad[i] . f(t[i], y[i])``, and ``dL/dt[0] = - a(t[0]) .
f(t[0], y[0])``, because moving the start by dt is the same as starting from ``y[0] - f dt``.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import GradientError, InputError
from ...loop import LoopState, march, start
from ...transforms import recorded
from . import engine
from .forward import in_shape, make_solver, odeint
from .functions import ADJOINT_CALLBACKS, CALLBACKS, flat_to_shape
from .inputs import check_inputs, flat_tolerance, reverse_options
from .solvers import SOLVERS


def odeint_adjoint(
    func: Any, y0: Any, t: Any, *, rtol: Any = 1e-7, atol: Any = 1e-9, method: Any = None, options: Any = None,
    event_fn: Any = None, adjoint_rtol: Any = None, adjoint_atol: Any = None, adjoint_method: Any = None,
    adjoint_options: Any = None, adjoint_params: Any = None,
) -> Any:  # fmt: skip
    """``odeint`` with gradients by the continuous adjoint: memory does not grow with the number of steps.

    The gradients are those of the exact solution, computed to the adjoint tolerances, not those of the numbers returned; and
    only first-order. The error norm of the backward solve leaves the gradients of the parameters out unless
    ``adjoint_options["norm"]`` is a function: they are an integral over the rest, which does not feel their error.

    Args:
        func, y0, t, rtol, atol, method, options, event_fn: as for ``odeint``; ``func`` is an ``nn.Module``, or
            adjoint_params is given. It may have ``callback_step_adjoint`` and so on for the backward solve.
        adjoint_rtol, adjoint_atol, adjoint_method: of the backward solve; those of the forward solve if None. Tuples have
            one entry for each part of ``y0``, or one for each part of the backward state ``(t, y, adj_y, *params)``.
        adjoint_options: of the backward solve; ``options`` without ``norm`` if None. ``norm`` may be "seminorm" (the
            default) or a function of the tuple ``(t, y, adj_y, *params)``.
        adjoint_params: the tensors to differentiate with respect to; ``func.parameters()`` if None.

    Returns:
        as ``odeint``.

    Raises:
        InputError: where parameters or options of the backward solve cannot be guessed; the rest as ``odeint``.
        GradientError: inside transforms of torch.func and in forward-mode differentiation.

    Source: R. T. Q. Chen, Y. Rubanova, J. Bettencourt, D. Duvenaud, Neural Ordinary Differential Equations, 2018,
    doi:10.48550/arXiv.1806.07366; the norm: P. Kidger, R. T. Q. Chen, T. Lyons, "Hey, that's not an ODE", 2020,
    doi:10.48550/arXiv.2009.09457.
    """
    if recorded():
        raise GradientError(
            "odeint_adjoint solves backwards in a backward pass of its own, which the transforms of torch.func and forward-mode "
            "differentiation cannot look into. Write odeint with the same arguments (without those of the adjoint)."
        )
    if adjoint_params is None and not isinstance(func, nn.Module):
        raise InputError(
            "func must be an instance of nn.Module to specify the adjoint parameters; alternatively they can be specified "
            "explicitly via the `adjoint_params` argument. If there are no parameters then it is allowable to set "
            "`adjoint_params=()`."
        )
    adjoint_method = method if adjoint_method is None else adjoint_method
    if adjoint_method != method and options is not None and adjoint_options is None:
        raise InputError(
            "If `adjoint_method != method` then we cannot infer `adjoint_options` from `options`. So as `options` has been "
            "passed then `adjoint_options` must be passed as well."
        )
    if adjoint_options is None:
        adjoint_options = {k: v for k, v in (options or {}).items() if k != "norm"}
    else:
        adjoint_options = adjoint_options.copy()
    params = _with_grad(find_parameters(func) if adjoint_params is None else adjoint_params, adjoint_options)

    inputs = check_inputs(func, y0, t, rtol, atol, method, options, event_fn, SOLVERS)
    if inputs.t_is_reversed:
        reverse_options(adjoint_options)
    handle_adjoint_norm_(adjoint_options, inputs.shapes, inputs.options["norm"])
    tolerances = (
        backward_tolerance(name, inputs.y0, inputs.shapes, params, forward, backward)
        for name, forward, backward in (("rtol", inputs.rtol, adjoint_rtol), ("atol", inputs.atol, adjoint_atol))
    )
    ans = OdeintAdjointMethod.apply(
        inputs.shapes, inputs.func, inputs.y0, inputs.t, inputs.rtol, inputs.atol, inputs.method, inputs.options,
        inputs.event_fn, *tolerances, adjoint_method, adjoint_options, t.requires_grad, *params,
    )  # fmt: skip
    if event_fn is None:
        return in_shape(ans, inputs, len(t))
    event_t, solution = ans
    event_t = event_t.to(t)
    return -event_t if inputs.t_is_reversed else event_t, in_shape(solution, inputs, 2)


def find_parameters(module: nn.Module) -> list[Tensor]:
    """The parameters of a module; in a replica of DataParallel they are plain attributes."""
    if not isinstance(module, nn.Module):
        raise InputError(f"func is a {type(module).__name__}, which has no parameters to find. Give `adjoint_params`.")
    if not getattr(module, "_is_replica", False):
        return list(module.parameters())
    members = (value for part in module.modules() for value in vars(part).values())
    found = {id(x): x for x in members if isinstance(x, Tensor) and x.requires_grad}
    return list(found.values())


def _with_grad(params: Any, adjoint_options: dict[str, Any]) -> tuple[Tensor, ...]:
    params = tuple(params)
    wanted = tuple(p for p in params if p.requires_grad)
    if len(wanted) < len(params) and callable(adjoint_options.get("norm")):
        warnings.warn(
            "An adjoint parameter was passed without requiring gradient. For efficiency this will be excluded from the "
            "adjoint pass, and will not appear as a tensor in the adjoint norm.",
            stacklevel=3,
        )
    return wanted


def handle_adjoint_norm_(
    adjoint_options: dict[str, Any], shapes: Sequence[torch.Size] | None, state_norm: Callable[[Tensor], Any]
) -> None:
    """Put a function of ``(t, y, adj_y, *params)`` in place of ``adjoint_options["norm"]``, whatever stands there.

    Args:
        shapes: of a tuple state: a user's norm gets ``y`` and ``adj_y`` unpacked.
        state_norm: the norm of the forward solve.
    """
    norm = adjoint_options.get("norm", "seminorm")

    def seminorm(tensors: Sequence[Tensor]) -> Any:
        _, y, adj_y, *_ = tensors
        return torch.maximum(torch.as_tensor(state_norm(y)), torch.as_tensor(state_norm(adj_y)))  # keeps nan

    def unpacked(tensors: Sequence[Tensor]) -> Any:
        t, y, adj_y, *params = tensors
        parts = shapes or ()
        return norm((t, *flat_to_shape(y, (), parts), *flat_to_shape(adj_y, (), parts), *params))

    if not callable(norm):
        if norm != "seminorm":
            raise InputError(f"adjoint_options['norm']={norm!r} is no norm. Give a function, 'seminorm', or nothing.")
        adjoint_options["norm"] = seminorm
    elif shapes is not None:
        adjoint_options["norm"] = unpacked


def backward_tolerance(
    name: str, y0: Tensor, shapes: Sequence[torch.Size] | None, params: Sequence[Tensor], forward: Any, given: Any
) -> Any:
    """The tolerance of the backward solve: a number, or a tuple for ``(t, y, adj_y, *params)``.

    ``y`` and ``adj_y`` share the entries of the state; the other parts get the smallest of them.

    Args:
        forward: in normal form; taken where ``given`` is None.
        given: the user's adjoint tolerance.
    """
    parts = 3 + len(params)
    if given is not None:
        if isinstance(given, list | tuple) and len(given) == parts:
            return tuple(given)
        forward = given if shapes is None else flat_tolerance(f"adjoint_{name}", given, shapes)
    if isinstance(forward, int | float):
        return forward
    tol = torch.as_tensor(forward).detach()
    if tol.numel() == 1:
        return tol.item()
    entries = tol.expand(y0.shape).reshape(-1)
    least = tol.min().item()
    return (least, entries, entries, *[least] * len(params))


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
            solver = SOLVERS[method](func=func, y0=y0, rtol=rtol, atol=atol, **options)
            if event_fn is None:
                y = solver.integrate(t)
                ctx.save_for_backward(t, y, *adjoint_params)
                return y
            event_t, y = solver.integrate_until_event(t[0], event_fn)
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
    if len(t) > 1:
        state = _one_solve(dynamics, state, t, y, grad_y, rtol=rtol, atol=atol, method=method, options=options)
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
    dynamics: AugmentedDynamics, state: tuple[Tensor, ...], t: Tensor, y: Tensor, grad_y: Tensor, **how: Any
) -> tuple[Tensor, ...]:
    """The backward state at ``t[0]``, before the gradient that arrives there is added."""
    inputs = check_inputs(dynamics, state, t.flip(0), event_fn=None, solvers=SOLVERS, **how)
    solver = make_solver(inputs)
    if not hasattr(solver, "setup"):
        return _interval_by_interval(dynamics, state, t, y, grad_y, **how)
    problem, plan = solver.setup(inputs.t, landing=True)
    loop = LoopState(problem.t0, problem.y0, math.inf)
    start(problem, plan, loop)
    arrivals = dict(zip(problem.t[1:-1], range(len(t) - 2, 0, -1)))
    n = y[0].numel()
    for _ in march(problem, plan, loop):
        i = arrivals.get(loop.t)
        if i is not None:
            row = loop.y.clone()
            row[:, 1 : 1 + n] = y[i].reshape(1, n)
            row[:, 1 + n : 1 + 2 * n] += grad_y[i].reshape(1, n)
            loop.y = row
            loop.budget_from = loop.attempted
    engine.raise_failure(problem, plan, loop)
    return flat_to_shape(loop.y.view(-1), (), inputs.shapes or ())


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
