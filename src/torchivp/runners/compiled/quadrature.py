"""An integral over the steps that a compiled loop wrote down, by Gauss quadrature on their polynomials: a loop over all nodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._higher_order_ops.while_loop import while_loop

from ...methods import Method
from .backward import picked
from .compile import program_of
from .counting import count
from .explicit import advanced
from .march import Loop, Part
from .program import Record
from .step import State

Quadrature = Callable[..., tuple[Tensor, ...]]
"""``quadrature(steps, totals, record, rule, held)``, see ``make_quadrature``"""
Integrand = Callable[[Tensor, State, State, Sequence[int], Tensor], tuple[Tensor, ...]]
"""``integrand(t, ys, held, places, weights)``, as ``AugmentedRows.integrand``"""


def rule_of(method: Method, interpolant: Tensor) -> Tensor:
    """A row for each node: where it lies in the step, its weight, and by which slopes the state gets there, ``[N, 2 + S]``.

    Args:
        interpolant: its weights, ``[P, S]``.
    """
    nodes, weights = (torch.from_numpy(x) for x in np.polynomial.legendre.leggauss((method.order + 1) // 2))
    theta = 0.5 * (1 + nodes)
    powers = theta.unsqueeze(1) ** torch.arange(1, len(interpolant) + 1)
    by_slope = powers @ interpolant.to(powers)
    return torch.cat([theta.unsqueeze(1), 0.5 * weights.unsqueeze(1), by_slope], dim=1).to(interpolant.device)


def make_quadrature(integrand: Integrand, places: tuple[int, ...], nodes: int, lead: int) -> Quadrature:
    """``quadrature(steps, totals, record, rule, held)``: the totals with the integrals over so many steps.

    Args:
        integrand: at times as inside the forward solve, against which those of the steps run.
        places: of the held tensors that it is integrated for.
        nodes: of the rule.
        lead: so many slopes come before those that it weighs.
    """

    def quadrature(steps: Tensor, totals: State, record: Record, rule: Tensor, held: State) -> tuple[Tensor, ...]:
        def more(i: Tensor, *totals: Tensor) -> Tensor:
            return i < steps * nodes

        def once(i: Tensor, *totals: Tensor) -> tuple[Tensor, ...]:
            taken: Record = picked(record, (i // nodes).reshape(1))
            theta, weight, *by_slope = rule.index_select(0, (i % nodes).reshape(1))[0].unbind(0)
            h = torch.where(taken.accepted, taken.t1 - taken.t, 0.0)
            ys = tuple(advanced(h, y, mixed(by_slope, k[lead:]), rests=True) for y, k in zip(taken.ys, taken.ks))
            found = integrand(-(taken.t + theta * h), ys, held, places, weight * h)
            return (i + 1, *(total + x.to(total.dtype) for total, x in zip(totals, found)))

        first = torch.zeros_like(steps)
        return tuple(while_loop(more, once, (first, *(x.clone() for x in totals)))[1:])

    return quadrature


def mixed(weights: Sequence[Tensor], slopes: Tensor) -> Tensor:
    """The sum of the slopes ``[S, *batch, ...]`` times their weights."""
    return sum(w.to(k.dtype) * k for w, k in zip(weights, slopes.unbind(0)))  # type: ignore[return-value]


class Integral:
    """The integrals for the parameters, beside a backward solve that writes down its steps.

    Args:
        loop: of the backward solve; its ``f`` has an ``integrand``.
        rule: see ``rule_of``.
        places: which of the tensors that ``f`` holds the parameters are, by their number.
        totals: of all parameters; they are replaced.
    """

    def __init__(self, loop: Loop, rule: Tensor, places: dict[int, int], totals: list[Tensor]):
        self.loop, self.rule, self.places, self.totals = loop, rule, places, totals

    def took(self, part: Part) -> None:
        """Add the integrals over the steps of a part."""
        if not (self.places and part.steps):
            return
        count(self.loop.field, part.steps * len(self.rule))
        totals = [self.totals[i] for i in self.places.values()]
        steps = torch.tensor(part.steps, device=part.end.totals.device)
        with torch.no_grad():
            found = self.program()(steps, totals, part.record, self.rule, self.loop.held)
        for i, total in zip(self.places.values(), found):
            self.totals[i] = total

    def program(self) -> Quadrature:
        pure: Any = self.loop.seen.pure
        places, nodes, form = tuple(self.places), len(self.rule), self.loop.form
        key = ("quadrature", form, places, nodes)
        program: Quadrature = program_of(
            pure, key, "gradient", lambda: make_quadrature(pure.integrand, places, nodes, form.lead)
        )
        return program
