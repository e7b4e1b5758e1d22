"""The steps of diagonally implicit methods in a compiled loop, and the way back through them.

One loop goes through the iterations of all stages, one after the other; the coefficients are data (``Fixed.tables``). So ``f``
stands in the program once, whatever the number of stages. What an iteration does is said in ``linalg.newton``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch._higher_order_ops.while_loop import while_loop

from ...linalg.newton import DIVERGES, MOST, SMALL
from ...methods.diagonal_rk import DiagonalRungeKutta, extrapolation
from ...methods.tableau import DenseOutput, Row, Tableau, hermite
from ...span import _SLACK
from .derivatives import flat, leaves_of
from .explicit import looked_inside, moved
from .jacobians import linearised
from .kept import Keep, Serving, renewed
from .program import kept
from .pure import Pure
from .step import Fixed, Form, Part, Stages, State, slope_at_end, slopes, weighted
from .systems import BandMatrix, DenseMatrix, Solve
from .tolerance import over_tolerance


def tableau_of(method: DiagonalRungeKutta) -> Tableau:
    """All stages that a step may go through, in one."""
    return method.tableau if method.at_limits is None else joined(method.tableau, method.at_limits)


@lru_cache(maxsize=64)
def joined(first: Tableau, second: Tableau) -> Tableau:
    """Both tableaux in one, whose steps go by one of them: the slopes of the other are zero. Each has an error estimate, and a
    last stage that is the slope at the end."""
    dense, other = (x.dense or hermite(x) for x in (first, second))
    left = (0,) * first.stages
    return Tableau(
        order=first.order,
        c=(*first.c, *second.c),
        a=(*first.a, *((*left, *row) for row in second.a)),
        b=(*first.b, *second.b),
        b_err=(*(first.b_err or ()), *(second.b_err or ())),
        error_order=first.error_order,
        embedded_order=first.embedded_order,
        dense=DenseOutput(dense.order, both(dense.weights, other.weights)),
    )


def both(first: Sequence[Row], second: Sequence[Row]) -> tuple[Row, ...]:
    """Rows side by side."""
    return tuple((*one, *two) for one, two in zip(first, second, strict=True))


def tables_of(method: DiagonalRungeKutta, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, ...]:
    """``a [S, S]`` left of the diagonal, ``guess [S, S]`` (the first iterate of a stage from the slopes before) and the nodes,
    counted from the end, ``[S]``."""
    tableaux = tableaux_of(method)
    stages = sum(x.stages for x in tableaux)
    a, guess = (torch.zeros(stages, stages, dtype=torch.float64) for _ in range(2))
    nodes = [float(c - 1) for x in tableaux for c in x.c]
    place = 0
    for tableau in tableaux:
        for i, coefficients in enumerate(tableau.a):
            if i:
                weights = extrapolation(tableau.c[:i], tableau.c[i])
                for table, numbers in ((a, (*coefficients, *(0,) * i)[:i]), (guess, weights)):
                    table[place + i, place : place + i] = torch.tensor(list(map(float, numbers)), dtype=torch.float64)
        place += tableau.stages
    return a.to(device, dtype), guess.to(device, dtype), torch.tensor(nodes, dtype=torch.float64, device=device)


def parts_of(method: DiagonalRungeKutta) -> tuple[Part, ...]:
    """The tableaux that a step may go by, in one behind another."""
    out, first = [], 0
    for tableau in tableaux_of(method):
        last = first + tableau.stages
        out.append(Part(first, last, float(tableau.a[1][1]), float(max(tableau.c)), tableau.fsal))
        first = last
    return tuple(out)


def tableaux_of(method: DiagonalRungeKutta) -> list[Tableau]:
    return [x for x in (method.tableau, method.at_limits) if x is not None]


class Course:
    """Which stages a step goes through, and their equations ``k = f(t, y + h (a k + gamma k_s))``.

    Args:
        t1: where the step ends, ``[*batch]``; ``h``: its size; ``ys``: the state at its start.
    """

    def __init__(self, form: Form, pure: Pure, fixed: Fixed, held: State, t1: Tensor, h: Tensor, ys: State):
        self.form, self.pure, self.fixed, self.held = form, pure, fixed, held
        self.t1, self.h, self.ys, self.batch = t1, h, ys, h.dim()
        self.a, self.guess, self.nodes = fixed.tables
        self.parts = form.parts
        here = torch.ones_like(h, dtype=torch.bool)
        if len(self.parts) > 1:
            walls = fixed.walls[0] if fixed.walls else fixed.landings
            t = t1 - h
            ahead = torch.where(walls > t.unsqueeze(-1), walls, torch.inf).amin(-1)
            here = h * (self.parts[0].reach + _SLACK) <= ahead - t
        self.members = [here, ~here][: len(self.parts)]
        self.taken = [(x & (h > 0)).any() for x in self.members]
        gammas = torch.where(here, torch.full_like(h, self.parts[0].gamma), self.parts[-1].gamma)
        self.c = gammas * h
        self.gamma_h = gammas.unsqueeze(-1).to(ys[0].dtype) * self.size

    @property
    def size(self) -> Tensor:  # this and the next one are views: no two inputs of a loop may share memory
        return self.h.unsqueeze(-1).to(self.ys[0].dtype)

    @property
    def y(self) -> Tensor:
        """The state at the start, ``[*batch, n]``."""
        return flat(self.ys, self.batch)

    def rows_at(self, stage: Tensor) -> Tensor:
        """The rows ``[*batch]`` that go through this stage."""
        if len(self.parts) == 1:
            return self.members[0]
        first, second = self.members
        return torch.where(stage < self.parts[0].last, first, second)

    def first(self) -> Tensor:
        one = torch.ones((), dtype=torch.int64, device=self.h.device)
        if len(self.parts) == 1:
            return one
        start = self.parts[1].first
        return torch.where(self.taken[0] | ~self.taken[1], one, start + 1)

    def after(self, stage: Tensor) -> Tensor:
        """The stage after this one; as many as there are: the step is through."""
        if len(self.parts) == 1:
            return stage + 1
        start, end = self.parts[1].first, self.parts[1].last
        return torch.where(stage + 1 == start, torch.where(self.taken[1], start + 1, end), stage + 1)

    def before(self, stage: Tensor) -> Tensor:
        """The stage before this one; 0: there is none."""
        if len(self.parts) == 1:
            return stage - 1
        start = self.parts[1].first
        last = torch.where(self.taken[0], start - 1, 0)
        return torch.where(stage - 1 == start, last, stage - 1)

    def last(self) -> Tensor:
        """Where the way back begins."""
        if len(self.parts) == 1:
            return torch.full_like(self.first(), self.parts[0].last - 1)
        return torch.where(self.taken[1], self.parts[1].last - 1, self.parts[0].last - 1)

    def begins(self, slope: Tensor) -> Tensor:
        """Room for all slopes ``[S, *batch, n]``, with that at the start in its places."""
        numbers = torch.arange(len(self.nodes), device=slope.device).reshape(-1, *[1] * slope.dim())
        out = torch.zeros_like(slope).expand(len(self.nodes), *slope.shape)
        for part, rows in zip(self.parts, self.members):
            out = torch.where((numbers == part.first) & rows.unsqueeze(-1), slope, out)
        return out

    def time(self, stage: Tensor) -> Tensor:
        return self.t1 + row(self.nodes, stage) * self.h

    def known(self, table: Tensor, stage: Tensor, k: Tensor) -> Tensor:
        """The row of a table for this stage times the slopes, ``[*batch, n]``."""
        weights = row(table, stage)
        return (weights.reshape(-1, *[1] * (k.dim() - 1)) * k).sum(0)

    def state(self, stage: Tensor, k: Tensor, x: Tensor) -> Tensor:
        """Where the stage with the slope ``x`` stands, ``[*batch, n]``."""
        z = self.y + self.size * self.known(self.a, stage, k) + self.gamma_h * x
        return torch.where(self.size == 0, self.y, z)

    def slope(self, stage: Tensor, z: Tensor, held: State | None = None) -> Tensor:
        where = leaves_of(z, self.ys)
        out = slopes(self.form, self.pure, self.fixed, self.held if held is None else held, self.time(stage), where)
        return flat(out, self.batch)

    def solver(self, t: Tensor, z: State) -> Solve:
        """Solves with ``I - gamma h J`` there."""
        return self.jacobian(t, z).shifted(self.gamma_h)

    def jacobian(self, t: Tensor, z: State) -> DenseMatrix | BandMatrix:
        return linearised(self.form, self.pure, self.fixed, self.held, t, z)[0]

    def solver_at(self, stage: Tensor, z: Tensor) -> Solve:
        return self.solver(self.time(stage), leaves_of(z, self.ys))

    def transposed_at(self, stage: Tensor, z: Tensor) -> Solve:
        return self.jacobian(self.time(stage), leaves_of(z, self.ys)).transposed(self.gamma_h)

    def with_others(self, k: Tensor, stage: Tensor, x: Tensor, settled: Tensor) -> Tensor:
        """The slopes with what else belongs to this stage, if its slope ``x`` is ``settled``."""
        return k

    def measure(self, dz: Tensor, z: Tensor) -> Tensor:
        """Error over tolerance of a change of this stage's state, ``[*batch]``."""
        errors, ends = leaves_of(dz, self.ys), leaves_of(z, self.ys)
        return over_tolerance(self.form, self.fixed, errors, self.ys, ends, self.h)


class Iteration(NamedTuple):
    """Where the iterations stand.

    Attributes:
        numbers: int64 ``[4]``: stage, turn, evaluations of ``f``, whether it got stuck.
        rows: float64 ``[6, *batch]``: size of the increment before, what remains of one, whether the root of this stage
            was found, whether it is still looked for, whether any root was missed, the most that remained in a stage.
        x: the slope of this stage, ``[*batch, n]``; ``k``: of all stages so far, ``[S, *batch, n]``.
    """

    numbers: Tensor
    rows: Tensor
    x: Tensor
    k: Tensor


def diagonal_stages(
    form: Form,
    pure: Pure,
    fixed: Fixed,
    held: State,
    t1: Tensor,
    h: Tensor,
    ys: State,
    ks: State,
    rests: bool = False,
    past: State = (),
) -> Stages:
    """A step that ends at ``t1``."""
    course = Course(form, pure, fixed, held, t1, h, ys)
    matrix = serving(course, past)
    solve = course.solver(t1 - h, ys) if matrix is None else matrix.solve
    k = course.begins(flat(ks, course.batch))
    insists = form.tableau.b_err is None and not form.by_rows  # nobody will make the step shorter
    found = iterated(course, started(course, k), lambda stage, z: solve, stops=insists)
    if insists:  # Newton's own method, with the matrix at each iterate
        found = iterated(course, started(course, found.k, found), course.solver_at, costs=2, may_rest=True)
    all_slopes: list[State] = [leaves_of(x, ys) for x in found.k.unbind(0)]
    end, extra = tail(form, pure, fixed, held, t1, h, ys, all_slopes)
    error = None
    if form.tableau.b_err is not None:
        total = course.size * weighted(form.tableau.b_err, found.k.unbind(0))
        smooth = solve if matrix is None else matrix.smooth
        error = leaves_of(smooth(total) if form.smoothed else total, ys)
    step = Stages([*all_slopes, *extra], end, error, found.rows[4] == 0, found.numbers[2])
    return step if matrix is None else settled(step, matrix, found)


def serving(course: Course, past: State) -> Serving | None:
    """The matrix that a step iterates with, if it is one that is kept."""
    if not course.form.keeps:
        return None
    t = course.t1 - course.h
    return renewed(Keep(*past), t, course.c, course.h > 0, partial(course.jacobian, t, course.ys))


def settled(step: Stages, matrix: Serving, found: Iteration) -> Stages:
    """The step with what it owes to its matrix, and how that served noted."""
    asked, missed = found.numbers[2] + matrix.found, found.rows[4] != 0
    return step._replace(asked=asked, keep=matrix.served(found.rows[5]), again=missed & matrix.old)


def tail(
    form: Form, pure: Pure, fixed: Fixed, held: State, t1: Tensor, h: Tensor, ys: State, found: list[State]
) -> tuple[State, list[State]]:
    """The end of a step with these slopes, and those that only its interpolant needs."""

    end = moved(h, ys, form.tableau.b, found, rests=True)
    return end, looked_inside(form, pure, fixed, held, t1, h, ys, found, rests=True)[len(found) :]


def row(table: Tensor, i: Tensor) -> Tensor:
    """One line of a table."""
    return table.index_select(0, i.reshape(1))[0]


def started(course: Course, k: Tensor, stuck: Iteration | None = None) -> Iteration:
    """Before the first stage, or before the one that an iteration got stuck at."""
    one = torch.ones_like(course.first())
    stage, asked = (course.first(), 0 * one) if stuck is None else (stuck.numbers[0], stuck.numbers[2])
    at = stage.clamp(max=len(course.nodes) - 1)
    looked_for = course.rows_at(at)
    rows = [torch.full_like(course.h, x) for x in (torch.inf, 1.0, 0.0)]
    none = torch.zeros_like(course.h)
    return Iteration(
        torch.stack([stage, 0 * one, asked, 0 * one]),
        torch.stack([*rows, looked_for.to(torch.float64), none, none if stuck is None else stuck.rows[5]]),
        course.known(course.guess, at, k),
        k,
    )


def iterated(
    course: Course,
    start: Iteration,
    solver_at: Callable[[Tensor, Tensor], Solve],
    stops: bool = False,
    costs: int = 1,
    may_rest: bool = False,
) -> Iteration:
    """The slopes of all stages.

    Args:
        solver_at: of stage and iterate; what it returns turns a residual into an increment.
        stops: at the first stage whose root is not found.
        costs: evaluations of ``f`` in plain PyTorch for an iteration, those for its matrix included.
        may_rest: there may be nothing to do.
    """
    stages = len(course.nodes)

    def more(numbers: Tensor, *rest: Tensor) -> Tensor:
        return (numbers[0] < stages) & (numbers[3] == 0)

    def once(*now: Tensor) -> tuple[Tensor, ...]:
        at = Iteration(*now)
        stage, turn, asked = at.numbers[0], at.numbers[1], at.numbers[2]
        z = course.state(stage, at.k, at.x)
        dx = solver_at(stage, z)(course.slope(stage, z) - at.x)
        found, rows, x = judged(course, at, z, dx)
        running, missed, most = rows[3] > 0, rows[4], rows[5]
        through = ~running.any() | (turn + 1 >= MOST)
        members = course.rows_at(stage)
        lost = members & (found == 0)
        stuck = through & lost.any() if stops else torch.zeros_like(through)
        numbers = torch.arange(len(at.k), device=x.device).reshape(-1, *[1] * x.dim())
        settled = through & ~stuck
        k = torch.where(settled & (numbers == stage) & members.unsqueeze(-1), x, at.k)
        k = course.with_others(k, stage, x, settled)
        following = torch.where(settled, course.after(stage), stage)
        ahead = following.clamp(max=stages - 1)
        remaining = torch.where((found > 0) & torch.isfinite(rows[1]), rows[1], 1.0)
        after = torch.stack([
            torch.where(settled, torch.inf, rows[0]),
            torch.where(settled & members, remaining, rows[1]),
            torch.where(settled, 0.0, found),
            torch.where(settled, course.rows_at(ahead), running).to(torch.float64),
            torch.where(settled & lost, 1.0, missed),
            torch.where(settled & members, torch.maximum(most, remaining), most),
        ])  # fmt: skip
        return (
            torch.stack([following, torch.where(settled, 0, turn + 1), asked + costs, stuck.to(torch.int64)]),
            after,
            torch.where(settled, course.known(course.guess, ahead, k), x),
            k,
        )

    return Iteration(*(kept if may_rest else while_loop)(more, once, tuple(start)))


def judged(course: Course, at: Iteration, z: Tensor, dx: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Which roots were found, how the rows stand, and the slope after an increment ``dx``; as in ``newton.iterate_rows``."""
    before, remains, found, _, missed, most = at.rows.unbind(0)
    running, later = at.rows[3] > 0, at.numbers[1] > 0
    remains = torch.where(later, remains, remains.clamp(min=1e-16) ** 0.8)
    moved = course.gamma_h * dx
    size = course.measure(moved, z)
    rounding = course.measure(10 * torch.finfo(z.dtype).eps * (z + moved), z + moved)
    lost = ~torch.isfinite(size)
    x = torch.where(running.unsqueeze(-1), torch.where(lost.unsqueeze(-1), torch.nan, at.x + dx), at.x)
    theta = torch.where(before > 0, size / before, 0.0)
    remains = torch.where(running & later, torch.where(theta < 1, theta / (1 - theta), torch.inf), remains)
    rounded = later & (theta > 0.5) & (size <= rounding)
    arrived = lost | rounded | (remains * size <= SMALL)
    hopeless = later & (theta >= DIVERGES)
    remains = torch.where(running & rounded, 1.0, remains)
    found = torch.where(running & arrived, 1.0, found)
    running = running & ~arrived & ~hopeless
    return found, torch.stack([size, remains, found, running.to(torch.float64), missed, most]), x


class Behind(NamedTuple):
    """Derivatives by the end of a step, by the slope there, and by each of its slopes."""

    end: State
    k1: State
    slopes: list[State]


def diagonal_back(
    form: Form,
    pure: Pure,
    fixed: Fixed,
    held: Sequence[Tensor],
    exchange: Callable[[State], State],
    wanted: State,
    t1: Tensor,
    h: Tensor,
    ys: State,
    found: list[State],
    behind: Behind,
) -> tuple[State, State, State]:
    """Derivatives by the state and the slope where a step begins, and by the wanted tensors, from those behind it.

    By the implicit function theorem: a transposed system for each stage, with the exact matrix there.

    Args:
        exchange: puts other tensors in the places of the wanted ones; ``wanted``: these.
        found: the slopes of the step.
    """
    stages, batch = len(form.tableau.b), h.dim()
    course = Course(form, pure, fixed, held, t1, h, ys)

    def rest(ys: State, known: list[State], some: State) -> tuple[State, State, list[State]]:
        end, extra = tail(form, pure, fixed, exchange(some), t1, h, ys, known)
        k1 = slope_at_end(form, pure, fixed, exchange(some), t1, end, [*known, *extra])
        return tuple(end), tuple(k1), [tuple(x) for x in extra]

    vjp = torch.func.vjp(rest, tuple(ys), [tuple(k) for k in found[:stages]], list(wanted))[1]
    at_ys, at_slopes, at_held = vjp((tuple(behind.end), tuple(behind.k1), [tuple(x) for x in behind.slopes[stages:]]))
    k = torch.stack([flat(x, batch) for x in found[:stages]])
    at_k = torch.stack([flat(a, batch) + flat(b, batch) for a, b in zip(at_slopes, behind.slopes)])
    numbers = torch.arange(stages, device=h.device).reshape(-1, *[1] * (batch + 1))

    def more(stage: Tensor, *rest: Tensor) -> Tensor:
        return stage > 0

    def once(stage: Tensor, at_y: Tensor, at_k: Tensor, *at_held: Tensor) -> tuple[Tensor, ...]:
        members = course.rows_at(stage).unsqueeze(-1)
        z = course.state(stage, k, row(k, stage))
        cotangent = torch.where(members, row(at_k, stage), 0.0)
        multiplier = course.transposed_at(stage, z)(cotangent)
        multiplier = torch.where(members, multiplier, 0.0)

        def slope(z: Tensor, some: State) -> Tensor:
            return course.slope(stage, z, exchange(some))

        at_z, at_some = torch.func.vjp(slope, z, list(wanted))[1](multiplier)
        weights = row(course.a, stage).reshape(-1, *[1] * (batch + 1))
        return (
            course.before(stage),
            at_y + at_z,
            torch.where(numbers == stage, 0.0, at_k) + weights * (course.size * at_z),
            *(a + b for a, b in zip(at_held, at_some)),
        )

    _, at_y, at_k, *at_held = while_loop(more, once, (course.last(), flat(at_ys, batch), at_k, *at_held))
    first = [row(at_k, torch.full_like(course.first(), part.first)) for part in course.parts]
    at_ks = torch.where(course.members[0].unsqueeze(-1), first[0], first[-1])
    return leaves_of(at_y, ys), leaves_of(at_ks, ys), tuple(at_held)
