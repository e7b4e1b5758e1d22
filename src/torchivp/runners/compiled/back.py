"""Backward solves of continuous adjoints through the compiled loop: state, adjoint and the integrals for the parameters as one
state, whose slope has a vector-Jacobian product of ``f`` in it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ...controllers import PID
from ...field import Field
from ...loop import LoopState
from ...methods.explicit_rk import ExplicitRungeKutta
from ...plan import Plan
from ...problem import Problem
from ...solution import Status
from ...state import Layout
from ...tolerance import Norm
from .backward import exchanged
from .columns import Leaves
from .counting import count, evaluations
from .march import COMPILED, Loop, look_at
from .norms import traced
from .pure import Pure, Seen
from .setup import carry_of, fixed_of, form_of
from .single import begin, read_back
from .step import Fixed, State, size


class Augmented(Pure):
    """The augmented equation as a pure function.

    Args:
        pure: ``f``; it runs backwards in the user's time where ``turned``.
        dtypes: of its state, as it sees it.
        places: which parameter each held tensor is that a gradient is wanted for, by its number.
    """

    def __init__(self, pure: Pure, dtypes: Sequence[torch.dtype], turned: bool, places: dict[int, int]):
        self.pure, self.dtypes, self.turned, self.places = pure, tuple(dtypes), turned, places
        self.name, self.codes = pure.name, pure.codes
        self.programs: dict[Any, Any] = {}

    def __call__(self, t: Tensor, ys: State, held: State) -> tuple[Tensor, ...]:
        n, sign = len(self.dtypes), -1 if self.turned else 1
        state, adjoint, totals = ys[:n], ys[n : 2 * n], ys[2 * n :]

        def f(state: State, wanted: State) -> tuple[Tensor, ...]:
            all_held = exchanged(held, list(self.places), wanted)
            slopes = self.pure(t * sign, [y.to(dtype) for y, dtype in zip(state, self.dtypes)], all_held)
            return tuple(k.to(y.dtype) * sign for k, y in zip(slopes, state))

        slopes, vjp = torch.func.vjp(f, tuple(state), [held[i] for i in self.places])[:2]
        at_state, at_held = vjp(tuple(adjoint))
        of = dict(zip(self.places.values(), at_held))
        integrands = (-of[j].to(total.dtype) if j in of else torch.zeros_like(total) for j, total in enumerate(totals))
        return (*slopes, *(-x for x in at_state), *integrands)


@dataclass(frozen=True)
class Largest:
    """The largest of the norms of the parts: the state, the adjoint, and every parameter.

    Args:
        norm: of one part, by name or as it was traced.
        leaves: so many tensors make up a state.
        parts: how many parts count; None: all.
    """

    norm: str | Pure
    leaves: int
    parts: int | None

    def __call__(self, like: Tensor, xs: State, held: State) -> tuple[Tensor]:
        n = self.leaves
        parts = [xs[:n], xs[n : 2 * n], *([x] for x in xs[2 * n :])][: self.parts]
        if isinstance(self.norm, str):
            sizes = [size(self.norm, part, 0) for part in parts]
        else:
            sizes = [self.norm(like, part, held)[0].to(torch.float64).reshape(()) for part in parts]
        return (torch.stack(sizes).amax(),)


def steps(
    forward: Field,
    params: Sequence[Tensor],
    problem: Problem,
    plan: Plan,
    state: LoopState,
    norm: Norm,
    parts: int | None,
) -> Iterator[None] | None:
    """Solve backwards; stop at all of ``problem.t``, where the state may be changed. None: plain PyTorch has to do it.

    Args:
        forward: the forward field; ``params``: the tensors in it that gradients are wanted for.
        problem, plan, state: of the backward solve, in the rows of state, adjoint and parameters.
        norm: of a state; the error norm is the largest of those of the first ``parts`` of the three (None: of all).
    """
    if not isinstance(plan.method, ExplicitRungeKutta) or (
        plan.controller.adaptive and not isinstance(plan.controller, PID)
    ):
        return None
    y = state.y[:, : forward.layout.size]
    seen = look_at(forward, -problem.t0, y, COMPILED.name)
    number = {id(p): j for j, p in enumerate(params)}
    wanted = [i for i, x in enumerate(seen.held) if x.requires_grad]
    if any(id(seen.held[i]) not in number for i in wanted):  # computed from parameters, before
        return None
    pure = augmented(seen.pure, forward, {i: number[id(seen.held[i])] for i in wanted})
    tensors = Leaves.whole(forward.layout).of(y)
    layout = Layout((*tensors, *tensors, *(p.detach() for p in params)))
    leaves = Leaves.whole(layout)
    of_state, weights = traced(norm, forward.layout, y) if plan.controller.adaptive else ("rms", ())
    largest = Largest(of_state, len(tensors), parts)
    form = form_of(replace(problem, layout=layout), plan, leaves, slots=0, slopes=0, looks_inside=False, norm=largest)
    form = replace(form, unroll=1, small=False)  # which all take longer to compile
    loop = Loop(forward, COMPILED, form, Seen(pure, seen.held, []), leaves, weights)
    return marched(loop, replace(problem, layout=layout), plan, state)


def augmented(pure: Pure, forward: Field, places: dict[int, int]) -> Augmented:
    """Made once for each ``f``, so that its programs are found again."""
    turned = forward.turn is not None
    key = ("augmented", tuple(forward.layout.dtypes), turned, tuple(places.items()))
    if key not in pure.programs:
        pure.programs[key] = Augmented(pure, forward.layout.dtypes, turned, places)
    return pure.programs[key]


def marched(loop: Loop, problem: Problem, plan: Plan, state: LoopState) -> Iterator[None]:
    """Call after call of the loop, from output to output and jump to jump: everywhere there it starts afresh."""
    limits = plan.limits
    begin(problem, plan, state)
    for end in sorted({x for x in (*problem.t, *limits.jumps) if state.t < x <= limits.end}):
        fixed = padded(
            fixed_of(problem, plan, loop.leaves, torch.tensor([end]), limits._first(state.t), limits._last(end)),
            len(limits.stops),
        )
        asks = 1 + int(math.isnan(state.dt))
        for part in loop.march(carry_of(problem, plan, loop.leaves, state, None), fixed, asks=asks):
            before = state.attempted
            read_back(problem, plan, loop.leaves, state, part.end)
            unseen = torch.zeros(part.steps, dtype=torch.bool)
            count(loop.field, evaluations(loop.form, state.attempted - before, unseen, state.t < end))
        if state.status not in (Status.RUNNING, Status.SUCCESS):
            return
        state.history, state.ready, state.slope = (), False, None
        yield None


def padded(fixed: Fixed, landings: int) -> Fixed:
    """With room for so many landings: another number of them is another shape."""
    room = torch.full((max(0, landings - fixed.landings.shape[-1]),), torch.inf, dtype=torch.float64)
    return fixed._replace(landings=torch.cat([fixed.landings, room.to(fixed.landings.device)], dim=-1))
