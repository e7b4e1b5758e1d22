"""What attempted steps of all rows are made of, as pure functions of tensors (``attempt`` puts them together).

A state is a list of tensors of the shapes the user knows, ``[*batch, ...]``; times, sizes and verdicts are ``[*batch]``
(0-d for one state). Coefficients are Python floats, so that they stand in the machine code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...controllers import Controller
from ...methods.tableau import DenseOutput, Number, Tableau, hermite
from ...per_sample.loop import CODES
from ...solution import Status
from .pure import Pure

State = Sequence[Tensor]
NormOf = Callable[[Tensor, State, State], tuple[Tensor, ...]]
"""``(size,) = norm(times, scaled error, tensors that it holds)``; hashable."""
ALL, TIMES, MISSED = 1_000, -1, 2**40
SUCCESS, MAX_STEPS, STEP_TOO_SMALL, NONFINITE, NEWTON_FAILED = (
    CODES.index(s)
    for s in (
        Status.SUCCESS, Status.MAX_STEPS, Status.STEP_TOO_SMALL, Status.NONFINITE_SLOPE, Status.NEWTON_FAILED,
    )
)  # fmt: skip


class Stages(NamedTuple):
    """What a family of methods makes of an attempted step.

    Attributes:
        slopes: by stage, then by tensor: first that at the start, last those that only the interpolant needs.
        end: the state at the end.
        error: its estimate; None: the tableau says how to weigh the slopes.
        solved: the rows ``[*batch]`` whose equations were solved; None: there are none.
        asked: evaluations of ``f`` nobody could foresee, 0-d, and ``MISSED`` where they did not suffice; None: there are none.
        slope: what the next step begins with; None: the slope at the end.
        past: as in ``Carry``, of the next step; ``keep``: of the next attempt.
        again: the rows ``[*batch]`` that try the same step again (see ``Step.again``); None: there are none.
    """

    slopes: list[State]
    end: State
    error: State | None = None
    solved: Tensor | None = None
    asked: Tensor | None = None
    slope: State | None = None
    past: State = ()
    keep: State = ()
    again: Tensor | None = None


class Part(NamedTuple):
    """One of the tableaux that make up that of a form.

    Attributes:
        first, last: its stages, ``first <= s < last``.
        gamma: its diagonal.
        reach: its last node.
        fsal: its last stage is the slope at the end.
    """

    first: int
    last: int
    gamma: float
    reach: float
    fsal: bool


@dataclass(frozen=True)
class Opening:
    """The first steps of a method that needs a past: those of another one, until the past is long enough.

    Attributes:
        stages: takes a step, as that of a ``Form``; ``asks``: evaluations of ``f`` in it, with that of the slope at its end.
    """

    stages: Callable[..., Stages]
    asks: int


@dataclass(frozen=True)
class Form:
    """What a compiled loop is made for; everything else are its arguments.

    Attributes:
        stages: takes a step, as ``explicit_stages`` does; ``back`` goes through it backwards, as ``diagonal_back`` does (None:
            torch does).
        tableau, controller, error_order: as in ``Plan``.
        dtypes: of the state's tensors as ``f`` sees them; ``time_dtype`` of the time as ``f`` sees it.
        by_rows: rows have steps of their own; ``couple``: but take the same ones.
        norm: ``rms``, ``max``, or another one as it was traced.
        looks_inside: the interpolant's extra stages are wanted.
        slopes: how many slopes of every step are written down, too: none, the first (where a backward pass begins a step), or
            all of them (``ALL``); or not even the states (``TIMES``).
        slots: how many accepted steps are written down before the loop comes back; 0: none are.
        unroll: attempts in one turn of the loop.
        small: a state has so few numbers that handling tensors takes longer than computing.
        starts: the loop finds its first slopes and step sizes itself; ``turned``: time runs backwards (of some rows).
        lead: so many slopes come before those of the stages (that at the start, where it is none of them).
        parts: of an implicit method: a step goes by one of them (see ``diagonal.joined``).
        smoothed: the error estimate goes through the matrix of the step.
        jacobian: how it is found (see ``jacobians``).
        asks: evaluations of ``f`` in an attempt, but for those in iterations and for the slope at its end.
        past: lines of the past that the method carries (see ``Carry``); ``opening``: its first steps, where these have to become
            known.
        hands_on: a step says itself what the next one begins with.
        of_q: so many tensors make up ``q`` in a state ``(q, p)``, for a method that needs one.
        onto: the projection onto a manifold; ``within``: makes of ``Fixed`` that of a step, as ``just_inside`` does.
        inside: the slopes that only the interpolant needs, and the evaluations of ``f`` that they take; none where nobody looks.
        keeps: a matrix is carried from attempt to attempt (see ``kept``).
        undo: computes where a step began from where it ends, as ``heun_undone`` does (None: nobody can).
    """

    stages: Callable[..., Stages]
    tableau: Any
    controller: Controller
    error_order: int
    dtypes: tuple[torch.dtype, ...]
    time_dtype: torch.dtype
    by_rows: bool
    couple: bool
    norm: str | NormOf
    looks_inside: bool
    slopes: int
    slots: int
    unroll: int
    starts: bool
    turned: bool
    lead: int = 0
    parts: tuple[Part, ...] = ()
    smoothed: bool = False
    jacobian: Any = None
    small: bool = False
    back: Callable[..., Any] | None = None
    asks: int = 0
    past: int = 0
    opening: Opening | None = None
    hands_on: bool = False
    of_q: int = 0
    onto: Any = None
    inside: tuple[int, int] = (0, 0)
    undo: Callable[..., Where] | None = None
    within: Callable[..., Fixed] | None = None
    keeps: bool = False


class Where(NamedTuple):
    """Where rows stand between two steps: state, slope (or what the method has instead) and past, as in ``Carry``."""

    ys: tuple[Tensor, ...]
    ks: tuple[Tensor, ...]
    past: tuple[Tensor, ...] = ()


class Fixed(NamedTuple):
    """What does not change in the loop.

    Attributes:
        bounds: of every row, float64 ``[4, *batch]``: ``first``, ``last`` (the times between which ``f`` may be asked), ``sign``
            (-1 where the user's time decreases), ``max_steps``.
        landings: times to land on, the end first, then the others in order, padded with inf, ``[*batch, L]``.
        rtol, atol: of every tensor of the state; they broadcast to it.
        weights: the tensors that a traced norm holds.
        tables: coefficients of the method that are data.
        walls: the landings that no node may lie behind, where these are not all of them, ``[*batch, L']``.
        least: the loop comes back when no more rows than so many are running, where that is wanted, 0-d.
    """

    bounds: Tensor
    landings: Tensor
    rtol: tuple[Tensor, ...]
    atol: tuple[Tensor, ...]
    weights: tuple[Tensor, ...] = ()
    tables: tuple[Tensor, ...] = ()
    walls: tuple[Tensor, ...] = ()
    least: tuple[Tensor, ...] = ()

    @property
    def first(self) -> Tensor:
        return self.bounds[0]

    @property
    def last(self) -> Tensor:
        return self.bounds[1]

    @property
    def sign(self) -> Tensor:
        return self.bounds[2]

    @property
    def max_steps(self) -> Tensor:
        return self.bounds[3]

    @property
    def end(self) -> Tensor:
        return self.landings[..., 0]

    def ahead(self, t: Tensor) -> Tensor:
        """The next time to land on, ``[*batch]``."""
        return torch.where(self.landings > t.unsqueeze(-1), self.landings, torch.inf).amin(-1)


class Carry(NamedTuple):
    """Where the loop stands; numbers lie together, because every tensor that a loop carries costs time in every turn.

    Attributes:
        totals: of all rows together, int64 ``[6]``: ``go`` (the loop goes on), ``tries`` (attempts), ``slot`` (how many are
            written down), ``until`` (the attempts that a call makes), ``fresh`` (the slopes ``ks`` are yet to be asked for),
            ``asked`` (evaluations of ``f`` in iterations).
        rows: of every row, float64 ``[5 + M, *batch]``: ``t``, ``dt`` (nan: as Hairer says), ``code`` (status, a number in
            ``CODES``), ``attempted`` and ``accepted`` steps, and the ``memory`` of the controller.
        ys, ks: state and slope at ``t``.
        past: what a method carries besides, ``M`` lines ``[M, *batch, ...]`` for every tensor of the state; behind them, where
            there is an opening, the times of the lines ``[M, *batch]`` (nan: not known yet). Before the first step the lines
            hold the state.
        keep: a matrix and what it came from, of a method that keeps one (see ``kept.Keep``).
    """

    totals: Tensor
    rows: Tensor
    ys: tuple[Tensor, ...]
    ks: tuple[Tensor, ...]
    past: tuple[Tensor, ...] = ()
    keep: tuple[Tensor, ...] = ()

    @property
    def go(self) -> Tensor:
        return self.totals[0] != 0

    @property
    def tries(self) -> Tensor:
        return self.totals[1]

    @property
    def slot(self) -> Tensor:
        return self.totals[2]

    @property
    def until(self) -> Tensor:
        return self.totals[3]

    @property
    def fresh(self) -> Tensor:
        return self.totals[4] != 0

    @property
    def asked(self) -> Tensor:
        return self.totals[5]

    @property
    def t(self) -> Tensor:
        return self.rows[0]

    @property
    def dt(self) -> Tensor:
        return self.rows[1]

    @property
    def code(self) -> Tensor:
        return self.rows[2]

    @property
    def attempted(self) -> Tensor:
        return self.rows[3]

    @property
    def accepted(self) -> Tensor:
        return self.rows[4]

    @property
    def memory(self) -> tuple[Tensor, ...]:
        return tuple(self.rows[5:].unbind(0))


def in_totals(*numbers: Any) -> Tensor:
    """``Carry.totals`` from 0-d tensors."""
    return torch.stack([x.to(torch.int64) for x in numbers])


def in_rows(*numbers: Tensor) -> Tensor:
    """``Carry.rows`` from tensors ``[*batch]``."""
    return torch.stack([x.to(torch.float64) for x in numbers])


class Taken(NamedTuple):
    """An attempt, as it is written down: who took it, from where to where, with which slopes (by stage, then by tensor), past
    and marks (see ``kept.Keep``)."""

    accepted: Tensor
    t: Tensor
    t1: Tensor
    ys: State
    stages: list[State]
    past: State
    keep: State


def wide(x: Tensor, y: Tensor) -> Tensor:
    """A number for each row ``[*batch]`` in the shape and (booleans excepted) dtype of the rows' state ``[*batch, ...]``."""
    x = x if x.dtype == torch.bool else x.to(y.dtype)
    return x.reshape(x.shape + (1,) * (y.dim() - x.dim()))


def weighted(weights: Sequence[Number], terms: Sequence[Tensor]) -> Tensor:
    """The sum of the terms times their weights."""
    parts = [term * float(w) for w, term in zip(weights, terms) if w != 0]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def extra_stages(form: Form) -> tuple[tuple[float, ...], tuple[tuple[float, ...], ...]]:
    """Nodes and rows of the stages that only the interpolant needs."""
    dense = dense_of(form.tableau)
    if not form.looks_inside or dense is None:
        return (), ()
    return tuple(map(float, dense.c)), tuple(tuple(map(float, row)) for row in dense.a)


def dense_of(tableau: Any) -> DenseOutput | None:
    """The interpolant of a Runge-Kutta method (or of one that is made of it); None: of another method."""
    while hasattr(tableau, "base"):
        tableau = tableau.base
    return (tableau.dense or hermite(tableau)) if isinstance(tableau, Tableau) else None


def stages_inside(tableau: Any) -> tuple[int, int]:
    """As in ``Form.inside``, for Runge-Kutta methods."""
    dense = dense_of(tableau)
    count = 0 if dense is None else len(dense.c)
    return count, count


def stage_count(form: Form) -> int:
    """How many slopes a step has, those for its interpolant included."""
    return form.lead + len(form.tableau.b) + form.inside[0]


def slopes_written(form: Form) -> int:
    """How many of them are written down."""
    return max(0, min(form.slopes, stage_count(form)))


def slopes(form: Form, pure: Pure, fixed: Fixed, held: State, t: Tensor, ys: State) -> tuple[Tensor, ...]:
    """``f`` at times inside the library, in working precision."""
    return asked_at(form, pure, fixed, held, limited(fixed, t), ys)


def limited(fixed: Fixed, t: Tensor) -> Tensor:
    """The time at which ``f`` may be asked instead of ``t``."""
    return torch.minimum(torch.maximum(t, fixed.first), fixed.last)


def asked_at(form: Form, pure: Pure, fixed: Fixed, held: State, t: Tensor, ys: State) -> tuple[Tensor, ...]:
    """``f`` at this very time."""
    t = t * fixed.sign if form.turned else t
    out = pure(t.to(form.time_dtype), [y.to(dtype) for y, dtype in zip(ys, form.dtypes)], held)
    return tuple((k.to(y.dtype) * wide(fixed.sign, y)) if form.turned else k.to(y.dtype) for k, y in zip(out, ys))


def next_slope(form: Form, pure: Pure, fixed: Fixed, held: State, t1: Tensor, step: Stages) -> State:
    """What the step after this one begins with."""
    return step.slope or slope_at_end(form, pure, fixed, held, t1, step.end, step.slopes)


def slope_at_end(form: Form, pure: Pure, fixed: Fixed, held: State, t1: Tensor, y1: State, found: list[State]) -> State:
    """One of the slopes found, if one is there."""
    places = at_end(form, form.looks_inside)
    if not places:
        return slopes(form, pure, fixed, held, t1, y1)
    return tuple(weighted([1.0] * len(places), [found[i][j] for i in places]) for j in range(len(y1)))


def at_end(form: Form, looked: bool) -> tuple[int, ...]:
    """Which of the slopes that a step finds is that at its end, if one is; of two tableaux, their sum (one of them is zero).

    Args:
        looked: those of its interpolant are there.
    """
    if not isinstance(form.tableau, Tableau):
        return getattr(form.tableau, "at_end", ()) if looked or getattr(form.tableau, "fsal", False) else ()
    if form.parts and all(part.fsal for part in form.parts):
        return tuple(part.last - 1 for part in form.parts)
    if form.tableau.fsal:
        return (len(form.tableau.b) - 1,)
    if not looked:
        return ()
    extra = (form.tableau.dense or hermite(form.tableau)).end_slope(form.tableau.b)
    return () if extra is None else (len(form.tableau.b) + extra,)


def smallest_step(t: Tensor) -> Tensor:
    """Steps that still move the time."""
    size = t.abs()
    return 4 * ((size.view(torch.int64) + 1).view(torch.float64) - size)  # the next number has the next bits


def chosen(rows: Tensor, new: State, old: State) -> tuple[Tensor, ...]:
    """``new`` in these rows, ``old`` in the others."""
    return tuple(torch.where(wide(rows, x), x, y) for x, y in zip(new, old))
