"""Diagonally implicit Runge-Kutta methods: one step function for every tableau.

The unknowns of a stage are its slopes: ``k = f(t, base + gamma dt k)``. All stages have one gamma, so a step iterates with one
matrix ``I - gamma dt J``, which mostly is that of a step before (``linalg.kept``).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from .._types import Rows, Slopes
from ..field import Field
from ..linalg import Linear, linearise
from ..linalg.kept import Serving, matrix_for
from ..linalg.newton import Equations, Measure, Root, constant, iterate, root_of, with_gradient
from ..span import Span, spread
from ..transforms import outside_of_transforms
from .base import History, Method, Step
from .explicit_rk import as_row, combine, counted_from_end, error_estimate, interpolant_weights
from .tableau import Row, Tableau, hermite


class DiagonalRungeKutta(Method):
    """A diagonally implicit Runge-Kutta method; a subclass is its tableau and a few words on it.

    Attributes:
        tableau: with an explicit first stage and one gamma in all others.
        smoothed: the error estimate is multiplied by ``(I - gamma dt J)^-1``, because it would be far too large where the
            problem is stiff.
        at_limits: takes the steps whose nodes would lie behind the next time to land on; None: no node does.
        companion: explicit, for the non-stiff part of a ``Split`` field; None: the sum is taken implicitly.
    """

    tableau: ClassVar[Tableau]
    uses_jacobian = True
    k_are_slopes = False  # but nearly: what the iteration made of them
    smoothed: ClassVar[bool] = False
    at_limits: ClassVar[Tableau | None] = None
    companion: ClassVar[Tableau | None] = None

    @property
    def order(self) -> int:  # type: ignore[override]
        return self.tableau.order

    @property
    def error_order(self) -> int | None:  # type: ignore[override]
        return self.tableau.error_order

    def step(self, field: Field, span: Span, y: Rows, history: History) -> Step:
        slope = history[0][1]
        parts = None if self.companion is None else field.parts()
        if parts is not None and self.companion is not None:
            return take_split(field, span, y, slope, parts, self.tableau, self.companion)
        inside = True if self.at_limits is None else span.reaches(float(max(self.tableau.c)))
        one, other = (gamma_of(x) * span.length for x in (self.tableau, self.at_limits or self.tableau))
        c = torch.where(inside, one, other) if isinstance(inside, Tensor) else one if inside else other
        matrix = matrix_for(field, span, y, slope, c, Linear.shifted)
        start = StepStart(field, span, y, slope, matrix)
        if self.at_limits is None or inside is True:
            return settled(matrix, *take(start, self.tableau, self.smoothed))
        if inside is False:
            return settled(matrix, *take(start, self.at_limits, self.smoothed))
        return settled(matrix, *take_by_rows(start, self.tableau, self.at_limits, self.smoothed, inside))

    def interpolant(self, dtype: torch.dtype, device: torch.device) -> Tensor:
        """The weights of its interpolant, ``[P, S]``; with ``at_limits`` side by side (see ``take_by_rows``)."""
        tableaux = [x for x in (self.tableau, self.at_limits) if x is not None]
        return torch.cat([coefficients(x, dtype, device).weights for x in tableaux], dim=1)

    def dense(self, field: Field, span: Span, y: Rows, step: Step) -> Step:
        if len(step.k) == step.weights.shape[1]:
            return step
        rk = coefficients(self.tableau, y.dtype, y.device)
        (end,) = field.times(span, rk.end)
        slope = field(end, step.y1)
        return step._replace(k=torch.cat([step.k, slope]), history=((span.t1, slope.clone()),), ready=True)


class StepStart(NamedTuple):
    """What a step starts from.

    Attributes:
        matrix: what it iterates with.
    """

    field: Field
    span: Span
    y: Rows
    slope: Rows
    matrix: Serving


def gamma_of(tableau: Tableau) -> float:
    return float(tableau.a[1][1])


def settled(matrix: Serving, step: Step, most: Any) -> Step:
    """The step with what it owes to its matrix, and how that served noted."""
    matrix.served(most)
    return step._replace(origin=matrix.origin, old_matrix=matrix.old)


def larger(x: Any, y: Any) -> Any:
    """Of two floats, or of each row ``[B]``."""
    return torch.maximum(x, y) if isinstance(x, Tensor) else max(x, y)


def take(start: StepStart, tableau: Tableau, smoothed: bool, rows: Tensor | None = None) -> tuple[Step, Any]:
    """A step by this tableau, and the most that remained of an increment.

    Args:
        rows: whose step it is, ``[B]``; None: everybody's.
    """
    field, span, y, slope, matrix = start
    rk = coefficients(tableau, y.dtype, y.device)
    k, found, most, remains = slope, span.everywhere(True), span.everywhere(0.0), span.everywhere(1.0)
    for a, guess, t, t_inside in zip(rk.a, rk.guess, field.times(span, rk.from_end), span.times(rk.from_end)):
        stage = Stage(field, span, combine(y, a, k, span), rk.gamma, t, t_inside, insists=rk.b_err is None)
        root = stage.root(matrix.solve, y, constant(torch.mm(guess, k)), remains, rows)
        found, most, remains = found & root.found, larger(most, root.remains), root.remains
        k = torch.cat([k, stage.with_gradient(root.x)])
    y1 = combine(y, rk.b, k, span)
    error = None
    if rk.b_err is not None:
        error = error_estimate(y, rk.b_err, k, span)
        with torch.no_grad():
            error = matrix.factors.solve(error) if smoothed else error
    history = ((span.t1, k[-1:]),) if tableau.fsal else ()
    return Step(y1, k, rk.weights, error, history, tableau.fsal, solved=found), most


def take_split(
    field: Field, span: Span, y: Rows, slope: Rows, parts: tuple[Field, Field], tableau: Tableau, companion: Tableau
) -> Step:
    """A step that is implicit in the first part of the field and explicit in the second; its end is no stage."""
    stiff, other = parts
    rk = coefficients(tableau, y.dtype, y.device, companion)
    by_second = other(other.time(span.start()), y).clone()  # kept over later calls: f may return one buffer every time
    by_first = slope - by_second
    stiff.kept, stiff.origin = field.kept, field.origin
    matrix = matrix_for(stiff, span, y, by_first, rk.gamma * span.length, Linear.shifted)
    found, most, remains = span.everywhere(True), span.everywhere(0.0), span.everywhere(1.0)
    rows = zip(rk.a, explicit_rows(companion, y.dtype, y.device), rk.guess)
    for (a, b, guess), t, t_inside in zip(rows, stiff.times(span, rk.from_end), span.times(rk.from_end)):
        base = span.advance(y, torch.mm(a, by_first) + torch.mm(b, by_second))
        stage = Stage(stiff, span, base, rk.gamma, t, t_inside)
        root = stage.root(matrix.solve, y, constant(torch.mm(guess, by_first)), remains)
        found, most, remains = found & root.found, larger(most, root.remains), root.remains
        k = stage.with_gradient(root.x)
        by_first, by_second = torch.cat([by_first, k]), torch.cat([by_second, other(t, stage.state(k))])
    field.evaluations += stiff.evaluations + other.evaluations
    field.kept = stiff.kept
    k = by_first + by_second
    error = None if rk.b_err is None else error_estimate(y, rk.b_err, k, span)
    return settled(matrix, Step(combine(y, rk.b, k, span), k, rk.weights, error, (), False, solved=found), most)


def take_by_rows(start: StepStart, first: Tableau, second: Tableau, smoothed: bool, here: Tensor) -> tuple[Step, Any]:
    """A step by the first tableau in the rows ``here``, by the second in the others; one look at the device.

    It has the slopes of both, zeros where they do not count: taken again, it has as many, whoever takes part.
    """
    y, moving = start.y, start.span.dt.detach() > 0
    some, others = torch.stack([here & moving, ~here & moving]).any(1).tolist()
    taken = {
        tableau: take(start, tableau, smoothed, rows)
        for tableau, rows, wanted in ((first, here, some or not others), (second, ~here, others))
        if wanted
    }
    steps = {tableau: step for tableau, (step, _) in taken.items()}
    wide = spread(here, y)

    def slopes(tableau: Tableau, rows: Tensor) -> Slopes:
        return torch.where(rows, steps[tableau].k, 0) if tableau in steps else y.new_zeros(tableau.stages, y.shape[1])

    k = torch.cat([slopes(first, wide), slopes(second, ~wide)])
    weights = torch.cat([coefficients(tableau, y.dtype, y.device).weights for tableau in (first, second)], dim=1)
    if len(steps) == 1:
        ((step, most),) = taken.values()
        return step._replace(k=k, weights=weights), most
    (one, most), (two, most_too) = taken.values()
    step = Step(
        y1=torch.where(wide, one.y1, two.y1),
        k=k,
        weights=weights,
        error=None if one.error is None or two.error is None else torch.where(wide, one.error, two.error),
        history=tuple((t, torch.where(wide, x, other)) for (t, x), (_, other) in zip(one.history, two.history)),
        ready=one.ready,
        solved=torch.where(here, one.solved, two.solved),
    )
    return step, torch.where(here, most, most_too)


class Stage(NamedTuple):
    """One implicit stage: ``k = f(t, base + gamma dt k)``.

    Attributes:
        t, t_inside: its time as the user sees it, and as the library counts it.
        insists: a step that fails will not be made shorter.
    """

    field: Field
    span: Span
    base: Rows
    gamma: float
    t: Tensor
    t_inside: Tensor
    insists: bool = False

    def state(self, k: Rows) -> Rows:
        return self.span.advance(self.base, k * self.gamma)

    def residual(self, k: Rows) -> Rows:
        return self.field(self.t, self.state(k)) - k

    def root(
        self, solve: Callable[[Rows], Rows], y: Rows, guess: Rows, remains: Any, rows: Tensor | None = None
    ) -> Root:
        """The slope, without gradient; of these rows, by default of all."""
        measure = Measure(self.field.tolerance, self.span, y)
        equations = Equations(
            self.residual,
            solve,
            lambda dk, k: measure.of(dk * self.gamma, self.state(k)),
            lambda k: measure.rounding(self.state(k)),
        )
        with torch.no_grad():
            root = root_of(equations, guess, remains, rows)
            if root.found is False and self.insists:
                root = iterate(self.with_matrices_of_their_own(equations), guess, remains)
        return root._replace(x=constant(root.x))

    def with_matrices_of_their_own(self, equations: Equations) -> Equations:
        """The same, with the matrix at each iterate: Newton's own method, where steps cannot be made smaller."""
        latest: list[Rows] = []

        def residual(k: Rows) -> Rows:
            latest[:] = [k]
            return self.residual(k)

        return equations._replace(residual=residual, solve=lambda b: self.factorised(latest[0])(b))

    def factorised(self, k: Rows) -> Callable[[Rows], Rows]:
        """``b -> M^-1 b`` with the exact matrix at the slope ``k``."""
        there = self.span._replace(t=self.t_inside.detach(), first=None)
        with torch.no_grad():
            linear = linearise(self.field, there, self.state(k), k, False)
            return linear.shifted(self.gamma * self.span.sizes(k)).solve

    def with_gradient(self, k: Rows) -> Rows:
        return with_gradient(k, self.residual, lambda: self.factorised(k))


class _Coefficients(NamedTuple):
    """A tableau as tensors of one dtype on one device.

    Attributes:
        a: rows left of the diagonal; ``guess``: weights of the slopes so far that predict the stage's.
    """

    gamma: float
    from_end: Tensor
    end: Tensor
    a: tuple[Tensor, ...]
    guess: tuple[Tensor, ...]
    b: Tensor
    b_err: Tensor | None
    weights: Tensor


@lru_cache(maxsize=256)
@outside_of_transforms
def explicit_rows(tableau: Tableau, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, ...]:
    """Rows ``[1, i]`` of an explicit tableau, but for the empty first one."""
    return tuple(as_row(a, dtype, device) for a in tableau.a[1:])


@lru_cache(maxsize=256)
@outside_of_transforms
def coefficients(
    tableau: Tableau, dtype: torch.dtype, device: torch.device, companion: Tableau | None = None
) -> _Coefficients:
    """
    Args:
        companion: the interpolant is that of this one, which ends at no stage.
    """
    row = partial(as_row, dtype=dtype, device=device)
    return _Coefficients(
        gamma=gamma_of(tableau),
        from_end=counted_from_end(tableau.c[1:], device),
        end=counted_from_end((1,), device),
        a=tuple(row(a[:i]) for i, a in enumerate(tableau.a) if i),
        guess=tuple(row(extrapolation(tableau.c[:i], c)) for i, c in enumerate(tableau.c) if i),
        b=row(tableau.b),
        b_err=None if tableau.b_err is None else row(tableau.b_err),
        weights=interpolant_weights(tableau.dense or hermite(companion or tableau), dtype, device),
    )


def extrapolation(known: Row, node: Any) -> Row:
    """Weights of slopes at the known nodes that predict the one at ``node``: on the straight line through the two nearest."""
    near, *rest = sorted(range(len(known)), key=lambda j: (abs(known[j] - node), -j))
    others = [j for j in rest if known[j] != known[near]]
    share = (node - known[near]) / (known[others[0]] - known[near]) if others else 0
    weights = {near: 1 - share, **({others[0]: share} if others else {})}
    return tuple(weights.get(j, 0) for j in range(len(known)))
