"""How a compiled loop begins: the slopes at the start, and the sizes of the first steps."""

from __future__ import annotations

import torch
from torch import Tensor

from ...per_sample.loop import CODES, RUNNING
from ...solution import Status
from .pure import Pure
from .step import NONFINITE, Carry, Fixed, Form, State, chosen, in_rows, in_totals, slopes, smallest_step, wide
from .tolerance import size_of

NONFINITE_STATE = CODES.index(Status.NONFINITE_STATE)


def started(form: Form, pure: Pure, fixed: Fixed, held: State, at: Carry) -> Carry:
    """The same with everything that the first attempt needs (in a loop that has been going on already nothing is missing)."""
    if not form.starts:
        return at
    ks = chosen(at.fresh.expand(at.t.shape), slopes(form, pure, fixed, held, at.t, at.ys), at.ks)
    dt, code = at.dt, at.code
    if form.controller.adaptive:
        asked = torch.isnan(dt)
        first = first_step(form, pure, fixed, held, at.t, at.ys, ks).clamp(max=form.controller.max_step)
        least = smallest_step(at.t).clamp(min=form.controller.min_step)
        dt = torch.where(asked, torch.maximum(first, least), dt)
        code = torch.where(asked & ~all_finite(ks, dt.dim()), NONFINITE, code)
        code = torch.where(at.fresh & ~all_finite(at.ys, dt.dim()), NONFINITE_STATE, code)
    go = at.go & (code == RUNNING).any()
    return at._replace(
        totals=in_totals(go, *at.totals[1:].unbind(0)), rows=in_rows(at.t, dt, code, *at.rows[3:].unbind(0)), ks=ks
    )


def first_step(form: Form, pure: Pure, fixed: Fixed, held: State, t: Tensor, ys: State, ks: State) -> Tensor:
    """Hairer's first step, ``[*batch]``, as in ``controllers.initial_step``."""
    room = (fixed.ahead(t) - t).clamp(max=form.controller.max_step)
    scales = [a + r * y.abs() for r, a, y in zip(fixed.rtol, fixed.atol, ys)]
    d0, d1 = scaled_size(form, fixed, ys, scales, t), scaled_size(form, fixed, ks, scales, t)
    usable = (d0 >= 1e-5) & (d1 >= 1e-5) & torch.isfinite(d0) & torch.isfinite(d1)
    h0 = torch.minimum(torch.where(usable, 0.01 * d0 / d1, 1e-6), room)
    probe_time = torch.minimum(t + h0, fixed.ahead(t))
    probe = slopes(form, pure, fixed, held, probe_time, [y + wide(h0, y) * k for y, k in zip(ys, ks)])
    d2 = scaled_size(form, fixed, [a - b for a, b in zip(probe, ks)], scales, t) / h0
    steepest = torch.where(d2 > d1, d2, d1)
    usable = (steepest > 1e-15) & torch.isfinite(steepest)
    h1 = torch.where(usable, (0.01 / steepest) ** (1 / form.error_order), (h0 * 1e-3).clamp(min=1e-6))
    return torch.minimum(torch.minimum(100 * h0, h1), room)


def scaled_size(form: Form, fixed: Fixed, xs: State, scales: State, like: Tensor) -> Tensor:
    """The error norm of what is measured by the tolerance's scale, in the shape of the times ``like``."""
    sizes = size_of(form, fixed, [x / scale for x, scale in zip(xs, scales)], like)
    return sizes.amax().expand(sizes.shape) if form.couple else sizes


def all_finite(xs: State, batch: int) -> Tensor:
    """Of each row, ``[*batch]``."""
    finite = [torch.isfinite(x).reshape(*x.shape[:batch], -1).all(-1) for x in xs]
    return torch.stack(finite).all(0)
