"""Backward solves of continuous adjoints through the compiled loop: state, adjoint and the integrals for the parameters as one
state, whose slope has a vector-Jacobian product of ``f`` in it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...field import Field
from ...loop import LoopState
from ...plan import Plan
from ...problem import Problem
from ...solution import Status
from ...state import Layout
from ...tolerance import Norm
from ...trajectory import Piece
from .backward import exchanged
from .columns import Leaves
from .counting import count, evaluations
from .derivatives import leaves_of
from .jacobians import Whole
from .march import COMPILED, Loop, Part, look_at
from .norms import Largest, traced
from .pure import Pure, Seen
from .quadrature import Integral, rule_of
from .rows_back import augmented as augmented_rows
from .rows_back import trace
from .setup import carry_of, fixed_of, form_of, slots_for, suits, weights_of
from .single import begin, read_back
from .step import ALL, Fixed, State


class Augmented(Pure):
    """The augmented equation as a pure function.

    Args:
        pure: ``f``; it runs backwards in the user's time where ``turned``.
        dtypes: of its state, as it sees it.
        places: which parameter each held tensor is that a gradient is wanted for, by its number.
        along: the state is not solved again: the last held tensors say where it was (see ``table_of``).
        front: so many tensors stand before it that stay what they are.
    """

    def __init__(
        self,
        pure: Pure,
        dtypes: Sequence[torch.dtype],
        turned: bool,
        places: dict[int, int],
        along: bool = False,
        front: int = 0,
    ):
        self.pure, self.dtypes, self.turned, self.places = pure, tuple(dtypes), turned, places
        self.along, self.front = along, front
        self.name, self.codes = pure.name, pure.codes
        self.programs: dict[Any, Any] = {}

    def __call__(self, t: Tensor, ys: State, held: State) -> tuple[Tensor, ...]:
        n, sign = len(self.dtypes), -1 if self.turned else 1
        front, ys = ys[: self.front], ys[self.front :]
        if self.along:
            adjoint, totals, table, held = ys[:n], ys[n:], held[-4:], held[:-4]
            state: State = leaves_of(looked_up(table, t), adjoint)
        else:
            state, adjoint, totals = ys[:n], ys[n : 2 * n], ys[2 * n :]

        def f(state: State, wanted: State) -> tuple[Tensor, ...]:
            all_held = exchanged(held, list(self.places), wanted)
            slopes = self.pure(t * sign, [y.to(dtype) for y, dtype in zip(state, self.dtypes)], all_held)
            return tuple(k.to(y.dtype) * sign for k, y in zip(slopes, state))

        slopes, vjp = torch.func.vjp(f, tuple(state), [held[i] for i in self.places])[:2]
        at_state, at_held = vjp(tuple(adjoint))
        of = dict(zip(self.places.values(), at_held))
        integrands = (-of[j].to(total.dtype) if j in of else torch.zeros_like(total) for j, total in enumerate(totals))
        still = (torch.zeros_like(x) for x in front)
        return (*still, *(() if self.along else slopes), *(-x for x in at_state), *integrands)


def table_of(pieces: Sequence[Piece]) -> tuple[Tensor, ...] | None:
    """Where the pieces of a solution begin and how long they are ``[N]``, their first states ``[N, D]``, and the coefficients of
    their polynomials ``[N, P, D]``; None where they are of several kinds."""
    weights = pieces[0].weights
    if any(p.weights.shape != weights.shape or len(p.k) != len(pieces[0].k) for p in pieces):
        return None
    begins, sizes = (
        torch.tensor(x, dtype=torch.float64, device=weights.device)
        for x in zip(*((float(p.span.t), p.span.size) for p in pieces))
    )
    slopes = torch.stack([p.k for p in pieces])
    coefficients = torch.stack([p.weights for p in pieces]) @ slopes.to(weights.dtype)
    return begins, sizes, torch.cat([p.y0 for p in pieces]), coefficients.to(slopes.dtype)


def looked_up(table: Sequence[Tensor], t: Tensor) -> Tensor:
    """The stored state ``[D]`` at a time inside the library."""
    begins, sizes, starts, coefficients = table
    t = t.to(begins.dtype)
    at = (torch.searchsorted(begins, t.reshape(1), right=True) - 1).clamp(0, len(begins) - 1)
    size = sizes.index_select(0, at)
    theta = ((t - begins.index_select(0, at)) / size).to(starts.dtype)
    weights = coefficients.index_select(0, at).squeeze(0)
    total = weights[-1]
    for p in reversed(range(weights.shape[0] - 1)):
        total = weights[p] + theta * total
    return starts.index_select(0, at).squeeze(0) + size.to(starts.dtype) * theta * total


def steps(
    forward: Field,
    params: Sequence[Tensor],
    problem: Problem,
    plan: Plan,
    state: LoopState,
    norm: Norm,
    parts: int | None,
    stored: Sequence[Piece] | None = None,
    front: int = 0,
    others: bool = False,
    totals: list[Tensor] | None = None,
) -> Iterator[None] | None:
    """Solve backwards; stop at all of ``problem.t``, where the state may be changed. None: plain PyTorch has to do it.

    Args:
        forward: the forward field; ``params``: the tensors in it that gradients are wanted for.
        problem, plan, state: of the backward solve, in the rows of state, adjoint and parameters.
        norm: of a state; the error norm is the largest of those of the first ``parts`` of the three (None: of all).
        stored: the solution, which is not solved again then: rows are of adjoint and parameters.
        front: so many numbers stand before all that, and stay what they are.
        others: ``f`` may use other tensors that require a gradient, which is not wanted.
        totals: where the parameters' integrals are added up, by Gauss quadrature; rows are of the adjoint alone then.
    """
    grows = plan.method.uses_jacobian and totals is None  # its matrix, with the parameters
    if grows or not (suits(problem, plan) and forward.layout.size):
        return None
    table = () if stored is None else table_of(stored)
    if table is None:
        return None
    y = state.y[:, front : front + forward.layout.size]  # the state, or the adjoint
    seen = look_at(forward, -problem.t0, y if stored is None else stored[-1].y0, COMPILED.name)
    number = {id(p): j for j, p in enumerate(params)}
    unknown = [x for x in seen.held if x.requires_grad and id(x) not in number]
    if unknown and not (others and all(x.is_leaf for x in unknown)):  # computed from parameters, before
        return None
    places = {i: number[id(x)] for i, x in enumerate(seen.held) if id(x) in number}
    if totals is not None:
        return by_points(forward, seen, table, problem, plan, state, norm, places, totals)
    pure = augmented(seen.pure, forward, places, stored is not None, front)
    tensors = Leaves.whole(forward.layout).of(y)
    states = 2 if stored is None else 1
    layout = Layout((*y.new_zeros(front).unbind(0), *tensors * states, *(p.detach() for p in params)))
    leaves = Leaves.whole(layout)
    of_state, weights = traced(norm, forward.layout) if plan.controller.adaptive else ("rms", ())
    largest = Largest(of_state, len(tensors), states, parts, front)
    form = form_of(replace(problem, layout=layout), plan, leaves, slots=0, slopes=0, looks_inside=False, norm=largest)
    loop = Loop(forward, COMPILED, form, Seen(pure, [*seen.held, *table], []), leaves, weights)
    return marched(loop, replace(problem, layout=layout), plan, state)


def by_points(
    forward: Field,
    seen: Seen,
    table: Sequence[Tensor],
    problem: Problem,
    plan: Plan,
    state: LoopState,
    norm: Norm,
    places: dict[int, int],
    totals: list[Tensor],
) -> Iterator[None]:
    """The adjoint alone, as that of one row, with the parameters' integrals beside it."""
    begins, sizes, starts, coefficients = table
    moved = coefficients * sizes.to(coefficients.dtype).reshape(-1, 1, 1)
    whole = torch.cat([starts.unsqueeze(1), moved], dim=1)
    last = torch.tensor([len(begins) - 1], device=begins.device)
    direction = torch.full((), float(forward.direction), dtype=torch.float64, device=begins.device)
    as_rows = (torch.cat([begins[1:], begins[-1:] + sizes[-1:]]), begins, sizes)
    held = [*seen.held, direction, *(x.unsqueeze(0) for x in as_rows), last, whole]
    pure = augmented_rows(seen.pure, forward, True)
    tensors = Leaves.whole(forward.layout).of(state.y)
    layout = Layout(tensors)
    leaves = Leaves.whole(layout)
    with torch.no_grad():
        t = torch.full((), -problem.t0, dtype=torch.float64, device=begins.device)
        trace(pure, plan, t, leaves.of(state.y), [x.detach() for x in held])
    of_state, weights = traced(norm, forward.layout) if plan.controller.adaptive else ("rms", ())
    inner, largest = replace(problem, layout=layout), Largest(of_state, len(tensors), 1, None)
    slots, slopes = (slots_for(inner, plan, ALL), ALL) if places else (0, 0)
    form = form_of(
        inner, plan, leaves, slots=slots, slopes=slopes, looks_inside=bool(places), norm=largest, jacobian=Whole()
    )
    loop = Loop(forward, COMPILED, form, Seen(pure, held, []), leaves, weights)
    integral = Integral(loop, rule_of(plan.method, weights_of(inner, plan)), places, totals)
    return marched(loop, inner, plan, state, integral.took)


def augmented(pure: Pure, forward: Field, places: dict[int, int], along: bool, front: int) -> Augmented:
    """Made once for each ``f``, so that its programs are found again."""
    turned = forward.turn is not None
    key = ("augmented", along, front, tuple(forward.layout.dtypes), turned, tuple(places.items()))
    if key not in pure.programs:
        pure.programs[key] = Augmented(pure, forward.layout.dtypes, turned, places, along, front)
    return pure.programs[key]


def marched(
    loop: Loop, problem: Problem, plan: Plan, state: LoopState, took: Callable[[Part], None] | None = None
) -> Iterator[None]:
    """Call after call of the loop, from output to output and jump to jump (from landing to landing, where ``f`` must not be asked
    at the end of a step): everywhere there it starts afresh.

    Args:
        took: gets the calls, if they write down their steps.
    """
    limits = plan.limits
    begin(problem, plan, state)
    bounds = limits.stops if limits.open_ends else (*problem.t, *limits.jumps)
    for end in sorted({x for x in bounds if state.t < x <= limits.end}):
        at_end = torch.tensor([end], dtype=torch.float64)
        fixed = fixed_of(problem, plan, loop.leaves, at_end, limits._first(state.t), limits._last(end))
        fixed = padded(fixed, len(limits.stops))
        asks = 1 + int(math.isnan(state.dt))
        for part in loop.march(carry_of(problem, plan, loop.leaves, state, None), fixed, asks=asks):
            before = state.attempted
            read_back(problem, plan, loop, state, part.end)
            looked = [loop.form.looks_inside] * part.steps
            count(loop.field, evaluations(loop.form, state.attempted - before, looked, state.t < end))
            if took is not None:
                took(part)
        if state.status not in (Status.RUNNING, Status.SUCCESS):
            return
        state.history, state.ready, state.slope = (), False, None
        yield None


def padded(fixed: Fixed, landings: int) -> Fixed:
    """With room for so many landings: another number of them is another shape."""
    room = torch.full((max(0, landings - fixed.landings.shape[-1]),), torch.inf, dtype=torch.float64)
    return fixed._replace(landings=torch.cat([fixed.landings, room.to(fixed.landings.device)], dim=-1))
