"""The gradient of a compiled solve: the calls of its loop, gone through backwards in compiled calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...errors import GradientError
from ...problem import Problem
from .backward import Adjoint, Backward, Given, make_backward, nothing_behind
from .compile import compiled
from .counting import count, evaluations
from .march import Loop, Part, Written, written
from .outputs import Found, at
from .program import Record


class Outcome:
    """What is differentiated of a solve: outputs ``values [M, D]`` and last states ``end [1, B * D]``, which have no graph yet,
    and, of a single row, starts ``y0 [N, D]`` and slopes ``k [N, S, D]`` of steps that somebody looks into later.

    Args:
        problem, loop: of the solve.
        parts: the calls of the loop.
        found: the outputs in each of them.
        looked: which of their steps were looked into.
        end: the last states.
        weights: of the interpolant.
        pieces: numbers of the steps in each of the parts of which starts and slopes are wanted; None: none.
    """

    def __init__(
        self,
        problem: Problem,
        loop: Loop,
        parts: list[Part],
        found: list[Found | None],
        looked: list[list[bool]],
        end: Tensor,
        weights: Tensor,
        pieces: list[Tensor] | None = None,
    ):
        self.problem, self.loop, self.parts, self.found, self.looked = problem, loop, parts, found, looked
        self.pieces = [torch.zeros(0, dtype=torch.int64)] * len(parts) if pieces is None else pieces
        rows = [(new.y0[i, 0], new.k[i, :, 0]) for i, new in zip(self.pieces, self._written()) if new is not None]
        empty = end.new_zeros(0, end.shape[-1]), end.new_zeros(0, 0, end.shape[-1])
        self.y0, self.k = (torch.cat(x) for x in zip(*rows)) if rows else empty
        self.values = torch.cat([end.reshape(problem.layout.rows, -1)[:0], *(x.values for x in found if x is not None)])
        self.end, self.weights = end, weights
        self.held = loop.seen.held
        self.wanted = tuple(i for i, x in enumerate(self.held) if x.requires_grad)
        self.counters: dict[str, Any] = {"replayed": 0}

    def _written(self) -> list[Written | None]:
        """What the parts wrote down, where it is wanted."""
        return [written(self.loop, part) if len(i) else None for i, part in zip(self.pieces, self.parts)]

    def attached(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Values, end, starts and slopes with their gradient."""
        return Solved.apply(self, self.problem.y0, *(self.held[i] for i in self.wanted))

    def backward(
        self, at_values: Tensor, at_end: Tensor, at_y0: Tensor, at_k: Tensor, held: Sequence[Tensor]
    ) -> list[Tensor]:
        """Derivatives by ``y0`` and the wanted tensors, from those by values, end, starts and slopes."""
        leaves = self.loop.leaves
        ys = leaves.of(at_end)
        adjoint = nothing_behind(self.loop.form, ys, [held[i] for i in self.wanted])
        goes_on = False
        rest = at_values.split([0 if x is None else len(x.t) for x in self.found])
        lengths = [len(i) for i in self.pieces]
        at_pieces = list(zip(self.pieces, at_y0.split(lengths), at_k.split(lengths)))
        for part, found, looked, cotangent, pieces in reversed(
            list(zip(self.parts, self.found, self.looked, rest, at_pieces))
        ):
            taken = evaluations(self.loop.form, part.steps, looked, goes_on, part.opened) + part.restarts
            goes_on = not part.restarts
            self.counters["replayed"] += taken
            count(self.problem.field, taken)
            adjoint = self.through(part, found, cotangent, pieces, adjoint, held)
        return [leaves.rows(adjoint.ys).reshape(1, -1), *adjoint.held]

    def through(
        self,
        part: Part,
        found: Found | None,
        cotangent: Tensor,
        pieces: tuple[Tensor, Tensor, Tensor],
        behind: Adjoint,
        held: Sequence[Tensor],
    ) -> Adjoint:
        """From behind one call of the loop to before it."""
        given = None
        if (found is not None and len(found.t)) or len(pieces[0]):
            new = written(self.loop, part)
            at_y0, at_y1, at_k = by_steps(new, found, self.weights, cotangent)
            slots, at_start, at_slopes = pieces
            if len(slots):
                at_y0[slots, 0] += at_start
                at_k[slots, :, 0] += at_slopes
            at_y0[1:] += at_y1[:-1]
            last = self.loop.leaves.of(at_y1[-1])
            behind = behind._replace(ys=tuple(a + b for a, b in zip(behind.ys, last)))
            given = filled(self.loop, part.record, at_y0, at_k)
        way = torch.tensor([part.steps, part.restarts])
        return self.program()(way, behind, given, part.record, part.fixed, held)

    def program(self) -> Backward:
        programs, key = self.loop.seen.pure.programs, ("backward", self.loop.form, self.wanted)
        if key not in programs:
            pure = self.loop.seen.pure
            backward = make_backward(self.loop.form, pure, self.wanted)
            programs[key] = compiled(backward, "gradient", pure.name, key, pure.codes)
        return programs[key]


class Solved(torch.autograd.Function):
    """Puts the backward pass of a solve into the graph: values in, the same values out."""

    @staticmethod
    def forward(ctx: Any, outcome: Outcome, y0: Tensor, *wanted: Tensor) -> tuple[Tensor, ...]:
        ctx.outcome = outcome
        ctx.save_for_backward(*outcome.held)
        return outcome.values, outcome.end, outcome.y0, outcome.k

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Any, ...]:
        if torch.is_grad_enabled():
            raise GradientError(
                "The gradient of a compiled solve has no derivative (create_graph=True). Write runner='eager', where "
                "gradient='discrete' and 'direct' have all of them."
            )
        return (None, *ctx.outcome.backward(*cotangents, ctx.saved_tensors))


def by_steps(new: Written, found: Found | None, weights: Tensor, cotangent: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Derivatives by the steps' starts, ends and slopes, from those by outputs in them."""
    if found is None or not len(found.t):
        return torch.zeros_like(new.y0), torch.zeros_like(new.y1), torch.zeros_like(new.k)
    y0, y1, k = (x.detach().requires_grad_() for x in (new.y0, new.y1, new.k))
    with torch.enable_grad():
        values = at(new._replace(y0=y0, y1=y1, k=k), found.rows, found.slots, found.t, weights)
    at_y0, at_y1, at_k = torch.autograd.grad(values, (y0, y1, k), cotangent, allow_unused=True, materialize_grads=True)
    return at_y0, at_y1, at_k


def filled(loop: Loop, record: Record, at_y0: Tensor, at_k: Tensor) -> Given:
    """Derivatives by rows in the form of the record; zero in the slots that were not used."""

    def spread(like: Sequence[Tensor], rows: Tensor, lead: int) -> tuple[Tensor, ...]:
        out = tuple(torch.zeros_like(x) for x in like)
        for x, part in zip(out, loop.leaves.of(rows, lead)):
            (x[: len(rows), loop.form.lead :] if lead == 2 else x[: len(rows)]).copy_(part)
        return out

    return Given(spread(record.ys, at_y0, 1), spread(record.ks, at_k, 2))
