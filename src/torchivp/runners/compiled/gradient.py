"""The gradient of a compiled solve: the calls of its loop, gone through backwards in compiled calls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...autocast import without_autocast
from ...errors import GradientError
from ...problem import Problem
from .backward import Adjoint, Backward, Given, make_backward, nothing_behind
from .compile import program_of
from .counting import count, evaluations
from .march import Loop, Part, Written, written
from .outputs import Found, at
from .path import Path, Pieces
from .step import State, slopes_written
from .times import columns_of


class Outcome:
    """What is differentiated of a solve: outputs ``values [M, D]``, last states ``end [1, B * D]``, and starts ``y0 [N, B, D]``
    and slopes ``k [N, S, B, D]`` of steps that somebody looks into later; they have no graph yet.

    Args:
        problem, loop: of the solve.
        path: the calls of the loop.
        end: the last states.
        weights: of the interpolant.
    """

    def __init__(self, problem: Problem, loop: Loop, path: Path, end: Tensor, weights: Tensor):
        self.problem, self.loop, self.path, self.weights = problem, loop, path, weights
        pieces = [(p.y0, p.k) for p in path.pieces if p is not None]
        y0, k = (torch.cat(x) for x in zip(*pieces)) if pieces else (end[:0], end[:0].reshape(0, 0, 1))
        rows = end.reshape(problem.layout.rows, -1)
        values = torch.cat([rows[:0], *(x.values for x in path.found if x is not None)])
        self.results: tuple[Tensor, ...] = values, end, y0, k
        self.held = loop.seen.held
        self.wanted = tuple(i for i, x in enumerate(self.held) if x.requires_grad)
        self.times: tuple[Tensor, ...] = () if problem.clock.times is None else (problem.clock.times,)
        self.counters: dict[str, Any] = {"replayed": 0}

    def attached(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Values, end, starts and slopes with their gradient."""
        return Solved.apply(self, self.problem.y0, *self.times, *(self.held[i] for i in self.wanted))

    @without_autocast
    def backward(
        self, at_values: Tensor, at_end: Tensor, at_y0: Tensor, at_k: Tensor, held: Sequence[Tensor]
    ) -> list[Tensor]:
        """Derivatives by ``y0``, times and the wanted tensors, from those by values, end, starts and slopes."""
        leaves, path, batch = self.loop.leaves, self.path, self.problem.layout.batch
        none = [at_end.new_zeros(*batch, x.shape[-1] + 1, dtype=torch.float64) for x in self.times]
        behind = nothing_behind(self.loop.form, leaves.of(at_end), [held[i] for i in self.wanted], none)
        at, goes_on = None, False
        cotangents = at_values.split([0 if x is None else len(x.t) for x in path.found])
        lengths = [0 if p is None else len(p.slots) for p in path.pieces]
        at_pieces = list(zip(at_y0.split(lengths), at_k.split(lengths)))
        for number, part in zip(reversed(range(len(path.parts))), self.rewound(held)):
            taken = self.asked(number, goes_on)
            goes_on = not part.restarts
            self.counters["replayed"] += taken
            count(self.problem.field, taken)
            pieces = path.pieces[number]
            if pieces is not None:
                pieces = Pieces(pieces.slots, *at_pieces[number])
            at, behind = self.through(number, part, cotangents[number], pieces, at, behind, held)
        by_times = (x[..., :-1].reshape(t.shape).to(t) for x, t in zip(behind.times, self.times))
        return [leaves.rows(behind.ys).reshape(1, -1), *by_times, *behind.held]

    def rewound(self, held: Sequence[Tensor]) -> Iterator[Part]:
        """The calls with what is to be known of them, last first."""
        return reversed(self.path.parts)

    def asked(self, number: int, goes_on: bool) -> int:
        """Evaluations of ``f`` on the way back through a call.

        Args:
            number: of the call; ``goes_on``: another one begins with the slope at its end.
        """
        part = self.path.parts[number]
        looked = self.path.looked[number]
        return evaluations(self.loop.form, len(looked), looked, goes_on, part.opened) + part.restarts

    def through(
        self,
        number: int,
        part: Part,
        cotangent: Tensor,
        pieces: Pieces | None,
        at: Any,
        behind: Adjoint,
        held: Sequence[Tensor],
    ) -> tuple[Any, Adjoint]:
        """From behind one call of the loop to before it.

        Args:
            number: of the call ``part``.
            cotangent, pieces: derivatives by its outputs, and by the steps in it that somebody looks into.
            at: where the next call began, if the steps are undone; ``behind``: derivatives there.
        """
        given, behind = self.given(number, part, cotangent, pieces, behind)
        return at, self.program()(self.way(part), behind, given, part.record, part.fixed, held, self.columns(part))

    def way(self, part: Part) -> Tensor:
        return torch.tensor([part.steps, part.restarts])

    def given(
        self, number: int, part: Part, cotangent: Tensor, pieces: Pieces | None, behind: Adjoint
    ) -> tuple[Given | None, Adjoint]:
        """Derivatives by what the call wrote down, if there are any, and by its end."""
        found = self.path.found[number]
        if (found is None or not len(found.t)) and pieces is None:
            return None, behind
        new = written(self.loop, part) if self.times else self.like(part)
        by = by_steps(new, found, self.weights, cotangent, bool(self.times))
        if pieces is not None:
            by.y0[pieces.slots] += pieces.y0
            by.k[pieces.slots] += pieces.k
        by.y0[1:] += by.y1[:-1]
        last = self.loop.leaves.of(by.y1[-1])
        behind = behind._replace(
            ys=tuple(a + b for a, b in zip(behind.ys, last)), times=self.moved(behind, new, found, by)
        )
        return filled(self.loop, len(part.record.t), behind.ys, by.y0, by.k), behind

    def moved(self, behind: Adjoint, new: Written, found: Found | None, by: BySteps) -> tuple[Tensor, ...]:
        """Derivatives by the user's times, with those of outputs between steps."""
        out = []
        for total in behind.times:
            columns, rows = total.shape[-1], torch.arange(new.t.shape[1], device=total.device)
            places = [(rows.expand_as(t), columns_of(self.problem.clock, t)) for t in (new.t, new.t1)]
            if found is not None:  # the first of the user's times is the start
                places.append((found.rows, (found.columns + 1).clamp(max=columns - 1)))
            flat = total.reshape(-1, columns)
            for place, amount in zip(places, by.times):
                flat = flat.index_put(place, amount, accumulate=True)
            out.append(flat.reshape(total.shape))
        return tuple(out)

    def columns(self, part: Part) -> tuple[Tensor, ...]:
        """The user's times that starts and ends of the steps move with, if their gradients are wanted, ``[slots, *batch]``."""
        clock, record, n = self.problem.clock, part.record, part.steps
        out = []
        for t in (record.t, record.t1) if self.times else ():
            column = torch.zeros_like(t, dtype=torch.int64)
            column[:n] = columns_of(clock, t[:n].reshape(n, -1)).reshape(t[:n].shape)
            out.append(column)
        return tuple(out)

    def like(self, part: Part) -> Written:
        """What a call wrote down, but with zeros for states and slopes: outputs depend on them linearly."""
        form, (rows, width) = self.loop.form, (self.problem.layout.rows, self.problem.layout.width)
        times, n = part.record.first(part.steps), part.steps
        stages = max(0, slopes_written(form) - form.lead)
        y, k = (self.weights.new_zeros(1).expand(n, *s, rows, width) for s in ((), (stages,)))
        return Written(
            times.accepted.reshape(n, rows), times.tries, times.t.reshape(n, rows), times.t1.reshape(n, rows), y, y, k
        )  # fmt: skip

    def program(self) -> Backward:
        pure, form = self.loop.seen.pure, self.loop.form
        key = ("backward", form, self.wanted, bool(self.times))
        program: Backward = program_of(pure, key, "gradient", lambda: make_backward(form, pure, self.wanted))
        return program


class Solved(torch.autograd.Function):
    """Puts the backward pass of a solve into the graph: values in, the same values out."""

    @staticmethod
    def forward(ctx: Any, outcome: Outcome, *inputs: Tensor) -> tuple[Tensor, ...]:
        ctx.outcome = outcome
        ctx.save_for_backward(*outcome.held)
        results, outcome.results = outcome.results, ()  # which hold it
        return results

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Any, ...]:
        if torch.is_grad_enabled():
            raise GradientError(
                "The gradient of a compiled solve has no derivative (create_graph=True). Write runner='eager', where "
                "gradient='discrete' and 'direct' have all of them."
            )
        return (None, *ctx.outcome.backward(*cotangents, ctx.saved_tensors))


class BySteps(NamedTuple):
    """Derivatives by what outputs depend on: starts, ends and slopes of the steps, and, where they are wanted, by the times of
    both ends ``[n, B]`` and of the outputs ``[M]``."""

    y0: Tensor
    y1: Tensor
    k: Tensor
    times: tuple[Tensor, ...] = ()


def by_steps(new: Written, found: Found | None, weights: Tensor, cotangent: Tensor, timed: bool) -> BySteps:
    """Derivatives by the steps, from those by outputs in them."""
    if found is None or not len(found.t):
        return BySteps(torch.zeros_like(new.y0), torch.zeros_like(new.y1), torch.zeros_like(new.k))
    y0, y1, k = (x.detach().requires_grad_() for x in (new.y0, new.y1, new.k))
    t, t1, when = times = tuple(x.detach().requires_grad_(timed) for x in (new.t, new.t1, found.t))
    with torch.enable_grad():
        values = at(new._replace(y0=y0, y1=y1, k=k, t=t, t1=t1), found.rows, found.slots, when, weights)
    by = (y0, y1, k, *(times if timed else ()))
    at_y0, at_y1, at_k, *at_times = torch.autograd.grad(
        values, by, cotangent, allow_unused=True, materialize_grads=True
    )
    return BySteps(at_y0, at_y1, at_k, tuple(at_times))


def filled(loop: Loop, slots: int, like: State, at_y0: Tensor, at_k: Tensor) -> Given:
    """Derivatives by rows in the form of a record with so many slots, whose tensors are ``like`` these; zero in unused slots."""
    form, n = loop.form, len(at_y0)
    at_ys = tuple(y.new_zeros(slots, *y.shape) for y in like)
    at_ks = tuple(y.new_zeros(slots, slopes_written(form), *y.shape) for y in like if slopes_written(form))
    for x, part in zip(at_ys, loop.leaves.of(at_y0, 1)):
        x[:n].copy_(part)
    for x, part in zip(at_ks, loop.leaves.of(at_k, 2)):
        x[:n, form.lead :].copy_(part)
    return Given(at_ys, at_ks)
