"""``odeint_adjoint``: gradients by the continuous adjoint. The backward solve itself stands in ``backward``."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import GradientError, InputError, InputTypeError
from ...names import named
from ...runners import RUNNERS
from ...transforms import recorded
from .backward import OdeintAdjointMethod
from .errors import ArgumentError
from .forward import in_shape
from .functions import flat_to_shape
from .inputs import check_inputs, flat_tolerance, reverse_options
from .norms import Seminorm
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
            default) or a function of the tuple ``(t, y, adj_y, *params)``. ``runner`` is that of the forward solve unless
            given; what it cannot compile of the backward solve goes on in plain PyTorch.
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
        adjoint_options = {"runner": (options or {}).get("runner", "eager"), **adjoint_options}
        named("adjoint_options['runner']", adjoint_options["runner"], RUNNERS)
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


def find_parameters(module: Any) -> list[Tensor]:
    """The parameters of a module; in a replica of DataParallel they are plain attributes."""
    if not isinstance(module, nn.Module):
        raise ArgumentError(
            f"func is a {type(module).__name__}, which has no parameters to find. Give `adjoint_params`."
        )
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

    def unpacked(tensors: Sequence[Tensor]) -> Any:
        t, y, adj_y, *params = tensors
        parts = shapes or ()
        return norm((t, *flat_to_shape(y, (), parts), *flat_to_shape(adj_y, (), parts), *params))

    if not callable(norm):
        if norm != "seminorm":
            raise InputTypeError(
                f"adjoint_options['norm']={norm!r} is no norm. Give a function, 'seminorm', or nothing."
            )
        adjoint_options["norm"] = Seminorm(state_norm)
    elif shapes is not None:
        adjoint_options["norm"] = unpacked


def backward_tolerance(
    name: str, y0: Tensor, shapes: Sequence[torch.Size] | None, params: Sequence[Tensor], forward: Any, given: Any
) -> Any:
    """The tolerance of the backward solve: a number, or a tuple for ``(t, y, adj_y, *params)``.

    A sequence, or a 1-D tensor, with one entry for each part is that tuple. Anything else is a tolerance of the state:
    ``y`` and ``adj_y`` share the entries of the state; the other parts get the smallest of them.

    Args:
        forward: in normal form; taken where ``given`` is None.
        given: the user's adjoint tolerance.
    """
    parts = 3 + len(params)
    if given is not None:
        if _is_sequence(given) and len(given) == parts:
            return tuple(given)
        forward = given if shapes is None else flat_tolerance(name, given, shapes)
    if isinstance(forward, int | float):
        return forward
    tol = torch.as_tensor(forward).detach()
    if tol.numel() == 1:
        return tol.item()
    try:
        entries = tol.expand(y0.shape).reshape(-1)
    except RuntimeError:
        raise ArgumentError(
            f"If using tupled {name} it must have the same length as the tuple y0. The backward state is (t, y, adj_y, "
            f"*params): give adjoint_{name} one number, {parts} of them, or a tensor that broadcasts to y0."
        ) from None
    least = tol.min().item()
    return (least, entries, entries, *[least] * len(params))


def _is_sequence(tol: Any) -> bool:
    return tol.dim() == 1 if isinstance(tol, Tensor) else isinstance(tol, list | tuple)
