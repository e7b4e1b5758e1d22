"""The steps of Adams methods in a compiled loop: the past goes round in it, and the first steps are a Runge-Kutta method's.

The interpolant of a step is written down as the coefficients of its polynomial, because the weights of the slopes change with the
sizes of the steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...methods.adams import ExplicitAdams, ImplicitAdams
from ...methods.tableau import Tableau, hermite
from .converging import Converged
from .explicit import advanced, explicit_stages
from .pure import Pure
from .step import MISSED, Fixed, Form, Opening, Stages, State, slope_at_end, slopes


@dataclass(frozen=True)
class Formula:
    """An Adams method, as the tableau of a form.

    Attributes:
        past: slopes that it knows at the start of a step, with that at the start.
        corrections: evaluations at the end of the step; 0: it is explicit.
        powers: of the polynomial that a step leaves.
        starter: takes the first steps.
        converged: says when to stop correcting; None: nobody does.
    """

    past: int
    corrections: int
    powers: int
    starter: Tableau
    converged: Converged | None = None

    b_err = None

    @property
    def b(self) -> tuple[float, ...]:
        """The polynomial's value at its end."""
        return (1.0,) * self.powers


def formula_of(method: ExplicitAdams | ImplicitAdams) -> Formula:
    starter = method.starter.tableau
    implicit = isinstance(method, ImplicitAdams)
    past = method.order - 1 if implicit else method.order
    opens = len((starter.dense or hermite(starter)).weights) if past > 1 else 0
    return Formula(past, method.corrections if implicit else 0, max(method.order, opens), starter)  # type: ignore[union-attr]


def opening_of(formula: Formula) -> Opening | None:
    starter = formula.starter
    extra = (starter.dense or hermite(starter)).c
    return Opening(opening_stages, len(starter.a) - 1 + len(extra)) if formula.past > 1 else None


def tables_of(method: ExplicitAdams | ImplicitAdams, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, ...]:
    """The interpolant of the starter, ``[P, S]``, in double precision; a constant of the loop's body would not compile."""
    formula = formula_of(method)
    if formula.past == 1:
        return ()
    dense = formula.starter.dense or hermite(formula.starter)
    weights = torch.tensor([[float(x) for x in row] for row in dense.weights], dtype=torch.float64, device=device)
    return (torch.nn.functional.pad(weights, (0, 0, 0, formula.powers - len(weights))),)


def coefficients(formula: Formula, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The interpolant's weights: what is written down are its coefficients."""
    return torch.eye(formula.powers, dtype=dtype, device=device)


def opening_stages(
    form: Form, pure: Pure, fixed: Fixed, held: State, t1: Tensor, h: Tensor, ys: State, ks: State, rests: bool = False,
    past: State = (),
) -> Stages:  # fmt: skip
    """A step of the starter."""
    formula: Formula = form.tableau
    starter = replace(form, tableau=formula.starter, looks_inside=True, lead=0)
    step = explicit_stages(starter, pure, fixed, held, t1, h, ys, ks, rests)
    slope = slope_at_end(starter, pure, fixed, held, t1, step.end, step.slopes)
    (weights,) = fixed.tables
    lines = [torch.stack([k[i] for k in step.slopes]) for i in range(len(ys))]
    return Stages(
        [ks, *by_power([mixed(weights, x) for x in lines])], step.end, slope=slope, past=moved_on(past, ks, t1 - h)
    )


def adams_stages(
    form: Form, pure: Pure, fixed: Fixed, held: State, t1: Tensor, h: Tensor, ys: State, ks: State, rests: bool = False,
    past: State = (),
) -> Stages:  # fmt: skip
    """A step that ends at ``t1``, from the slope at its start and those of the past."""
    formula: Formula = form.tableau
    lines = [k.unsqueeze(0) for k in ks]
    nodes = torch.zeros_like(h).unsqueeze(0)
    if past:
        lines = [torch.cat((k, x)) for k, x in zip(lines, past)]
        nodes = torch.cat((nodes, (past[-1] - (t1 - h)) / h))
    weights = integrals(nodes, formula.past)

    def end(weights: Tensor, lines: Sequence[Tensor]) -> State:
        total = weights.sum(0, keepdim=True)
        return tuple(advanced(h, y, mixed(total, x)[0], rests) for y, x in zip(ys, lines))

    known, y1 = lines, end(weights, lines)
    if formula.corrections:
        weights = integrals(torch.cat((torch.ones_like(nodes[:1]), nodes)), formula.past + 1)
    done, asked = None, None
    for i in range(formula.corrections):
        newest = slopes(form, pure, fixed, held, t1, y1)
        better = [torch.cat((k.unsqueeze(0), x)) for k, x in zip(newest, known)]
        old, y1 = y1, end(weights, better)
        if done is not None:  # a correction too many, which costs less than a loop inside of the loop
            y1 = tuple(torch.where(done, x, y) for x, y in zip(old, y1))
            better = [torch.where(done, x, y) for x, y in zip(lines, better)]
        lines = better
        if formula.converged is not None:
            last = formula.converged(old, y1, i, held)
            asked = torch.ones_like(last, dtype=torch.int64) if done is None or asked is None else asked + ~done
            done = last if done is None else done | last
    if done is not None and asked is not None:
        asked = (asked + MISSED * ~done) * (h > 0)
    weights = torch.nn.functional.pad(weights, (0, 0, 0, formula.powers - len(weights)))
    found = by_power([mixed(weights, x) for x in lines])
    return Stages([ks, *found], y1, asked=asked, past=moved_on(past, ks, t1 - h))


def integrals(nodes: Tensor, count: int) -> Tensor:
    """``W [P, P]``: ``sum_p theta^p sum_j W[p - 1, j] k_j`` integrates the polynomial through slopes at these ``nodes [P]``."""
    numbers = torch.arange(count, device=nodes.device)
    gaps = nodes.unsqueeze(1) - nodes
    columns = torch.where(numbers.unsqueeze(1) == 0, 1.0, torch.zeros_like(gaps))
    for i in range(count):  # multiply every column but the i-th by (x - node)
        shifted = torch.cat((torch.zeros_like(columns[:1]), columns[:-1]))
        columns = torch.where(numbers == i, columns, shifted - nodes[i] * columns)
    scale = torch.where(gaps == 0, 1.0, gaps).prod(1)
    return columns / scale / (numbers + 1).unsqueeze(1)


def mixed(weights: Tensor, lines: Tensor) -> Tensor:
    """``weights @ lines``, for ``[P, S]`` and ``[S, ...]``: large weights may cancel, so that it is done in double precision."""
    wide = weights.reshape(*weights.shape, *[1] * (lines.dim() - 1))
    return (wide * lines.to(weights.dtype)).sum(1).to(lines.dtype)


def by_power(coefficients: Sequence[Tensor]) -> list[State]:
    """By power, then by tensor."""
    return [tuple(rows) for rows in zip(*(x.unbind(0) for x in coefficients))]


def moved_on(past: State, ks: State, t: Tensor) -> State:
    """The past of the next step: with the slope at the start of this one."""
    newest = [*ks, t] if past else []
    return tuple(torch.cat((x.unsqueeze(0), old[:-1])) for x, old in zip(newest, past))
