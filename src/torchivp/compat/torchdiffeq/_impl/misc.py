"""Names of ``torchdiffeq._impl.misc``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..fixed import handle_unused_kwargs as _handle_unused_kwargs
from ..functions import ADJOINT_CALLBACKS, CALLBACKS, Perturb
from ..functions import PerturbFunc as _PerturbFunc
from ..functions import ReverseFunc as _ReverseFunc
from ..functions import TupleFunc as _TupleFunc
from ..functions import TupleInputOnlyFunc as _TupleInputOnlyFunc
from ..functions import flat_to_shape as _flat_to_shape
from ..functions import nextafter as _nextafter
from ..functions import null_callback as _null_callback
from ..inputs import check_inputs as _check_inputs
from ..inputs import flat_tolerance as _tuple_tol
from ..norms import linf_norm as _linf_norm
from ..norms import mixed_norm as _mixed_norm
from ..norms import rms_norm as _rms_norm
from ..norms import zero_norm as _zero_norm

_all_callback_names = list(CALLBACKS)
_all_adjoint_callback_names = list(ADJOINT_CALLBACKS)


@torch.no_grad()
def _select_initial_step(
    func: Callable[..., Any], t0: Tensor, y0: Tensor, order: int, rtol: Any, atol: Any, norm: Callable[[Tensor], Any],
    f0: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Hairer's first step, as a 0-d tensor of ``t0``'s dtype (a constant of the gradient).

    Source: E. Hairer, S. P. Nørsett, G. Wanner, Solving Ordinary Differential Equations I, section II.4,
    doi:10.1007/978-3-540-78862-1.
    """
    f0 = func(t0, y0) if f0 is None else f0
    scale = atol + rtol * y0.abs()
    d0, d1 = (float(norm(x / scale)) for x in (y0, f0))
    h0 = 1e-6 if min(d0, d1) < 1e-5 else 0.01 * d0 / d1
    d2 = float(norm((func(t0 + h0, y0 + h0 * f0) - f0) / scale)) / h0
    h1 = max(1e-6, 1e-3 * h0) if max(d1, d2) <= 1e-15 else (0.01 / max(d1, d2)) ** (1 / (order + 1))
    return torch.as_tensor(min(100 * h0, h1)).to(t0)


def _compute_error_ratio(
    error_estimate: Tensor, rtol: Any, atol: Any, y0: Tensor, y1: Tensor, norm: Callable[[Tensor], Any]
) -> Any:
    """Error over tolerance: a step is good enough at 1 or less."""
    return abs(norm(error_estimate / (atol + rtol * torch.maximum(y0.abs(), y1.abs()))))


@torch.no_grad()
def _optimal_step_size(
    last_step: Tensor, error_ratio: Tensor, safety: Tensor, ifactor: Tensor, dfactor: Tensor, order: int
) -> Tensor:
    """The next step: ``safety * error_ratio ** (-1 / order)`` times the last, within [dfactor, ifactor]."""
    ratio = float(error_ratio)
    if ratio == 0:
        return last_step * ifactor
    lowest = 1.0 if ratio < 1 else float(dfactor)
    return last_step * min(float(ifactor), max(lowest, float(safety) * ratio ** (-1 / order)))


__all__ = [
    "Perturb", "_PerturbFunc", "_ReverseFunc", "_TupleFunc", "_TupleInputOnlyFunc", "_all_adjoint_callback_names",
    "_all_callback_names", "_check_inputs", "_compute_error_ratio", "_flat_to_shape", "_handle_unused_kwargs",
    "_linf_norm", "_mixed_norm", "_nextafter", "_null_callback", "_optimal_step_size", "_rms_norm", "_select_initial_step",
    "_tuple_tol", "_zero_norm",
]  # fmt: skip
