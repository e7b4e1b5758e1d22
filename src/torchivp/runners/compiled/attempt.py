"""One attempted step of all rows as a pure function of tensors: what the compiled loop is made of."""

from __future__ import annotations

import torch
from torch import Tensor

from ...controllers.limits import _STRETCH
from ...per_sample.loop import RUNNING
from .pure import Pure
from .step import (
    MAX_STEPS,
    NEWTON_FAILED,
    NONFINITE,
    STEP_TOO_SMALL,
    SUCCESS,
    Carry,
    Fixed,
    Form,
    State,
    Taken,
    chosen,
    in_rows,
    in_totals,
    next_slope,
    smallest_step,
)
from .tolerance import ratio_of


def attempt(form: Form, pure: Pure, fixed: Fixed, held: State, at: Carry) -> tuple[Carry, Taken]:
    """One attempted step of all rows that are running; the others stay where they are."""
    t, dt, running = at.t, at.dt, at.code == RUNNING
    ahead = fixed.ahead(t)
    t1 = torch.where(t + dt * _STRETCH >= ahead, ahead, t + dt)
    t1 = torch.where(running, t1, t)
    h = t1 - t
    fixed = fixed if form.within is None else form.within(form, fixed, t, t1)
    step = form.stages(form, pure, fixed, held, t1, h, at.ys, at.ks, past=at.past or at.keep)
    ratio = ratio_of(form, fixed, h, at.ys, step)
    ratio = ratio if step.solved is None else torch.where(step.solved, ratio, torch.inf)
    verdict = form.controller.judge_rows(ratio, h, at.memory, form.error_order)
    accepted = verdict.accepted & running
    proposed = torch.where(running, verdict.dt, dt) if form.controller.adaptive else dt
    landed = accepted & (t1 < t + dt)  # a step that was cut to land somewhere says nothing against its proposal
    proposed = torch.where(landed, torch.maximum(proposed, dt), proposed)
    attempted = at.attempted + running
    failed = running & ~accepted
    if step.again is not None:
        proposed = torch.where(step.again, dt, proposed)
        failed = failed & ~step.again
    code = next_code(form, fixed, at, t1, proposed, accepted, failed, ratio, attempted, step.solved)
    k1 = next_slope(form, pure, fixed, held, t1, step)
    memory = [torch.where(running, new, old) for new, old in zip(verdict.memory, at.memory)]
    going = code == RUNNING
    after = Carry(
        in_totals(
            going.sum() > fixed.least[0] if fixed.least else going.any(),
            at.tries + running.any(),
            at.slot + accepted.any(),
            at.until,
            at.fresh,
            at.asked if step.asked is None else at.asked + step.asked,
        ),
        in_rows(torch.where(accepted, t1, t), proposed, code, attempted, at.accepted + accepted, *memory),
        chosen(accepted, step.end, at.ys),
        chosen(accepted, k1, at.ks),
        chosen(accepted.unsqueeze(0), step.past, at.past),
        tuple(step.keep),
    )
    return after, Taken(accepted, t, t1, at.ys, step.slopes, at.past, step.keep[1:2])


def next_code(
    form: Form,
    fixed: Fixed,
    at: Carry,
    t1: Tensor,
    proposed: Tensor,
    accepted: Tensor,
    failed: Tensor,
    ratio: Tensor,
    attempted: Tensor,
    solved: Tensor | None,
) -> Tensor:
    """How the rows stand after an attempt."""
    running = at.code == RUNNING
    finite = torch.isfinite(ratio)
    tiny = ~(proposed >= smallest_step(at.t))
    hopeless = failed & tiny if form.controller.adaptive else failed
    code = torch.where(running & (attempted >= fixed.max_steps), MAX_STEPS, at.code)
    why = torch.where(finite, STEP_TOO_SMALL, NONFINITE)
    code = torch.where(hopeless, why if solved is None else torch.where(solved, why, NEWTON_FAILED), code)
    return torch.where(accepted & (t1 >= fixed.end), SUCCESS, code)
