"""Errors of steps over their tolerances, in the norm of the solve."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...estimates import combined
from ...methods.tableau import Number
from .step import Fixed, Form, Stages, State, weighted, wide


def size(norm: str, xs: State, batch: int) -> Tensor:
    """The norm of a scaled error, float64 ``[*batch]``."""
    if norm == "max":
        parts = [x.abs().reshape(*x.shape[:batch], -1).amax(-1) for x in xs]
        return torch.stack(parts).amax(0).to(torch.float64)
    total = weighted([1.0] * len(xs), [(x * x).reshape(*x.shape[:batch], -1).sum(-1) for x in xs])
    width = sum(x[(0,) * batch].numel() for x in xs)
    return (total / width).sqrt().to(torch.float64)


def size_of(form: Form, fixed: Fixed, xs: State, like: Tensor) -> Tensor:
    """The error norm, float64, in the shape of the times ``like``."""
    if isinstance(form.norm, str):
        return size(form.norm, xs, like.dim())
    (out,) = form.norm(like, xs, fixed.weights)
    return out.to(torch.float64).reshape(like.shape)


def ratio_of(form: Form, fixed: Fixed, h: Tensor, ys: State, step: Stages) -> Tensor:
    """Error over tolerance; without an estimate 0, or nan where the state is not finite."""
    batch, y1 = h.dim(), step.end
    if form.tableau.b_err is None or not form.controller.adaptive:
        bad = size("max", [torch.where(torch.isfinite(y), 0.0, 1.0).to(y.dtype) for y in y1], batch)
        return torch.where(bad > 0, torch.nan, 0.0).to(torch.float64)

    def scaled(b_err: Sequence[Number]) -> Tensor:
        found = step.slopes[form.lead :]
        errors = [wide(h, y) * weighted(b_err, [k[i] for k in found]) for i, y in enumerate(ys)]
        return over_tolerance(form, fixed, errors, ys, y1, h)

    if step.error is not None:
        return over_tolerance(form, fixed, step.error, ys, y1, h)
    ratio = scaled(form.tableau.b_err)
    lower = getattr(form.tableau, "b_err_lower", None)
    if lower is not None:
        ratio = combined(ratio, scaled(lower))
    return ratio


def over_tolerance(form: Form, fixed: Fixed, errors: State, ys: State, y1: State, like: Tensor) -> Tensor:
    """The size of errors of a step from ``ys`` to ``y1``, in the shape of the times ``like``."""
    parts = []
    for i, (error, y, end) in enumerate(zip(errors, ys, y1)):
        error = error + end * 0  # an infinite end would hide behind its own scale
        parts.append(error / (fixed.atol[i] + fixed.rtol[i] * torch.maximum(y.abs(), end.abs())))
    ratio = size_of(form, fixed, parts, like)
    return ratio.amax().expand(ratio.shape) if form.couple else ratio
