"""Rosenbrock methods: every tableau is proved by all rooted trees, and fails the next order; stability, and order in practice."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import torchivp
from problems import EXACT, Exact
from torchivp import FixedSteps
from torchivp.methods import METHODS, Rosenbrock, RosenbrockTableau
from torchivp.methods.rosenbrock_conditions import (
    dense_residuals,
    embedded_residuals,
    solution_residuals,
    standard,
    w_residuals,
)

NAMES = ("rosenbrock23", "rodas4", "rodas5p")
TABLEAUX = {name: m.tableau for name, m in METHODS.items() if issubclass(m, Rosenbrock)}
ROUNDED = {"rosenbrock23": 1e-15, "rodas4": 1e-14, "rodas5p": 3e-13}  # published with 16 digits, factors up to 147
WRONG = 1e-5


def per_tableau() -> pytest.MarkDecorator:
    return pytest.mark.parametrize("name", NAMES)


def test_there_are_three() -> None:
    assert tuple(TABLEAUX) == NAMES


@per_tableau()
def test_nodes(name: str) -> None:
    """Of a problem that depends on time, stage i sees it at the sum of alpha, and its derivative by the sum of gamma."""
    tableau, form = TABLEAUX[name], standard(TABLEAUX[name])
    for i in range(tableau.stages):
        assert abs(float(sum(form.alpha[i]) - Fraction(tableau.c[i]))) < ROUNDED[name]
        assert abs(float(sum(form.gamma[i]) - Fraction(tableau.d[i]))) < ROUNDED[name]
        assert form.gamma[i][i] == Fraction(tableau.gamma)
    assert tableau.c[0] == 0
    assert all(0 <= c <= 1 for c in tableau.c)


@per_tableau()
def test_order(name: str) -> None:
    tableau = TABLEAUX[name]
    for residuals, order in (
        (solution_residuals, tableau.order),
        (embedded_residuals, tableau.embedded_order),
        (dense_residuals, tableau.dense_order),
        (w_residuals, tableau.w_order),
    ):
        *upto, beyond = residuals(tableau, order + 1)
        assert max(upto) < ROUNDED[name], residuals
        assert beyond > WRONG, residuals
    assert tableau.error_order == 1 + min(tableau.order, tableau.embedded_order)


@per_tableau()
def test_the_interpolant_ends_where_the_step_does(name: str) -> None:
    tableau = TABLEAUX[name]
    ends = [sum(column) for column in zip(*tableau.dense)]
    np.testing.assert_allclose(np.array(ends, dtype=float), np.array(tableau.b, dtype=float), atol=1e-13)


def moved(row: tuple, j: int) -> tuple:
    return (*row[:j], row[j] + 1e-6, *row[j + 1 :])


@per_tableau()
def test_a_changed_coefficient_is_noticed(name: str) -> None:
    tableau = TABLEAUX[name]

    def off(other: RosenbrockTableau) -> float:
        form = standard(other)
        nodes = [abs(float(sum(line) - Fraction(c))) for line, c in zip(form.alpha, other.c)]
        drift = [abs(float(sum(line) - Fraction(d))) for line, d in zip(form.gamma, other.d)]
        return max(
            *nodes, *drift, *solution_residuals(other, other.order), *embedded_residuals(other, other.embedded_order)
        )

    for j in range(tableau.stages):
        assert off(replace(tableau, b=moved(tableau.b, j))) > 1e-8
        if tableau.d[j]:  # the others do not change what the estimate is small for
            assert off(replace(tableau, b_err=moved(tableau.b_err, j))) > 1e-8
        assert off(replace(tableau, c=moved(tableau.c, j))) > 1e-8
        assert off(replace(tableau, d=moved(tableau.d, j))) > 1e-8
        for part in ("a", "coupling"):
            rows = getattr(tableau, part)
            for i in range(len(rows[j])):
                wrong = (*rows[:j], moved(rows[j], i), *rows[j + 1 :])
                assert off(replace(tableau, **{part: wrong})) > 1e-10
    for p, row in enumerate(tableau.dense):
        wrong = replace(tableau, dense=(*tableau.dense[:p], moved(row, 0), *tableau.dense[p + 1 :]))
        assert max(dense_residuals(wrong, tableau.dense_order)) > 1e-8


@per_tableau()
def test_l_stable(name: str) -> None:
    """``|R(z)| <= 1`` on the imaginary axis, and R vanishes at infinity."""
    form, b = standard(TABLEAUX[name]), np.array([float(x) for x in TABLEAUX[name].b])
    gamma = np.array(form.gamma, dtype=float)
    beta = np.array(form.alpha, dtype=float) + gamma
    weights, one = b @ gamma, np.ones(len(b))

    def r(z: complex) -> complex:
        return complex(1 + z * weights @ np.linalg.solve(np.eye(len(b)) - z * beta, one))

    assert max(abs(r(1j * y)) for y in np.geomspace(1e-3, 1e6, 400)) < 1 + 1e-9
    assert abs(r(-1e12)) < 1e-3


def slope_of(errors: list[float]) -> float:
    return math.log2(errors[-2] / errors[-1])


@pytest.mark.parametrize("problem", EXACT.values(), ids=EXACT.keys())
@per_tableau()
def test_order_in_practice(name: str, problem: Exact) -> None:
    """At the end and inside of steps, on problems that depend on time."""
    tableau = TABLEAUX[name]
    steps = (96, 192)
    t0, t1 = 0.0, 4.0
    inside = torch.linspace(t0, t1, 38, dtype=torch.float64)
    start = problem.solution(torch.tensor([t0], dtype=torch.float64))[0]
    at_steps, between = [], []
    for n in steps:
        kw: dict[str, Any] = {"method": name, "controller": FixedSteps(dt=(t1 - t0) / n)}
        sol = torchivp.solve(problem.f, start, (t0, t1), dense=True, save="steps", **kw)
        at_steps.append(float((sol.y - problem.solution(sol.t)).abs().max()))
        between.append(float((sol(inside) - problem.solution(inside)).abs().max()))
    assert slope_of(at_steps) > tableau.order - 0.2
    assert slope_of(between) > min(tableau.dense_order + 1, tableau.order) - 0.3


def prothero_robinson(t: Tensor, y: Tensor) -> Tensor:
    return -1e6 * (y - torch.cos(t)) - torch.sin(t)


@pytest.mark.parametrize(
    ("name", "order", "error"), [("rosenbrock23", 1.9, 1e-3), ("rodas4", 0.6, 2e-9), ("rodas5p", 2.9, 2e-11)]
)
def test_prothero_and_robinson(name: str, order: float, error: float) -> None:
    """Stiff methods lose order here, Rodas5P less than Rodas4."""
    errors = []
    for n in (40, 80):
        sol = torchivp.solve(
            prothero_robinson, torch.ones(1, dtype=torch.float64), (0.0, 10.0), method=name,
            controller=FixedSteps(dt=10 / n),
        )  # fmt: skip
        errors.append(float((sol.y[-1] - math.cos(10.0)).abs()))
    assert errors[-1] < error
    assert slope_of(errors) > order


@pytest.mark.parametrize("times", [(0.0, 2.0), (2.0, 0.0)], ids=["forwards", "backwards"])
@per_tableau()
def test_a_time_that_autograd_does_not_see(name: str, times: tuple[float, float]) -> None:
    """``float(t)`` in f cuts the graph: the time derivative is found by differences, and the order stays."""

    def seen(t: Tensor, y: Tensor) -> Tensor:
        return torch.cos(5 * t + 1) * y

    def hidden(t: Tensor, y: Tensor) -> Tensor:
        return math.cos(5 * float(t) + 1) * y

    def half(t: Tensor, y: Tensor) -> Tensor:
        return math.cos(5 * float(t.detach()) + 1) * y + 1e-9 * t

    y0 = torch.ones(1, dtype=torch.float64)
    kw: dict[str, Any] = {"method": name, "controller": FixedSteps(dt=0.02)}
    wanted = torchivp.solve(seen, y0, times, **kw).y
    for f, tol in ((hidden, 1e-8), (half, 1e-7)):
        torch.testing.assert_close(torchivp.solve(f, y0, times, **kw).y, wanted, rtol=tol, atol=tol)


def test_a_jacobian_is_used_again_after_a_rejection() -> None:
    calls = []

    def jac(t: Tensor, y: Tensor) -> Tensor:
        calls.append(float(t))
        return torch.tensor([[-1e3]], dtype=torch.float64)

    sol: Any = torchivp.solve(
        lambda t, y: -1e3 * (y - torch.sin(20 * t)), torch.ones(1, dtype=torch.float64), (0.0, 1.0), method="rodas4",
        jac=jac, dt=0.5,
    )  # fmt: skip
    assert sol.stats.rejected > 0
    assert len(calls) == len(set(calls)) == sol.stats.accepted
