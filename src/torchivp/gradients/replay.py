"""Taking the accepted steps again, from last to first, as many at once as have a small graph.

What ``discrete`` and ``reversible`` share: they differ in how one comes by the start of a step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from .._types import Time
from ..autocast import without_autocast
from ..errors import GradientError
from ..field import Field
from ..methods.base import History, Step
from ..per_sample.problem import RowClock
from ..plan import Plan
from ..problem import Clock, Problem
from ..runners.eager import Run
from ..state import flatten, unflatten
from ..trajectory import Piece, Start, Tape, TapeEntry, carried
from ..transforms import forward_mode
from .base import nothing_to_do
from .closure import check_all_seen, check_still_held
from .direct import Direct
from .graph import bytes_held, nodes_between
from .inputs import Inputs, find_inputs
from .side_effects import no_side_effects

Grads = Sequence[Tensor | None]
# Steps share a graph up to so many bytes (few large graphs cost less than many small ones: docs/design/speed.md) and nodes (one
# that Python has looked at takes those behind it along when it goes, one inside the other on the stack).
_GRAPH, _NODES = 2**23, 2_000
Differentiable = Callable[["Replay"], Sequence[Tensor]]


def integrate(
    problem: Problem, plan: Plan, new_tape: Callable[[], Tape], differentiable: Differentiable | None = None
) -> Run:
    """Solve without autograd, then put the gradient on everything the trajectory keeps.

    Inside transforms and in forward mode the loop is recorded instead: the same gradient, with the memory of ``direct``.

    Args:
        new_tape: makes the tape for the steps.
        differentiable: the values of a replay, with a gradient; None: that of the replay itself.
    """
    if nothing_to_do():
        return Direct().integrate(problem, plan)
    inputs, known = find_inputs(problem, plan)
    if not inputs.wanted:  # with autograd on: should a tensor show up later that requires grad, it is not lost
        return plan.run(problem, plan, known=known)
    with torch.no_grad():
        out = plan.run(problem.frozen(), plan, new_tape=new_tape, known=known)
    attach(problem, out, Replay(problem, plan, inputs, out), differentiable or replayed)
    return out


def attach(problem: Problem, out: Run, replay: Replay, differentiable: Differentiable) -> None:
    """Replace what the trajectory keeps by the same values with the replay's gradient."""
    trajectory, clock = out.trajectory, problem.clock
    starts = trajectory.starts(problem.t0)
    trajectory.knots[:starts] = [problem.y0] * starts
    trajectory.with_times(clock)
    trajectory.end = out.state.y = problem.y0
    if not replay.tape.entries:
        return
    attached = iter(differentiable(replay))
    for entry in replay.tape.entries:
        if entry.knot is not None:
            trajectory.knots[entry.knot] = next(attached)
        if entry.piece is not None:
            y0, k = next(attached), next(attached)
            weights = next(attached) if replay.with_weights else trajectory.pieces[entry.piece].weights
            trajectory.pieces[entry.piece] = Piece(problem.timed(entry.span), y0, k, weights)
    trajectory.end = out.state.y = next(attached)


def replayed(replay: Replay) -> Sequence[Tensor]:
    """The values of a replay, which a backward pass takes up."""
    return _Replay.apply(replay, *replay.inputs.tensors)


class Replay:
    """The backward pass of a solve.

    Args:
        problem, plan: of the solve.
        inputs: what to differentiate.
        out: the finished run with its tape.
    """

    def __init__(self, problem: Problem, plan: Plan, inputs: Inputs, out: Run):
        assert_no_past(problem)
        self.field = problem.field.with_args(problem.field.args)
        self.args_spec = flatten(problem.field.args)[1]
        self.inputs = inputs
        self.clock = problem.clock
        self.tape = tape_of(out)
        self.counters = out.counters
        self.with_weights = inputs.times is not None and plan.method.weights_depend_on_times
        self.values = self._values(out)
        self.end = out.trajectory.end.detach()

    def _values(self, out: Run) -> list[Tensor]:
        values = []
        for entry in self.tape.entries:
            if entry.knot is not None:
                values.append(out.trajectory.knots[entry.knot])
            if entry.piece is not None:
                piece = out.trajectory.pieces[entry.piece]
                values += self._of_piece(piece.y0, piece)
        return [*values, out.trajectory.end]

    @without_autocast
    def backward(self, tensors: Sequence[Tensor], cotangents: Grads) -> Grads:
        """Gradients of ``inputs.tensors`` from those of ``values``; last steps first, one small graph at a time."""
        check_still_held(self.field.f, self.inputs.held)
        field = self.field.with_args(self.field.args)
        with no_side_effects(field, self.inputs.moving):
            grads = self._backward(field, tensors, cotangents)
        self.counters["replayed"] += field.evaluations
        return grads

    def _backward(self, field: Field, tensors: Sequence[Tensor], cotangents: Grads) -> Grads:
        wrt = self.inputs.as_f_uses_them(tensors)
        _, times, leaves, _ = self.inputs.split([tensors[0], *wrt])
        field.args = unflatten(self.args_spec, leaves)
        with torch.enable_grad():
            clock = self.clock.with_times(times)
        totals = _Totals(len(wrt))
        pending = list(cotangents)
        adjoint = pending.pop()
        slope_adjoints: Grads = ()
        end, off = self.end, Off(self.end)
        steps = self.tape.rewind(Again(field, self.clock))
        at_once = None
        while group := list(islice(steps, at_once or 1)):  # steps that share a graph, last first
            first, start = group[-1]
            given: list[Tensor | None] = []
            for entry, _ in group:
                given = [*self._given(entry, pending), *given]
            y = start.y.detach().requires_grad_()
            past = [k.detach().requires_grad_() for _, k in start.history]
            with torch.enable_grad():
                history = tuple((clock(t), k) for (t, _), k in zip(start.history, past))
                out, step = self._take([entry for entry, _ in reversed(group)], field, clock, y, history)
            off.add(step.y1.detach(), end, start.y)
            end = start.y
            out += [step.y1, *(k for _, k in step.history)]
            given += [adjoint, *slope_adjoints]
            at_once = at_once or steps_at_once(out, [y, *past, *wrt])
            grads = _vjp(out, [y, *past, *wrt], given, first.span.t)
            adjoint, slope_adjoints = grads[0], grads[1 : 1 + len(past)]
            totals.add(grads[1 + len(past) :])
        check_same_numbers(off.largest(), self.tape.drift)
        return [adjoint, *totals.values]

    def _take(
        self, entries: list[TapeEntry], field: Field, clock: Clock | RowClock, y: Tensor, history: History
    ) -> tuple[list[Tensor], Step]:
        """Take steps that follow each other: start, slopes, weights and end of each, and the last one."""
        step = take(field, clock, entries[0], y, history)
        out = [y, step.k, step.weights, step.y1]
        for entry in entries[1:]:
            y, history = step.y1, carried(step, entry)
            step = take(field, clock, entry, y, history)
            out += [y, step.k, step.weights, step.y1]
        return out, step

    def _given(self, entry: TapeEntry, pending: list[Tensor | None]) -> Grads:
        """The cotangents of a step's start, slopes, weights and end, taken from the end of the ``pending`` ones."""
        at_weights = pending.pop() if entry.piece is not None and self.with_weights else None
        at_k = pending.pop() if entry.piece is not None else None
        at_start = pending.pop() if entry.piece is not None else None
        at_end = pending.pop() if entry.knot is not None else None
        return at_start, at_k, at_weights, at_end

    @without_autocast
    def again(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """``values`` computed from ``tensors`` in one graph (for gradients of gradients)."""
        check_still_held(self.field.f, self.inputs.held)
        y, times, leaves, _ = self.inputs.split(tensors)
        field, clock = self.field.with_args(unflatten(self.args_spec, leaves)), self.clock.with_times(times)
        values: list[Tensor] = []
        step: Step | None = None
        with no_side_effects(field, self.inputs.moving):
            for entry in self.tape.entries:
                history = () if step is None else carried(step, entry)
                step = take(field, clock, entry, y, history)
                if entry.knot is not None:
                    values.append(step.y1)
                if entry.piece is not None:
                    values += self._of_piece(y, step)
                y = step.y1
        self.counters["replayed"] += field.evaluations
        return [*values, y]

    def _of_piece(self, y0: Tensor, piece: Piece | Step) -> list[Tensor]:
        return [y0, piece.k, *([piece.weights] if self.with_weights else [])]


def assert_no_past(problem: Problem) -> None:
    """Raise for a resumed multistep method: its past cannot be taken again."""
    if problem.resume is not None and problem.resume.history:
        raise GradientError(
            "A reversible or multistep method was resumed, and what it carries from step to step belongs to the solve "
            "before. Use gradient='direct' for both solves, or a Runge-Kutta method."
        )


def tape_of(out: Run) -> Tape:
    if out.tape is None:
        raise GradientError("This run was made without a tape, so its steps cannot be taken again.")
    return out.tape


def take(field: Field, clock: Clock | RowClock, entry: TapeEntry, y: Tensor, history: History) -> Step:
    """Take an accepted step again, exactly."""
    span, method = clock.timed(entry.span.again()), entry.method
    if not entry.ready and method.needs_slope(history):
        if entry.draws.slope is not None:
            entry.draws.slope.put_back()
        history = ((span.t, field.start_slope(span, y)), *history)
    if entry.draws.stages is not None:
        entry.draws.stages.put_back()
    field.origin = entry.origin
    step = method.step(field, span, y, history)
    if entry.looked_into:
        step = method.dense(field, span, y, step)
    return span.settle(step, y, history)


def steps_at_once(out: list[Tensor], inputs: list[Tensor]) -> int:
    """How many steps like the one from ``inputs`` to ``out`` share a graph."""
    by_size = _GRAPH // max(1, bytes_held(out, inputs))
    return max(1, min(by_size, _NODES // max(1, len(nodes_between(out, inputs)))))


class Again:
    """How a tape comes by the starts it did not keep.

    Args:
        field, clock: of the steps.
    """

    def __init__(self, field: Field, clock: Clock | RowClock):
        self.field, self.clock = field, clock.with_times(None)

    @torch.no_grad()
    def take(self, entry: TapeEntry, start: Start) -> Step:
        return take(self.field, self.clock, entry, start.y, start.history)

    def onwards(self, entry: TapeEntry, start: Start, following: TapeEntry) -> Start:
        step = self.take(entry, start)
        return Start(step.y1, carried(step, following))

    @torch.no_grad()
    def undo(self, entry: TapeEntry, end: Start) -> Start:
        if entry.draws.stages is not None:
            entry.draws.stages.put_back()
        return Start(*entry.span.settle_back(*entry.method.reverse(self.field, entry.span, end.y, end.history), *end))


def check_same_numbers(off: Tensor, drift: float) -> None:
    """Raise if a step, taken again, ended elsewhere: then ``f`` was changed, or draws numbers of its own.

    Args:
        off: by how much, relatively.
        drift: by how much it may have *started* elsewhere.
    """
    if float(off) > 1_000 * max(torch.finfo(off.dtype).eps, drift):
        raise GradientError(
            f"A step of the solve, taken again for its gradient, ended {float(off):.3g} (relatively) elsewhere: f gave other "
            f"numbers. If it draws random ones from a generator of its own (torch's global ones are put back), draw them once "
            f"before the solve; if it was changed since the forward pass, differentiate first; or use gradient='direct'."
        )


class Off:
    """How far steps that were taken again ended elsewhere, relative to the larger of their ends; in few operations, because
    every step asks.

    Args:
        end: the last state.
    """

    def __init__(self, end: Tensor):
        self.errors: list[Tensor] = []
        self.sizes = [torch.linalg.vector_norm(end)]

    def add(self, again: Tensor, end: Tensor, start: Tensor) -> None:
        """The step from ``start``, the one before those so far, ended at ``again`` instead of ``end``."""
        self.errors.append(torch.linalg.vector_norm(again - end))
        self.sizes.append(torch.linalg.vector_norm(start))

    def largest(self) -> Tensor:
        errors, sizes = torch.stack(self.errors), torch.stack(self.sizes)
        larger = torch.maximum(sizes[1:], sizes[:-1])
        return (errors / larger.clamp(min=torch.finfo(sizes.dtype).tiny)).amax()


def _vjp(outputs: list[Tensor], inputs: list[Tensor], cotangents: Grads, t: Time) -> Grads:
    pairs = [(o, c) for o, c in zip(outputs, cotangents) if c is not None and o.requires_grad]
    if not pairs:
        return [None] * len(inputs)
    outputs = [o for o, _ in pairs]
    check_all_seen(outputs, inputs, t)
    return torch.autograd.grad(outputs, inputs, [c for _, c in pairs], allow_unused=True, retain_graph=True)


class _Totals:
    """Running sums of gradients, in place once they are ours."""

    def __init__(self, n: int):
        self.values: list[Tensor | None] = [None] * n

    def add(self, grads: Grads) -> None:
        ours, theirs = [], []
        for i, (total, g) in enumerate(zip(self.values, grads)):
            if g is not None and total is None:
                self.values[i] = g.clone()
            elif g is not None and total is not None:
                ours.append(total)
                theirs.append(g)
        if ours:
            torch._foreach_add_(ours, theirs)


class _Replay(torch.autograd.Function):
    """Puts the replay into the graph: values in, the same values out."""

    @staticmethod
    def forward(ctx: Any, replay: Replay, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.replay = replay
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)
        values, replay.values = replay.values, []
        return tuple(x.detach() for x in values)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        tensors = ctx.saved_tensors
        if forward_mode() or not torch.is_grad_enabled():
            return (None, *ctx.replay.backward(tensors, cotangents))
        return (None, *differentiable_gradients(ctx.replay, tensors, cotangents))


def differentiable_gradients(replay: Replay, tensors: Sequence[Tensor], cotangents: Grads) -> Grads:
    """Gradients of ``inputs.tensors`` that can be differentiated again.

    An input may depend on another one (y0 on a weight that f uses, too). What flows from the first to the second is the
    business of the graph outside, so the gates in front of the inputs are shut while these gradients are taken.
    """
    gate = {"open": False}
    n_closed = len(replay.inputs.closed)
    n_own = len(tensors) - n_closed
    inputs = [*(_Gate.apply(x, gate) for x in tensors[:n_own]), *replay.inputs.closed]
    values = replay.again(inputs)
    pairs = [(v, c) for v, c in zip(values, cotangents) if c is not None and v.requires_grad]
    wanted = [x for x in inputs if x.requires_grad]
    check_all_seen([v for v, _ in pairs], wanted, replay.tape.entries[0].span.t)
    grads = iter(
        torch.autograd.grad([v for v, _ in pairs], wanted, [c for _, c in pairs], create_graph=True, allow_unused=True)
    )
    gate["open"] = True
    return [next(grads) if x.requires_grad else None for x in inputs]


class _Gate(torch.autograd.Function):
    """The identity; no gradient passes while the gate is shut."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gate: dict[str, bool]) -> Tensor:
        ctx.gate = gate
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, None]:
        return (cotangent if ctx.gate["open"] else None), None
