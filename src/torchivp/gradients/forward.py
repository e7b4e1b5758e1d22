"""``gradient="forward"``: sensitivities carried along with the solution, one for every number it may be differentiated by.

For few parameters and many outputs: what is kept are the derivatives of the outputs, and the backward pass is one matrix
product. The derivative is that of the computed solution, as that of ``discrete``.

Source: E. Hairer, S. P. Norsett, G. Wanner, Solving Ordinary Differential Equations I, section I.14,
doi:10.1007/978-3-540-78862-1; the derivative along a direction from two backward passes: J. Townsend, "A new trick for
calculating Jacobian vector products" (2017).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..plan import Plan
from ..problem import Problem
from ..runners.eager import Run
from ..state import unflatten
from ..trajectory import carried
from . import checkpoints, replay
from .base import Gradient
from .closure import check_all_seen
from .once import first_derivative_only
from .side_effects import no_side_effects


@dataclass(frozen=True)
class Forward(Gradient):
    """Forward sensitivities: for few parameters.

    Args:
        most: how many numbers the solve may be differentiated by; more are refused, because every one of them costs as much
            as a solve.

    Raises:
        InputError: in ``solve``, if there are more.

    Example:
        >>> torchivp.solve(f, y0, t, rates, gradient="forward")
    """

    most: int = 1_000

    def integrate(self, problem: Problem, plan: Plan) -> Run:
        return replay.integrate(problem, plan, lambda: checkpoints.every(1), self.sensitivities)

    def sensitivities(self, pass_back: replay.Replay) -> tuple[Tensor, ...]:
        """The values of a replay with the gradient that their sensitivities give them."""
        tensors = pass_back.inputs.tensors
        wanted = [x for x in tensors if x.requires_grad]
        size = sum(x.numel() for x in wanted)
        if size > self.most:
            raise InputError(
                f"gradient='forward' would carry {size} sensitivities along, one for each number that requires grad, and more "
                f"than {self.most} are refused. Write gradient='discrete', or gradients.Forward(most={size}) if you mean it."
            )
        if any(x.is_complex() for x in (*wanted, pass_back.end)):
            raise InputError("gradient='forward' is for real states and parameters. Write gradient='discrete'.")
        with torch.no_grad():
            jacobians = propagate(pass_back, tensors)
        values, pass_back.values = pass_back.values, []
        return _Sensitivities.apply(values, jacobians, *tensors)


def propagate(pass_back: replay.Replay, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Derivatives ``[P, *value.shape]`` of the values of a replay, by the P numbers in the inputs that require grad."""
    inputs, tape = pass_back.inputs, pass_back.tape
    wrt = inputs.as_f_uses_them(tensors)
    _, times, leaves, _ = inputs.split([tensors[0], *wrt])
    field = pass_back.field.with_args(unflatten(pass_back.args_spec, leaves))
    with torch.enable_grad():
        clock = pass_back.clock.with_times(times)
    at_y, *seeds = unit_tangents(tensors)
    at_past: Tangents = []
    values: list[Tensor] = []
    with no_side_effects(field, inputs.moving):
        steps = reversed(list(tape.rewind(replay.Again(field, pass_back.clock))))
        for (entry, start), following in zip(steps, [*tape.entries[1:], None]):
            y = start.y.detach().requires_grad_()
            past = [k.detach().requires_grad_() for _, k in start.history]
            with torch.enable_grad():
                history = tuple((clock(t), k) for (t, _), k in zip(start.history, past))
                step = replay.take(field, clock, entry, y, history)
            outputs = [step.y1, step.k, step.weights, *(k for _, k in step.history)]
            check_all_seen([o for o in outputs if o.requires_grad], [y, *past, *wrt], entry.span.t)
            at_y1, at_k, at_weights, *at_history = tangents_of(outputs, [y, *past, *wrt], [at_y, *at_past, *seeds])
            if entry.knot is not None:
                values.append(at_y1)
            if entry.piece is not None:
                values += [at_y, at_k, *([at_weights] if pass_back.with_weights else [])]
            at_y = at_y1
            if following is not None:
                moved = step._replace(history=tuple((t, v) for (t, _), v in zip(step.history, at_history)))
                at_past = [v for _, v in carried(moved, following)]
    pass_back.counters["replayed"] += field.evaluations
    return [*values, at_y]


Tangents = list[Tensor]


def unit_tangents(tensors: Sequence[Tensor]) -> Tangents:
    """For every input its tangents ``[P, *shape]``, one for each number that requires grad in any of them."""
    size = sum(x.numel() for x in tensors if x.requires_grad)
    tangents, done = [], 0
    for x in tensors:
        tangent = x.new_zeros(size, x.numel())
        if x.requires_grad:
            tangent[done : done + x.numel()] = torch.eye(x.numel(), dtype=x.dtype, device=x.device)
            done += x.numel()
        tangents.append(tangent.view(size, *x.shape))
    return tangents


def tangents_of(outputs: Sequence[Tensor], inputs: Sequence[Tensor], tangents: Tangents) -> Tangents:
    """``[P, *output.shape]`` from ``[P, *input.shape]``: the vector-Jacobian product is linear in its vector, and its own
    vector-Jacobian product is the derivative along a direction."""
    size = len(tangents[0])
    found = [o.new_zeros(size, *o.shape) for o in outputs]
    live = [i for i, o in enumerate(outputs) if o.requires_grad]
    if not live or not size:
        return found
    with torch.enable_grad():
        dummies = [torch.zeros_like(outputs[i]).requires_grad_() for i in live]
        grads = torch.autograd.grad([outputs[i] for i in live], inputs, dummies, create_graph=True, allow_unused=True)
    pairs = [(g, v.to(g.dtype)) for g, v in zip(grads, tangents) if g is not None and g.requires_grad]
    if not pairs:
        return found
    along = torch.autograd.grad(
        [g for g, _ in pairs],
        dummies,
        [v for _, v in pairs],
        allow_unused=True,
        is_grads_batched=True,
        retain_graph=True,
    )
    for i, tangent in zip(live, along):
        if tangent is not None:
            found[i] = tangent.detach()
    return found


class _Sensitivities(torch.autograd.Function):
    """Values in, the same values out, with known derivatives."""

    @staticmethod
    def forward(ctx: Any, values: list[Tensor], jacobians: list[Tensor], *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.jacobians = jacobians
        ctx.shapes = [x.shape if x.requires_grad else None for x in tensors]
        ctx.save_for_backward(*tensors)  # for the error of a second backward pass, which has to be reached
        ctx.set_materialize_grads(False)
        return tuple(x.detach() for x in values)

    @staticmethod
    @first_derivative_only
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        parts = [
            j.reshape(len(j), -1) @ c.reshape(-1).to(j.dtype)
            for j, c in zip(ctx.jacobians, cotangents)
            if c is not None
        ]
        if not parts:
            return (None, None, *(None for _ in ctx.shapes))
        sizes = [0 if shape is None else shape.numel() for shape in ctx.shapes]
        flat = torch.stack(parts).sum(0).split(sizes)
        return (None, None, *(None if shape is None else g.view(shape) for shape, g in zip(ctx.shapes, flat)))
