"""The compiled loop as a series of calls of many attempts each: between them Python shows progress and hears Ctrl-C."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...autocast import as_now
from ...errors import NotCompilable
from ...field import Field
from ...per_sample.loop import RUNNING
from ...plan import Plan
from ...problem import Problem
from .columns import Leaves
from .compile import not_compiled, program_of
from .converging import convergence_of
from .counting import count, count_matrices
from .jacobians import Whole, jacobian_of, look_into
from .kept import Keep, nothing_kept
from .landings import Landings
from .norms import norm_of
from .past import lines_known
from .program import Program, Record, make_program, new_record
from .projected import with_projection
from .pure import Beside, Pure, Seen, tracer_of, uncounted
from .setup import TINY, bare, family_of, form_of, slots_for
from .split import is_split
from .step import MISSED, Carry, Fixed, Form

_FIRST, _SECONDS = 2_000, 0.25  # attempts in the first call; how long the others should take
_LEAST = 8  # attempts in any call: two evaluations more, of which only the first call has use, are then little


class Kind(NamedTuple):
    """How a loop runs: name of the runner, what makes its program (the same one for the same form and ``f``), and whether it
    fuses many operations into one pass."""

    name: str
    program_for: Callable[[Form, Pure], Program]
    fuses: bool = True


class Written(NamedTuple):
    """Accepted steps in their order: ``accepted``, ``t``, ``t1 [n, B]``, ``tries [n]`` (attempts up to this one), states at both
    ends ``y0``, ``y1 [n, B, D]``, slopes ``k [n, S, B, D]``."""

    accepted: Tensor
    tries: Tensor
    t: Tensor
    t1: Tensor
    y0: Tensor
    y1: Tensor
    k: Tensor

    @property
    def steps(self) -> int:
        return len(self.t)


class Part(NamedTuple):
    """One call of the loop.

    Attributes:
        record: what it wrote down, if anything; ``fixed``: what it went by; ``end``: where it left the rows (None: not kept).
        steps: how many it wrote down.
        restarts: the slope at its start was evaluated for it.
        opened: how many of the steps are those of an opening.
    """

    record: Record
    fixed: Fixed
    end: Any
    steps: int
    restarts: bool
    opened: int = 0


class Loop:
    """A compiled loop; ``missed``: some corrections did not suffice.

    Args:
        field: counts the evaluations of ``f``; ``kind``: how the loop runs; ``form``: what it is made for.
        seen: ``f`` as a pure function, with the tensors it holds; ``leaves``: the tensors of the state it takes.
        weights: the tensors that the norm holds; ``tables``: coefficients of the method that are data.

    Attributes:
        most: attempts in any call, if there is a limit.
    """

    def __init__(
        self,
        field: Field,
        kind: Kind,
        form: Form,
        seen: Seen,
        leaves: Leaves,
        weights: tuple[Tensor, ...] = (),
        tables: tuple[Tensor, ...] = (),
    ):
        self.field, self.kind, self.form, self.seen = field, kind, form, seen
        self.leaves, self.weights, self.tables = leaves, weights, tables
        self.held = [x.detach() if x.requires_grad else x for x in seen.held]
        self.program = kind.program_for(form, seen.pure)
        self.attempts, self.missed = _FIRST, False
        self.most: int | None = None

    def march(self, carry: Carry, fixed: Fixed, restarts: bool = True, asks: int = 0) -> Iterator[Part]:
        """Call after call, until no row is running.

        Args:
            carry, fixed: where it starts from, and what it goes by.
            restarts: as in ``Part``, of the first call; ``asks``: evaluations of ``f`` in it beside those of the attempts.
        """
        _, tries, _, _, fresh, asked = carry.totals.tolist()
        fixed, running = fixed._replace(weights=self.weights, tables=self.tables), True
        landings = Landings(fixed.landings, self.form.unroll)
        if self.form.keeps:  # a matrix outlives a jump
            carry = carry._replace(keep=self.field.kept or nothing_kept(carry))
        while running:
            until = tries + min(self.attempts, landings.attempts, self.most or self.attempts)
            fixed = fixed._replace(landings=landings.ahead(carry.t))
            totals = torch.tensor([1, tries, 0, until, fresh, asked], device=carry.totals.device)
            start = carry._replace(totals=totals)
            record: Any = new_record(self.form, start.t.shape, start.ys, start.past) if self.form.slots else None
            began = time.perf_counter()
            with torch.no_grad():
                carry = self.program(start, fixed, self.held, record)
            before, counted = tries, asked
            opened = lines_known(carry, self.form) - lines_known(start, self.form)
            _, tries, steps, _, _, asked = carry.totals.tolist()
            self.attempts = attempts_for(tries - before, time.perf_counter() - began)
            self.missed = asked >= MISSED
            count(self.field, asks * (tries > before) + asked % MISSED - counted % MISSED)
            count_matrices(self.field, start.keep, carry.keep)
            self.field.kept = Keep(*carry.keep) if carry.keep else None
            yield Part(record, fixed, carry, steps, restarts, opened)
            fresh, restarts, asks = 0, False, 0
            running = bool((carry.code == RUNNING).any())


def loop_for(
    problem: Problem,
    plan: Plan,
    kind: Kind,
    *,
    writes: bool,
    slopes: int,
    looks_inside: bool,
    whole: Problem | None = None,
) -> Loop:
    """The loop for one problem.

    Args:
        problem, plan: of the solve; ``kind``: of the loop.
        writes: the accepted steps are wanted; ``slopes``: with so many of their slopes (see ``Form``).
        looks_inside: and what their interpolants need.
        whole: the problem by whose size the form is chosen, where this is a part of it.
    """
    whole = whole or problem
    slots = slots_for(whole, plan, slopes) if writes else 0
    norm, weights = norm_of(problem, plan)
    seen = look_at(problem.field, problem.t0, problem.finite_start(), kind.name)
    onto, seen = with_projection(problem, plan, seen)
    method = bare(plan.method)
    parts: tuple[Beside, ...] = ()
    how = Whole()
    if is_split(problem, method):
        parts, how, seen = parts_of(problem, seen, kind.name)
    elif method.uses_jacobian:
        how, seen = jacobian_of(problem, seen)
    converged, seen = convergence_of(problem, method, seen)
    if kind.fuses and isinstance(norm, str) and onto is None and how == Whole() and converged is None and not parts:
        seen = seen._replace(pure=seen.pure.in_columns)
    leaves = Leaves(problem.layout, seen.pure.columns)
    form = form_of(
        problem, plan, leaves, slots=slots, slopes=slopes, looks_inside=looks_inside, norm=norm, onto=onto,
        small=whole.layout.size <= TINY, jacobian=how, converged=converged, parts=parts,
    )  # fmt: skip
    if method.uses_jacobian:
        t = problem.field.time(problem.t0).to(problem.layout.real_dtype)
        ys = [y.to(dtype) for y, dtype in zip(leaves.of(problem.finite_start()), form.dtypes)]
        pure, held = (parts[0].pure, parts[0].own(seen.held)) if parts else (seen.pure, seen.held)
        look_into(pure, how, t, ys, held)
    tables = family_of(method, problem).tables(method, problem.y0.dtype, problem.y0.device)
    return Loop(problem.field, kind, form, seen, leaves, weights, tables)


def parts_of(problem: Problem, seen: Seen, name: str) -> tuple[tuple[Beside, ...], Whole, Seen]:
    """The two parts of ``f`` as they were traced, how the Jacobian of the first is found, and ``f`` with what all that holds."""
    fields: Any = problem.field.parts()
    stiff, other = (look_at(field, problem.t0, problem.finite_start(), name) for field in fields)
    how, stiff = jacobian_of(problem, stiff)
    implicit, seen = Beside.of(stiff, seen)
    explicit, seen = Beside.of(other, seen)
    return (implicit, explicit), how, seen


def refuse_lost_gradient(problem: Problem, loop: Loop) -> None:
    """Raise instead of computing values without a gradient that somebody waits for."""
    if torch.is_grad_enabled() and (problem.y0.requires_grad or any(x.requires_grad for x in loop.seen.held)):
        raise NotCompilable(
            f"runner={loop.kind.name!r} cannot record a solve for gradient='direct'. Write gradient='discrete' (the same "
            "gradient), or runner='eager'; without a gradient, wrap the solve in torch.no_grad()."
        )


def look_at(field: Field, t: Any, y: Tensor, name: str) -> Seen:
    """Trace ``f`` at the time ``t`` (of each row) and the state ``y [1, D]``."""
    layout = field.layout
    with torch.no_grad():
        time_there = field.time(t).to(layout.real_dtype)
        state = layout.unravel(y.detach())
        f = uncounted(field.f)
        try:
            with as_now(field.autocast):
                seen = tracer_of(f)(f, time_there, state, field.args, layout.dtypes)
        except Exception as error:
            raise not_compiled(error) from error
    for k, shape, dtype in zip(seen.slopes, layout.shapes, layout.dtypes):
        if k.shape != shape or k.dtype != dtype:
            raise NotCompilable(
                f"runner={name!r} needs slopes of the very shape and dtype of the state, {tuple(shape)} and {dtype}, but f "
                f"returned {tuple(k.shape)} and {k.dtype}. Return such a tensor, or write runner='eager'."
            )
    return seen


def program_for(form: Form, pure: Pure) -> Program:
    """The compiled program, made once for each form."""
    program: Program = program_of(pure, form, "loop", lambda: make_program(form, pure), form.small)
    return program


COMPILED = Kind("compiled", program_for)


def attempts_for(made: int, seconds: float) -> int:
    """How many attempts the next call should make."""
    return max(_LEAST, min(2**40, int(made * _SECONDS / max(seconds, 1e-6)))) if made else _FIRST


def up_to(part: Part, steps: Tensor) -> Part:
    """The part with every row left where it was after so many of its steps ``[B]``; changed in place."""
    record, end, n = part.record, part.end, part.steps
    if bool((steps == n).all()):
        return part
    batch, steps = record.accepted.shape[1:], steps.to(record.accepted.device)
    here = torch.minimum(torch.arange(n + 1, device=steps.device).unsqueeze(1), steps)
    everyone = torch.arange(len(steps), device=steps.device)

    def stopped(written: Tensor, last: Tensor, lead: int = 0) -> Tensor:
        whole = torch.cat([written[:n], last.unsqueeze(0)]).movedim(0, lead)
        rows = whole.reshape(*whole.shape[: lead + 1], len(steps), *whole.shape[lead + 1 + len(batch) :])
        return rows[(slice(None),) * lead + (here, everyone)].reshape(whole.shape).movedim(lead, 0)

    record.accepted[:n] &= (here[:n] < steps).reshape(n, *batch)
    for written, last in zip(record.ys, end.ys):
        states = stopped(written, last)
        written[:n], last[...] = states[:n], states[n]
    for written, last in zip(record.ks, end.ks):
        last[...] = stopped(written[:, 0], last)[n]
    for written, last in zip(record.past, end.past):
        last[...] = stopped(written, last, 1)[n]
    return part._replace(steps=int(steps.max()))


def written(loop: Loop, call: Part) -> Written:
    """What a call wrote down, rows by rows."""
    leaves = loop.leaves
    n, rows, at = call.steps, leaves.layout.rows, call.end
    part = call.record.first(n)
    y0 = leaves.rows(part.ys, 1)
    y1 = torch.cat([y0[1:], leaves.rows(at.ys).unsqueeze(0)])[:n]
    return Written(
        part.accepted.reshape(n, rows), part.tries, part.t.reshape(n, rows), part.t1.reshape(n, rows), y0, y1,
        leaves.rows(part.ks, 2)[:, loop.form.lead :] if part.ks else y0.unsqueeze(1)[:, :0],
    )  # fmt: skip
