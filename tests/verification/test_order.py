"""Observed order: at least p - 0.2, fitted over four halvings of the step, at the step points and between them.

The largest error of a solve is fitted over five grids, each with twice the steps of the one before, from the first with an error
below 1e-3 down to 1e-12. At orders 7 and 8 there is no room for four halvings (2^(4 * 8) = 4e9): they have three, from the
first error below 1e-4, at order 9 two. Errors that reach the rounding before that end the series; two halvings are the least.
That no order is higher than p is shown by the failing conditions of order p + 1 (tests/methods).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch

import torchivp
from problems import EXACT, Exact
from torchivp.methods import (
    ALF,
    METHODS,
    ExplicitAdams,
    ExplicitRungeKutta,
    ImplicitAdams,
    Method,
    Reversible,
    ReversibleHeun,
)
from torchivp.methods.diagonal_rk import DiagonalRungeKutta
from torchivp.methods.implicit_rk import ImplicitRungeKutta
from torchivp.methods.tableau import hermite

RUNGE_KUTTA = {name: cls() for name, cls in METHODS.items() if issubclass(cls, ExplicitRungeKutta)}
IMPLICIT = {name: cls() for name, cls in METHODS.items() if issubclass(cls, DiagonalRungeKutta | ImplicitRungeKutta)}
ADAMS = {repr(m): m for m in (*map(ExplicitAdams, range(1, 9)), *map(ImplicitAdams, range(2, 9)))}
# Reversible steps of vern8 and vern9 are at the rounding before they show an order.
AT_ROUNDING = ("vern8", "vern9")
REVERSIBLE = {
    repr(m): m
    for m in (ReversibleHeun(), ALF(), *(Reversible(m) for name, m in RUNGE_KUTTA.items() if name not in AT_ROUNDING))
}
# End of the interval, so that the errors of every order begin at 1e-3 with few steps.
END = {1: 0.04, 2: 0.16, 3: 0.5, 4: 1.0, 5: 1.4, 6: 2.0, 7: 2.8, 8: 4.0, 9: 5.6}


def uniform(n: int) -> np.ndarray:
    return np.linspace(0, 1, n + 1)


def graded(n: int) -> np.ndarray:
    """Steps that grow and shrink by a factor of four over the interval, and by factors from 0.4 to 1.7 from one to the next."""
    x = (np.arange(n) + 0.5) / n
    pattern = np.resize([1.22, 0.85, 1.05, 0.75, 1.13], n)
    steps = (1 + 0.6 * np.sin(2 * np.pi * x)) * pattern
    return np.concatenate([[0], np.cumsum(steps)]) / steps.sum()


def errors(method: Method, problems: Sequence[Exact], grid: np.ndarray) -> np.ndarray:
    """Largest errors ``[2, problems]`` at the step points and of the dense output; all problems in one solve."""
    sizes = [p.solution(torch.zeros(())).numel() for p in problems]

    def f(t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.cat([p.f(t, part) for p, part in zip(problems, y.split(sizes))])

    def solution(t: torch.Tensor) -> torch.Tensor:
        return torch.cat([p.solution(t) for p in problems], dim=-1)

    times = (END[method.order] * grid).tolist()
    y0 = solution(torch.zeros((), dtype=torch.float64))
    with torch.no_grad():
        sol = torchivp.solve(
            f,
            y0,
            (0.0, times[-1]),
            method=method,
            controller=torchivp.FixedSteps(times=times),
            rtol=1e-12,  # Newton's iteration stops at a hundredth
            atol=1e-12,
            save="steps",
            dense=True,
            throw=False,
        )
        if not sol.status.success:  # steps that are too large
            return np.full((2, len(problems)), np.inf)
        between = torch.cat([sol.t[:-1] + x * sol.t.diff() for x in (0.12, 0.3, 0.5, 0.7, 0.88)])
        largest = [(y - solution(t)).abs().amax(dim=0) for t, y in ((sol.t, sol.y), (between, sol(between)))]
    assert len(sol.t) == len(grid)
    return np.array([[float(part.max()) for part in row.split(sizes)] for row in largest])


def observed(
    method: Method, problems: Sequence[Exact], make_grid: Callable[[int], np.ndarray], first: int
) -> tuple[np.ndarray, np.ndarray]:
    """Orders ``[problems]`` at the step points and of the dense output."""
    while (found := errors(method, problems, make_grid(first))).max() > (1e-3 if method.order < 7 else 1e-4):
        first += math.ceil(first / 8)
    most = 4 if method.order < 7 else 3 if method.order < 9 else 2
    series = [found]
    while len(series) <= most:
        found = errors(method, problems, make_grid(first * 2 ** len(series)))
        if len(series) > 2 and found.min() < 4e-13:
            break
        series.append(found)
    rows = np.stack(series)
    assert rows.min() > 2e-13, f"below what float64 can show: {rows}"
    orders = [
        [-np.polyfit(range(len(rows)), np.log2(problem), 1)[0] for problem in row.T] for row in rows.transpose(1, 0, 2)
    ]
    return np.array(orders[0]), np.array(orders[1])


def dense_order(method: Method) -> int:
    """A polynomial of order q leaves a local error h^(q + 1) between the steps: order q + 1 is seen, unless the steps have less.

    At order 8 float64 leaves no room to see it: there, q itself.
    """
    if isinstance(method, Reversible):
        return dense_order(method.base)
    if not isinstance(method, ExplicitRungeKutta | DiagonalRungeKutta | ImplicitRungeKutta):
        return method.order
    q = (method.tableau.dense or hermite(method.tableau)).order
    return min(method.order, q + 1) if method.order < 8 else q


@pytest.mark.parametrize("problem", EXACT.values(), ids=EXACT.keys())
@pytest.mark.parametrize("method", RUNGE_KUTTA.values(), ids=RUNGE_KUTTA.keys())
def test_runge_kutta(method: Method, problem: Exact) -> None:
    at_steps, between = observed(method, [problem], uniform, first=4)
    assert at_steps > method.order - 0.2
    assert between > dense_order(method) - 0.2


@pytest.mark.parametrize("method", IMPLICIT.values(), ids=IMPLICIT.keys())
def test_implicit_runge_kutta(method: Method) -> None:
    at_steps, between = observed(method, list(EXACT.values()), uniform, first=4)
    assert at_steps.min() > method.order - 0.2, dict(zip(EXACT, at_steps))
    assert between.min() > dense_order(method) - 0.2, dict(zip(EXACT, between))


@pytest.mark.parametrize("make_grid", [uniform, graded])
@pytest.mark.parametrize("method", ADAMS.values(), ids=ADAMS.keys())
def test_adams(method: Method, make_grid: Callable[[int], np.ndarray]) -> None:
    """On any grid; with enough steps that those of the Runge-Kutta starter are few."""
    at_steps, between = observed(method, list(EXACT.values()), make_grid, first=6 * method.order)
    assert at_steps.min() > method.order - 0.2, dict(zip(EXACT, at_steps))
    assert between.min() > method.order - 0.2, dict(zip(EXACT, between))


@pytest.mark.parametrize("method", REVERSIBLE.values(), ids=REVERSIBLE.keys())
def test_reversible(method: Method) -> None:
    """The second state stays as close as the order asks for."""
    at_steps, between = observed(method, list(EXACT.values()), uniform, first=6)
    assert at_steps.min() > method.order - 0.2, dict(zip(EXACT, at_steps))
    assert between.min() > dense_order(method) - 0.2, dict(zip(EXACT, between))


@pytest.mark.parametrize("method", [m for m in REVERSIBLE.values() if m.order < 7], ids=repr)
def test_reversible_on_uneven_grids(method: Method) -> None:
    """As the base method there, where that shows no more than its order (dopri5 itself shows 4.7, its interpolant 4.6; dopri8
    does not get far enough above rounding errors to compare); the others keep their order."""
    problems = list(EXACT.values())
    found = observed(method, problems, graded, first=6)
    if isinstance(method, Reversible):
        at_steps, between = observed(method.base, problems, graded, first=6)
        expected = np.minimum(at_steps, method.order), np.minimum(between, method.order)
    else:
        expected = np.full(3, method.order), np.full(3, method.order)
    for ours, least in zip(found, expected):
        assert (ours > least - 0.2).all(), (ours, least)


def test_every_method_is_here() -> None:
    rosenbrock = {"rosenbrock23", "rodas4", "rodas5p"}  # tests/methods/test_rosenbrock.py
    assert {*RUNGE_KUTTA, *IMPLICIT, *rosenbrock, "explicit_adams", "implicit_adams", "reversible_heun", "alf"} == set(
        METHODS
    )


def test_a_lower_order_is_noticed() -> None:
    """Adams' fixed coefficients take every grid for uniform: of order 2 there, of order 1 elsewhere."""

    class Fixed(ExplicitAdams):
        def step(self, field, span, y, history):
            past = history if len(history) < 2 else [(span.t - i * span.dt, k) for i, (_, k) in enumerate(history)]
            return super().step(field, span, y, tuple(past))

    problems = [EXACT["nonlinear"]]
    assert observed(Fixed(2), problems, uniform, first=12)[0] > 1.8
    assert observed(Fixed(2), problems, graded, first=12)[0] < 1.8
