"""``odeint_event``: solve until an event, with the gradient of the event's time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...transforms import derivatives, recorded
from .forward import odeint
from .functions import flat_to_shape
from .inputs import check_inputs
from .solvers import SOLVERS

_TINY = 1e-12


def odeint_event(
    func: Any,
    y0: Any,
    t0: Any,
    *,
    event_fn: Any,
    reverse_time: bool = False,
    odeint_interface: Any = odeint,
    **kwargs: Any,
) -> Any:
    """Solve until ``event_fn(t, y)`` changes its sign; time and state of the event are differentiable.

    Beyond torchdiffeq: the parameters of ``event_fn`` get their gradients also where they are not part of the state.

    Args:
        func, y0: as for ``odeint``.
        t0: start, a 0-d or 1-element tensor; may require grad.
        event_fn: a tensor of any shape; the first sign change of any entry stops the solve.
        reverse_time: solve towards smaller times.
        odeint_interface: ``odeint`` or ``odeint_adjoint``, or a function with their arguments.
        kwargs: of ``odeint_interface``.

    Returns:
        The time of the event, 0-d, and the values at the start and at the event.
    """
    start = torch.as_tensor(t0).reshape(-1)
    t = torch.cat([start, start.detach() + (-1.0 if reverse_time else 1.0)])
    event_t, solution = odeint_interface(func, y0, t, event_fn=event_fn, **kwargs)
    inputs = check_inputs(func, y0, t, 0.0, 0.0, None, None, event_fn, SOLVERS)
    shapes, event_fn = inputs.shapes, inputs.event_fn
    state = solution[-1] if shapes is None else torch.cat([s[-1].reshape(-1) for s in solution])
    sign = -1.0 if inputs.t_is_reversed else 1.0
    event_t, state = with_gradient(inputs.func, event_fn, sign * event_t, state)
    if shapes is None:
        return sign * event_t, torch.cat([solution[:-1], state.unsqueeze(0)])
    parts = flat_to_shape(state, (), shapes)
    return sign * event_t, tuple(torch.cat([s[:-1], part.unsqueeze(0)]) for s, part in zip(solution, parts))


def with_gradient(
    func: Callable[..., Any], event_fn: Callable[..., Any], event_t: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """The same time and state with the gradient of the implicit function theorem.

    ``g(t, y(t)) = 0`` moves ``t`` by ``-dg / (dg/dt + dg/dy . f)``, and the state with it by ``f dt``. To have the second
    derivatives right, ``y(t)`` is a midpoint step from ``state`` (of no length), and Newton's step is taken twice.

    Args:
        func, event_fn: in normal form.
        event_t: the time found, a constant.
        state: at that time; its graph is that of a solve up to a constant time.
    """
    event_t = event_t.detach()
    if not (recorded() or torch.is_grad_enabled()):
        return event_t, state
    g = event_fn(event_t, state)
    if not (recorded() or g.requires_grad or state.requires_grad):
        return event_t, state
    slope = func(event_t, state)

    def at(t: Tensor) -> Tensor:
        dt = t - event_t
        size = dt.to(state.real.dtype)
        return state + size * func(event_t + 0.5 * dt, state + 0.5 * size * slope)

    def along(t: Tensor) -> Tensor:
        return event_fn(t, at(t))

    with torch.no_grad():
        (rate,) = derivatives(along, event_t)
    t = _moved(event_t, g / (rate.detach() + _TINY))
    t = _moved(t, along(t) / (derivatives(along, t)[0] + _TINY))
    return t, at(t)


def _moved(t: Tensor, newton: Tensor) -> Tensor:
    """``t`` with the gradient of ``t - newton``."""
    return t - (newton - newton.detach()).to(t).reshape(t.shape)
