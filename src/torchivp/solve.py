"""The front door."""

from __future__ import annotations

import numbers
import reprlib
from collections.abc import Callable
from contextlib import nullcontext
from types import NoneType
from typing import Any, Literal, overload

from torch import Tensor

from . import single
from ._types import PyTree, VectorField
from .controllers import Controller
from .errors import InputError, InputTypeError
from .events import as_events
from .gradients import GRADIENTS, Gradient
from .gradients.closure import reachable
from .linalg import Jacobian, choose_jacobian
from .methods import Method
from .methods.table import choose_method
from .names import choose
from .per_sample import solve as per_sample
from .per_sample.solution import BatchSolution
from .plan import Plan
from .precision import warn_of_rounding
from .problem import Problem
from .runners import TRACING
from .runners.eager import Run
from .solution import Solution, Status
from .vmapped import UnderVmap, levels_of, rows_in, steps_by_rows
from .vmapped_in_sight import InSight, alone, in_sight


@overload
def solve(
    f: VectorField, y0: PyTree, t: Any, args: PyTree = None, *, batch_dims: Literal[0] = 0, **settings: Any
) -> Solution: ...


@overload
def solve(
    f: VectorField, y0: PyTree, t: Any, args: PyTree = None, *, batch_dims: int, **settings: Any
) -> BatchSolution: ...


def solve(  # type: ignore[misc]  # the overloads pass all settings on
    f: VectorField,
    y0: PyTree,
    t: Any,
    args: PyTree = None,
    *,
    method: str | Method | type[Method] = "tsit5",
    rtol: PyTree = 1e-5,
    atol: PyTree = 1e-7,
    norm: str | Callable[[PyTree], Tensor] = "rms",
    dt: float | None = None,
    controller: Controller | None = None,
    max_steps: int = 100_000,
    save: str | Callable[..., PyTree] = "t",
    dense: bool = False,
    events: Any = (),
    stop_times: Any = (),
    jump_times: Any = (),
    gradient: str | Gradient | type[Gradient] = "discrete",
    runner: str = "eager",
    progress: bool = False,
    on_step: Callable[[float, PyTree], object] | None = None,
    throw: bool = True,
    start: Solution | None = None,
    batch_dims: int = 0,
    couple: bool = False,
    compact: bool = False,
    jac: Callable[..., Any] | Jacobian | None = None,
    jac_sparsity: Any = None,
) -> Any:
    """Solve dy/dt = f(t, y), y(t[0]) = y0.

    Args:
        f: ``f(t, y)``, or ``f(t, y, args)`` when ``args`` is given. Gets ``t`` as a 0-d tensor in y's real dtype and returns
            the slope: the structure, shapes and dtypes of ``y0``. Or ``SecondOrder``, ``Hamiltonian``, ``Partitioned``.
        y0: the state at ``t[0]``: a tensor of any shape, any float or complex dtype; a pytree of them (dict, list, tuple,
            dataclass); a number, a NumPy array, or a list of numbers. None with ``start``.
        t: times at which to save the solution, strictly increasing or decreasing, the first one being the start:
            ``(t0, t1)``, any sequence, a 1-D tensor (which may require grad), or a number T for ``(0, T)``.
        args: a pytree handed to ``f`` (and to event functions); its tensors get gradients.
        method: a name (see ``torchivp.methods.METHODS``, and for systems in two parts ``GEOMETRIC_METHODS``) or an instance.
        rtol, atol: relative and absolute tolerance of the local error of a step: numbers, tensors that broadcast to y0,
            or trees like it. ``atol`` is in the units of y. Choose them 100 times tighter than the error you want at the end.
        norm: of the error over its tolerance: ``'rms'``, ``'max'``, ``'rows'`` (the largest rms along the first axis of y0: no
            easy row hides a hard one), or a function of a tree like y0.
        dt: the first step of an adaptive method, the step size of a fixed one (the times ``t`` are its grid without it).
        controller: ``torchivp.PID(...)``, or ``torchivp.FixedSteps(...)`` for any method.
        max_steps: largest number of attempted steps.
        save: ``'t'`` (at the given times), ``'steps'`` (at every step), ``'end'``, or a function ``save(t, y)`` of the
            state at the given times.
        dense: keep what is needed to evaluate the solution anywhere: ``sol(t)``.
        events: an ``Event`` or a list of them.
        stop_times: times to land on exactly.
        jump_times: times at which ``f`` jumps: the solve lands there and asks ``f`` just before and just after.
        gradient: ``'discrete'`` (the exact gradient of the computed solution, in little memory), ``'direct'`` (the same by
            autograd through the loop), ``'adjoint'`` (the continuous adjoint), ... (see ``torchivp.gradients``); or one with
            settings, such as ``torchivp.gradients.Discrete(every="sqrt")``.
        runner: ``'eager'`` (plain PyTorch), ``'compiled'`` (the whole loop as one program: microseconds a step, after some
            seconds of compilation), ``'auto'`` (the first until the second pays), or ``'cuda_graph'``.
        progress: show a bar on stderr (needs tqdm).
        on_step: called with the time and the state after every accepted step; a true return value stops the solve.
        throw: raise SolveError if the solve fails; otherwise return the part done, marked by its status (also after Ctrl-C).
        batch_dims: so many leading axes of ``y0`` count rows that are solved each with its own steps, error control, times,
            events and fate (0: one state). ``f`` still gets all of them, ``f(t: [B], y: [B, ...])``, and ``t`` may be ``[B, T]``.
        couple: let all rows take the same steps, as small as the row needs that is hardest then.
        compact: hand ``f`` the rows that are not done, once half are; what it needs of them must then come in ``args``.
        start: a solution to go on from, its last state, step size, past (of multistep and reversible methods; same ``f``).
        jac: ``jac(t, y[, args])`` gives an implicit method df/dy ``[*batch, D, D]``; or a piece of ``torchivp.linalg``.
        jac_sparsity: where df/dy is not zero, ``[D, D]`` (dense or sparse), or ``(lower, upper)``: widths of a band.

    Returns:
        Solution: ``.t``, ``.y`` with a leading time axis, ``.status``, ``.stats``, ...; with ``batch_dims`` a BatchSolution.

    Raises:
        InputError, InputTypeError: for arguments that make no sense (before anything is computed).
        SolveError: if the solve fails and ``throw``; its ``.solution`` holds the part done.

    Example:
        >>> import torch, torchivp
        >>> torchivp.solve(lambda t, y: -y, torch.ones(3), (0.0, 1.0)).y[-1]
    """
    check_types(controller=controller, dt=dt, max_steps=max_steps, on_step=on_step, start=start, batch_dims=batch_dims)
    chosen = choose_method(method)
    together = couple or start is not None or on_step is not None or not steps_by_rows(chosen, jump_times)
    seen = runner in TRACING and alone(f, chosen, jac)
    kind = choose_kind(f, y0, t, args, [rtol, atol], events, batch_dims, together, seen)
    problem = kind.pose(
        f, y0, t, args, rtol=rtol, atol=atol, norm=norm, start=start, carries=chosen.carries, batch_dims=batch_dims,
        couple=couple,
    )  # fmt: skip
    problem.field.jacobian = choose_jacobian(jac, jac_sparsity, problem.layout, chosen.uses_jacobian, chosen)
    plan = kind.make_plan(
        problem, method=chosen, controller=controller, dt=None if dt is None else float(dt), stop_times=stop_times,
        jump_times=jump_times, save=save, dense=dense, events=as_events(events, problem), max_steps=max_steps, on_step=on_step,
        progress=progress, interruptible=not throw, runner=runner, compact=compact,
    )  # fmt: skip
    warn_of_rounding(problem, plan, rtol, atol)
    out = integrate(choose("gradient", gradient, Gradient, GRADIENTS), problem, plan, kind)
    solution = kind.gather(problem, plan, out, save if callable(save) else None)
    return solution.raise_for_status() if throw else solution


def choose_kind(
    f: VectorField,
    y0: PyTree,
    t: Any,
    args: PyTree,
    tolerances: Any,
    events: Any,
    batch_dims: int,
    together: bool,
    seen: bool,
) -> Any:
    """Who brings the problem into the library's form and its solution out of it.

    Args:
        together: rows of vmap take the same steps; ``seen``: else they may be an ordinary batch.
    """
    if batch_dims:
        if levels_of([y0, t, args, tolerances]) is not None:
            raise InputError(
                f"batch_dims={batch_dims} under torch.func.vmap would be rows of rows. Under vmap every row has steps of its "
                f"own anyway: leave batch_dims out and vmap over these axes too; or leave vmap out and count all axes that hold "
                f"rows, batch_dims={batch_dims + 1}."
            )
        return per_sample
    like = None if together else rows_in(f, y0, t, args, tolerances, events=events)
    if like is None:
        return single
    return InSight(like, args) if seen and in_sight(reachable([f, events])) else UnderVmap(like)


def integrate(gradient: Gradient, problem: Problem, plan: Plan, kind: Any) -> Run:
    """Run the loop, with a gradient on what comes out."""
    try:
        with getattr(kind, "aside", nullcontext)():
            return gradient.integrate(problem, plan)
    except KeyboardInterrupt:  # before the first step
        if not plan.interruptible:
            raise
        return kind.not_started(problem, plan, Status.INTERRUPTED)


_WANTED: dict[str, tuple[Any, str, str]] = {
    "controller": ((Controller, NoneType), "is no controller", "torchivp.PID(...) or torchivp.FixedSteps(dt=...)"),
    "dt": ((numbers.Real, NoneType), "is no step size", "a number, in the units of t"),
    "max_steps": (numbers.Integral, "does not count", "a whole number"),
    "on_step": ((Callable, NoneType), "cannot be called", "a function on_step(t, y)"),
    "batch_dims": (numbers.Integral, "does not count axes", "0, 1, 2, ..."),
    "start": ((Solution, NoneType), "is no solution to go on from", "what `solve` returned"),
}


def check_types(**arguments: object) -> None:
    """Arguments that are no data: of the right kind, or an error that names it."""
    for name, value in arguments.items():
        kind, problem, instead = _WANTED[name]
        if not isinstance(value, kind):
            got = f"{name} is a {type(value).__name__} ({reprlib.repr(value)})"
            raise InputTypeError(f"{got}, which {problem}. Give {instead}.")
