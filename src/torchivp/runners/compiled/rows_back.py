"""Backward solves of continuous adjoints of many rows through the compiled loop, with the parameters' integral beside it: another
loop goes along the steps that this one wrote down."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from ...field import Field
from ...per_sample.dense import RowsDense
from ...per_sample.loop import RUNNING, begin, start
from ...per_sample.problem import RowsProblem
from ...plan import Plan
from ...state import Layout
from .backward import exchanged
from .columns import Leaves
from .counting import count, evaluations
from .derivatives import derivative_of, leaves_of
from .jacobians import Whole
from .march import COMPILED, Loop, look_at
from .norms import Largest
from .pure import Pure, Seen
from .quadrature import Integral, rule_of
from .rows import CompiledState, blame, read_back
from .setup import carry_of, fixed_of, form_of, slots_for, suits, weights_of
from .step import ALL, SUCCESS, TIMES, Form, State, wide


class AugmentedRows(Pure):
    """The equation of adjoint and state (which may be stored) of many rows, or of one problem, as a pure function.

    The tensors it holds are those of ``f``, the rows' directions ``[*batch]``, and the stored solution, if there is one (see
    ``table_of``). Its products are traced beforehand: torch.func does not go with a loop that writes down its steps.

    Args:
        pure: ``f``.
        dtypes: of its state, as it sees it.
        along: the state is stored.
    """

    def __init__(self, pure: Pure, dtypes: Sequence[torch.dtype], along: bool):
        self.pure, self.dtypes, self.along = pure, tuple(dtypes), along
        self.name, self.codes = pure.name, pure.codes
        self.programs: dict[Any, Any] = {}
        self.products: Any = None

    def trace(self, t: Tensor, ys: State, held: State) -> None:
        """Look at the products, once."""
        if self.products is not None:
            return
        n = len(self.dtypes)

        def products(t: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
            state, adjoint, held = tensors[:n], tensors[n : 2 * n], tensors[2 * n :]
            slopes, vjp = torch.func.vjp(lambda *state: self.slopes(t, state, held), *state)[:2]
            return (*slopes, *vjp(tuple(adjoint)))

        state, adjoint = self.parts(t, ys, held)
        with torch.enable_grad():
            self.products = make_fx(products, tracing_mode="symbolic" if t.dim() else "real")(
                t, *state, *adjoint, *self.of_f(held)
            )

    def __call__(self, t: Tensor, ys: State, held: State) -> tuple[Tensor, ...]:
        state, adjoint = self.parts(t, ys, held)
        out = self.products(t, *state, *adjoint, *self.of_f(held))
        n = len(self.dtypes)
        return (*(() if self.along else out[:n]), *(-x for x in out[n:]))

    def integrand(
        self, t: Tensor, ys: State, held: State, places: Sequence[int], weights: Tensor
    ) -> tuple[Tensor, ...]:
        """``adjoint . df/dp`` for the held tensors at these places, summed over the rows with ``weights [*batch]``."""
        state, adjoint = self.parts(t, ys, held)
        held = self.of_f(held)

        def slopes(*some: Tensor) -> tuple[Tensor, ...]:
            return self.slopes(t, state, exchanged(held, places, some))

        vjp = torch.func.vjp(slopes, *(held[i] for i in places))[1]
        return tuple(vjp(tuple(a * wide(weights, a) for a in adjoint)))

    def slopes(self, t: Tensor, state: State, held: State) -> tuple[Tensor, ...]:
        """``f`` as inside the forward solve."""
        *held, direction = held
        seen = (t * direction).to(torch.empty((), dtype=self.dtypes[0]).real.dtype)
        slopes = self.pure(seen, [y.to(dtype) for y, dtype in zip(state, self.dtypes)], held)
        return tuple(k.to(y.dtype) * wide(direction, y) for k, y in zip(slopes, state))

    def parts(self, t: Tensor, ys: State, held: State) -> tuple[State, State]:
        """State and adjoint."""
        n = len(self.dtypes)
        return (looked_up(held[-5:], t, ys), ys) if self.along else (ys[:n], ys[n:])

    def of_f(self, held: State) -> State:
        return held[:-5] if self.along else held


def table_of(stored: RowsDense) -> tuple[Tensor, ...]:
    """The stored solution of the rows: how far they had come with each step, where it began, and its size (1 where it had none),
    ``[B, N]``; their last steps ``[B]``; the coefficients ``[B * N, P + 1, D]``."""
    until = stored.until.contiguous()
    coefficients = stored.coefficients.permute(2, 0, 1, 3)
    sizes = torch.where(stored.dt == 0, 1, stored.dt)
    return until, stored.t0.clone(), sizes, until.argmax(1), coefficients.flatten(0, 1).contiguous()


def looked_up(table: Sequence[Tensor], t: Tensor, like: State) -> tuple[Tensor, ...]:
    """The stored states at the times ``t [*batch]`` of the rows as inside the forward solve, as ``RowsDense.at`` has them."""
    until, begins, sizes, last, coefficients = table
    inside = t.reshape(-1, 1).to(until.dtype)
    before = (
        inside - 1e-15 * inside.abs()
    )  # where a step backwards begins, for one that computes this time from its end
    at = torch.searchsorted(until, before).clamp(max=until.shape[1] - 1)
    at = torch.minimum(at, last.unsqueeze(1))
    theta = ((inside - begins.gather(1, at)) / sizes.gather(1, at)).to(coefficients.dtype)
    rows = torch.arange(until.shape[0], device=at.device) * until.shape[1]
    c = coefficients.index_select(0, rows + at.squeeze(1))
    total = c[:, -1]
    for p in reversed(range(c.shape[1] - 1)):
        total = c[:, p] + theta * total
    return leaves_of(total.reshape(*t.shape, -1), like)


class RowsBackwards:
    """A backward solve of many rows: iterates over its landings, with the rows that came to one ``[B]``; then ``state.y`` may be
    changed.

    Args:
        loop: compiled.
        problem, plan: of the backward solve, in the loop's tensors.
        stops: times where the rows land, ``[B, K]``.
        places: which of the tensors that ``f`` holds the parameters are, by their number.

    Attributes:
        state: of the rows.
        totals: the integrals for the parameters.
    """

    def __init__(
        self,
        loop: Loop,
        problem: RowsProblem,
        plan: Plan,
        stops: Tensor,
        params: Sequence[Tensor],
        places: dict[int, int],
    ):
        self.loop, self.problem, self.plan = loop, problem, plan
        jumps = plan.limits.jumps
        self.bounds = stops if jumps is None else torch.cat([stops, jumps], dim=1)
        self.state = CompiledState(**vars(begin(problem)))
        self.totals = [torch.zeros_like(p) for p in params]
        self.integral = Integral(loop, rule_of(plan.method, weights_of(problem, plan)), places, self.totals)

    def __iter__(self) -> Iterator[Tensor]:
        problem, plan, state = self.problem, self.plan, self.state
        start(problem, plan, state)
        while state.alive:
            before = state.t
            self.to_next_landing()
            state.slope = None
            state.running = (state.code == SUCCESS) & (state.t < plan.limits.end)
            state.alive = int(state.running.sum())
            state.codes = torch.where(state.running, RUNNING, state.code)
            yield state.t > before
        blame(problem, plan, state)

    def to_next_landing(self) -> None:
        """Of every row."""
        problem, plan, state, loop = self.problem, self.plan, self.state, self.loop
        limits, layout = plan.limits, problem.layout
        ahead = torch.where(self.bounds > state.t.unsqueeze(1), self.bounds, torch.inf).amin(1)
        end = torch.minimum(limits.end, ahead)
        fixed = fixed_of(problem, plan, loop.leaves, end, limits._first(state.t), limits._last(end))
        carry = carry_of(problem, plan, loop.leaves, state, state.slope, state.tries)
        for part in loop.march(carry, fixed, asks=int(state.slope is None)):
            tries = state.tries
            read_back(problem, state, part.end)
            state.t, state.y = part.end.t.reshape(layout.rows), loop.leaves.rows(part.end.ys).reshape(1, -1)
            state.accepted = part.end.accepted.reshape(layout.rows).to(torch.int64)
            looked = [True] * part.steps
            goes_on = bool((state.code == RUNNING).any())
            count(loop.field, evaluations(loop.form, state.tries - tries, looked, goes_on))
            self.integral.took(part)


def steps(
    forward: Field,
    params: Sequence[Tensor],
    problem: RowsProblem,
    plan: Plan,
    stops: Tensor,
    stored: RowsDense | None = None,
) -> RowsBackwards | None:
    """The backward solve of rows; None: plain PyTorch has to do it.

    Args:
        forward: the forward field; ``params``: the tensors in it that gradients are wanted for.
        problem, plan: of the backward solve, in rows of state and adjoint.
        stops: times of the rows where the solve stops, because the state is changed there, ``[B, K]``.
        stored: the solution, which is not solved again then: rows are of the adjoint alone.
    """
    if not (suits(problem, plan) and forward.layout.size):
        return None
    rows, width, along = forward.layout.rows, forward.layout.width, stored is not None
    y = problem.y0.view(rows, -1)[:, :width].reshape(1, -1)  # the state, or the adjoint
    state = y if stored is None else stored.at(-problem.t0.unsqueeze(1)).reshape(1, -1)
    seen = look_at(forward, -problem.t0, state, COMPILED.name)
    number = {id(p): j for j, p in enumerate(params)}
    wanted = [i for i, x in enumerate(seen.held) if x.requires_grad]
    if any(id(seen.held[i]) not in number for i in wanted):  # computed from parameters, before
        return None
    places = {i: number[id(seen.held[i])] for i in wanted}
    batch = forward.layout.batch
    direction = (
        torch.as_tensor(forward.direction, dtype=torch.float64, device=y.device).expand(rows).reshape(batch).clone()
    )
    held = [*seen.held, direction, *(() if stored is None else table_of(stored))]
    tensors = Leaves.whole(forward.layout).of(y)
    layout = Layout(tensors * (1 if along else 2), len(batch))
    leaves = Leaves.whole(layout)
    pure = augmented(seen.pure, forward, along)
    with torch.no_grad():
        trace(pure, plan, -problem.t0.reshape(batch), leaves.of(problem.y0), [x.detach() for x in held])
    inner = replace(problem, layout=layout)
    loop = Loop(
        forward, COMPILED, form_for(inner, plan, leaves, len(tensors), bool(places)), Seen(pure, held, []), leaves
    )
    return RowsBackwards(loop, inner, plan, stops, params, places)


def trace(pure: AugmentedRows, plan: Plan, t: Tensor, ys: State, held: State) -> None:
    """Look at what the loop finds again: the products, and their Jacobian, where the method needs it."""
    pure.trace(t, ys, held)
    if plan.method.uses_jacobian:
        derivative_of(pure, t, ys, held, Whole.products)


def form_for(problem: RowsProblem, plan: Plan, leaves: Leaves, parts: int, writes: bool) -> Form:
    """
    Args:
        parts: so many tensors make up a state.
        writes: the steps are wanted, with their interpolants.
    """
    tolerance: Any = problem.tolerance
    norm = Largest(tolerance.name, parts, len(leaves.layout.shapes) // parts, None)
    slopes = ALL if writes else TIMES
    slots = slots_for(problem, plan, slopes) if writes else 0
    form = form_of(problem, plan, leaves, slots=slots, slopes=slopes, looks_inside=writes, norm=norm, jacobian=Whole())
    return replace(form, starts=True)


def augmented(pure: Pure, forward: Field, along: bool) -> AugmentedRows:
    """Made once for each ``f``, so that its programs are found again; one row alone has a trace of its own."""
    key = ("augmented rows", along, tuple(forward.layout.dtypes), len(forward.layout.batch), 1 in forward.layout.batch)
    if key not in pure.programs:
        pure.programs[key] = AugmentedRows(pure, forward.layout.dtypes, along)
    return pure.programs[key]
