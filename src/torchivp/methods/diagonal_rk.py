"""Diagonally implicit Runge-Kutta methods: one step function for every tableau.

The unknowns of a stage are its slopes: ``k = f(t, base + gamma dt k)``. All stages have one gamma, so a step factorises
``I - gamma dt J`` once, with J at its start.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from .._types import Rows, Slopes
from ..field import Field
from ..linalg import linearise
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
        start = StepStart(field, span, y, history[0][1])
        parts = None if self.companion is None else field.parts()
        if parts is not None and self.companion is not None:
            return take_split(start, parts, self.tableau, self.companion)
        if self.at_limits is None:
            return take(start, self.tableau, self.smoothed)
        inside = span.reaches(float(max(self.tableau.c)))
        if isinstance(inside, Tensor):
            return take_by_rows(start, self.tableau, self.at_limits, self.smoothed, inside)
        return take(start, self.tableau if inside else self.at_limits, self.smoothed)

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
    """What a step starts from."""

    field: Field
    span: Span
    y: Rows
    slope: Rows


def take(start: StepStart, tableau: Tableau, smoothed: bool, rows: Tensor | None = None) -> Step:
    """A step by this tableau.

    Args:
        rows: whose step it is, ``[B]``; None: everybody's.
    """
    field, span, y, slope = start
    rk = coefficients(tableau, y.dtype, y.device)
    with torch.no_grad():
        solve = linearise(field, span, y, slope, False).shifted(rk.gamma * span.sizes(y)).solve
    k, found, remains = slope, span.everywhere(True), span.everywhere(1.0)
    for a, guess, t, t_inside in zip(rk.a, rk.guess, field.times(span, rk.from_end), span.times(rk.from_end)):
        stage = Stage(field, span, combine(y, a, k, span), rk.gamma, t, t_inside, insists=rk.b_err is None)
        root = stage.root(solve, y, constant(torch.mm(guess, k)), remains, rows)
        found, remains = found & root.found, root.remains
        k = torch.cat([k, stage.with_gradient(root.x)])
    y1 = combine(y, rk.b, k, span)
    error = None
    if rk.b_err is not None:
        error = error_estimate(y, rk.b_err, k, span)
        with torch.no_grad():
            error = solve(error) if smoothed else error
    history = ((span.t1, k[-1:]),) if tableau.fsal else ()
    return Step(y1, k, rk.weights, error, history, tableau.fsal, solved=found)


def take_split(start: StepStart, parts: tuple[Field, Field], tableau: Tableau, companion: Tableau) -> Step:
    """A step that is implicit in the first part of the field and explicit in the second; its end is no stage."""
    field, span, y, slope = start
    stiff, other = parts
    rk = coefficients(tableau, y.dtype, y.device, companion)
    by_second = other(other.time(span.start()), y).clone()  # kept over later calls: f may return one buffer every time
    by_first = slope - by_second
    with torch.no_grad():
        solve = linearise(stiff, span, y, by_first, False).shifted(rk.gamma * span.sizes(y)).solve
    found, remains = span.everywhere(True), span.everywhere(1.0)
    rows = zip(rk.a, explicit_rows(companion, y.dtype, y.device), rk.guess)
    for (a, b, guess), t, t_inside in zip(rows, stiff.times(span, rk.from_end), span.times(rk.from_end)):
        base = span.advance(y, torch.mm(a, by_first) + torch.mm(b, by_second))
        stage = Stage(stiff, span, base, rk.gamma, t, t_inside)
        root = stage.root(solve, y, constant(torch.mm(guess, by_first)), remains)
        found, remains = found & root.found, root.remains
        k = stage.with_gradient(root.x)
        by_first, by_second = torch.cat([by_first, k]), torch.cat([by_second, other(t, stage.state(k))])
    field.evaluations += stiff.evaluations + other.evaluations
    k = by_first + by_second
    error = None if rk.b_err is None else error_estimate(y, rk.b_err, k, span)
    return Step(combine(y, rk.b, k, span), k, rk.weights, error, (), False, solved=found)


def take_by_rows(start: StepStart, first: Tableau, second: Tableau, smoothed: bool, here: Tensor) -> Step:
    """A step by the first tableau in the rows ``here``, by the second in the others; one look at the device.

    It has the slopes of both, zeros where they do not count: taken again, it has as many, whoever takes part.
    """
    y, moving = start.y, start.span.dt.detach() > 0
    some, others = torch.stack([here & moving, ~here & moving]).any(1).tolist()
    steps = {
        tableau: take(start, tableau, smoothed, rows)
        for tableau, rows, wanted in ((first, here, some or not others), (second, ~here, others))
        if wanted
    }
    wide = spread(here, y)

    def slopes(tableau: Tableau, rows: Tensor) -> Slopes:
        return torch.where(rows, steps[tableau].k, 0) if tableau in steps else y.new_zeros(tableau.stages, y.shape[1])

    k = torch.cat([slopes(first, wide), slopes(second, ~wide)])
    weights = torch.cat([coefficients(tableau, y.dtype, y.device).weights for tableau in (first, second)], dim=1)
    if len(steps) == 1:
        (step,) = steps.values()
        return step._replace(k=k, weights=weights)
    one, two = steps.values()
    return Step(
        y1=torch.where(wide, one.y1, two.y1),
        k=k,
        weights=weights,
        error=None if one.error is None or two.error is None else torch.where(wide, one.error, two.error),
        history=tuple((t, torch.where(wide, x, other)) for (t, x), (_, other) in zip(one.history, two.history)),
        ready=one.ready,
        solved=torch.where(here, one.solved, two.solved),
    )


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
        gamma=float(tableau.a[1][1]),
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
