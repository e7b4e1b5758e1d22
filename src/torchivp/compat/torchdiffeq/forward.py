"""``odeint`` and ``odeint_dense``: gradients by autograd through the solver."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...errors import InputError
from ...interpolation import DenseSolution, fit
from . import engine, rows
from .errors import NotSupportedError, OutsideInterval
from .functions import flat_to_shape
from .inputs import Inputs, check_inputs
from .solvers import SOLVERS


def odeint(
    func: Any, y0: Any, t: Any, *, rtol: Any = 1e-7, atol: Any = 1e-9, method: Any = None, options: Any = None,
    event_fn: Any = None,
) -> Any:  # fmt: skip
    """Solve dy/dt = func(t, y), y(t[0]) = y0, as torchdiffeq's ``odeint`` does. Differentiable any number of times.

    Args:
        func: gets ``t`` as a 0-d tensor in y's real dtype, and the state; returns the slope. May have the methods
            ``callback_step``, ``callback_accept_step``, ``callback_reject_step``, called with ``(t0, y0, dt)``.
        y0: a tensor of any shape, or a tuple of them.
        t: ``[T]``, floating point, strictly increasing or decreasing; may require grad.
        rtol, atol: tolerances: numbers, tensors that broadcast to ``y0``, or tuples with one for each part of a tuple.
        method: a key of ``SOLVERS``; "dopri5" if None.
        options: of the method: the keyword arguments of its class in ``SOLVERS``, such as ``{"runner": "compiled"}``, which
            torchdiffeq does not have: the loop as one program, differentiable once. Never changed.
        event_fn: ``event_fn(t, y)``: stop where it first changes its sign. ``t`` then has two times, of which the second
            only gives the direction.

    Returns:
        ``[T, *y0.shape]``, or a tuple of such tensors for a tuple. With event_fn: the time of the event (without gradient;
        see ``odeint_event``) and the values at the start and at the event.

    Raises:
        ArgumentError, InputError, InputTypeError, SolveError: each also is of the type that torchdiffeq raises.

    Example:
        >>> from torchivp import odeint
        >>> y = odeint(lambda t, y: -y, torch.ones(3), torch.linspace(0.0, 1.0, 11))
    """
    inputs = check_inputs(func, y0, t, rtol, atol, method, options, event_fn, SOLVERS)
    solver = make_solver(inputs)
    rows.check_times(inputs.t, solver if event_fn is None else None)
    if event_fn is None:
        return in_shape(solver.integrate(inputs.t), inputs, len(t))
    event_t, solution = solver.integrate_until_event(inputs.t[0], inputs.event_fn)
    event_t = event_t.to(inputs.t)
    return -event_t if inputs.t_is_reversed else event_t, in_shape(solution, inputs, 2)


def make_solver(inputs: Inputs) -> Any:
    """The solver of the table, built as torchdiffeq builds it (also one that a user put there)."""
    return SOLVERS[inputs.method](func=inputs.func, y0=inputs.y0, rtol=inputs.rtol, atol=inputs.atol, **inputs.options)


def in_shape(solution: Tensor, inputs: Inputs, length: int) -> Any:
    return solution if inputs.shapes is None else flat_to_shape(solution, (length,), inputs.shapes)


def odeint_dense(
    func: Any, y0: Any, t0: Any, t1: Any, *, rtol: Any = 1e-7, atol: Any = 1e-9, method: Any = None, options: Any = None
) -> DenseOutput:
    """The solution between ``t0`` and ``t1`` as a function of time.

    Beyond torchdiffeq: any method but ``scipy_solver``, tuple states, decreasing time, many times at once, and gradients
    with respect to ``t0``, ``t1`` and the times asked for.

    Args:
        func, y0, rtol, atol, method, options: as for ``odeint``.
        t0, t1: start and end: tensors of one element, or numbers.

    Returns:
        A function of a time (a number or 0-d tensor: returns a state) or of a tensor of times of any shape (returns states
        with that shape in front).

    Raises:
        OutsideInterval: from the function that is returned, for times outside; the rest as ``odeint``.
    """
    t = torch.stack(
        [x.reshape(()) if isinstance(x, Tensor) else torch.tensor(x, dtype=torch.float64) for x in (t0, t1)]
    )
    inputs = check_inputs(func, y0, t, rtol, atol, method, options, None, SOLVERS)
    solver = make_solver(inputs)
    rows.check_times(inputs.t, None)
    if not getattr(solver, "in_engine", False):
        raise NotSupportedError(
            f"{type(solver).__name__} has no dense output, because it takes its steps itself. Take another method, for "
            f"example 'dopri5'."
        )
    problem, plan = solver.setup(inputs.t)
    out = engine.run(problem, replace(plan, dense=True))
    bounds = (problem.t[0], problem.t[-1])
    steps = fit(out.trajectory.pieces) if out.trajectory.pieces else out.trajectory.polynomials
    return DenseOutput(DenseSolution(steps, problem.y0, bounds, 1), inputs)


class DenseOutput:
    """What ``odeint_dense`` returns: call it with times."""

    def __init__(self, solution: DenseSolution, inputs: Inputs):
        self._solution: Callable[[Tensor], Tensor] = solution
        self._inputs = inputs

    def __call__(self, t: Any) -> Any:
        inputs = self._inputs
        times = torch.as_tensor(t, dtype=torch.float64, device=inputs.y0.device)
        inside = -times if inputs.t_is_reversed else times
        try:
            values = self._solution(inside.reshape(-1))
        except InputError:
            low, high = sorted((-inputs.t if inputs.t_is_reversed else inputs.t).tolist())
            raise OutsideInterval(
                f"invalid interpolation, fails `t0 <= t <= t1`: {low}, {times.detach().tolist()}, {high}"
            ) from None
        if inputs.shapes is None:
            return values.view(*times.shape, *inputs.y0.shape)
        return flat_to_shape(values.view(*times.shape, -1), tuple(times.shape), inputs.shapes)
