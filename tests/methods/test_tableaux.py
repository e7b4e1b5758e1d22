"""Every explicit tableau is proved by all rooted-tree order conditions, and fails the next order."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from math import factorial

import numpy as np
import pytest

from torchivp.methods import METHODS, ExplicitRungeKutta
from torchivp.methods.order_conditions import (
    dense_residuals,
    density,
    embedded_residuals,
    residuals,
    rooted_trees,
    size,
    solution_residuals,
)
from torchivp.methods.tableau import DenseOutput, Row, Tableau, hermite

TABLEAUX = {name: m.tableau for name, m in METHODS.items() if issubclass(m, ExplicitRungeKutta)}
WITH_ESTIMATE = {name: t for name, t in TABLEAUX.items() if t.b_err is not None}
# dopri8's published rationals are rounded, and its interpolant multiplies that by weights of 3000.
EXACT, ROUNDED = 1e-16, 2e-14
WRONG = 1e-6  # smallest violation that counts as a failing condition


def interpolant(tableau: Tableau) -> DenseOutput:
    return tableau.dense or hermite(tableau)


def per_tableau(tableaux: dict[str, Tableau]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("tableau", tableaux.values(), ids=tableaux.keys())


# ---- the trees themselves


def test_number_of_rooted_trees() -> None:
    assert [len(rooted_trees(n)) for n in range(1, 10)] == [1, 1, 2, 4, 9, 20, 48, 115, 286]
    assert all(size(tree) == n for n in range(1, 10) for tree in rooted_trees(n))


def test_density_of_tall_and_bushy_trees() -> None:
    tall: tuple = ()
    for nodes in range(2, 10):
        tall = (tall,)
        assert density(tall) == factorial(nodes)
        assert density(((),) * (nodes - 1)) == nodes


# ---- every tableau


def test_there_are_thirteen() -> None:
    assert len(TABLEAUX) == 13
    assert sorted(WITH_ESTIMATE) == [
        "adaptive_heun",
        "bosh3",
        "dopri5",
        "dopri8",
        "fehlberg2",
        "tsit5",
    ]  # fmt: skip


@per_tableau(TABLEAUX)
def test_shape(tableau: Tableau) -> None:
    dense = interpolant(tableau)
    stages, extra = tableau.stages, len(dense.c)
    assert len(tableau.c) == len(tableau.a) == stages
    assert [len(row) for row in (*tableau.a, *dense.a)] == list(range(stages + extra))
    assert all(len(row) == stages + extra for row in dense.weights)
    assert tableau.c[0] == 0
    assert all(0 <= c <= 1 for c in (*tableau.c, *dense.c))
    assert (tableau.b_err is None) == (tableau.error_order is None) == (tableau.embedded_order is None)
    if tableau.b_err is not None:
        assert len(tableau.b_err) == stages
        assert tableau.error_order == 1 + min(tableau.order, tableau.embedded_order)


@per_tableau(TABLEAUX)
def test_rows_sum_to_nodes(tableau: Tableau) -> None:
    dense = interpolant(tableau)
    for row, c in zip((*tableau.a, *dense.a), (*tableau.c, *dense.c)):
        assert abs(float(sum(row) - c)) < EXACT


@per_tableau(TABLEAUX)
def test_order_of_the_solution(tableau: Tableau) -> None:
    *upto, beyond = solution_residuals(tableau, tableau.order + 1)
    assert max(upto) < EXACT
    assert beyond > WRONG


@per_tableau(WITH_ESTIMATE)
def test_order_of_the_embedded_solution(tableau: Tableau) -> None:
    *upto, beyond = embedded_residuals(tableau, tableau.embedded_order + 1)
    assert max(upto) < EXACT
    assert beyond > WRONG


@per_tableau(TABLEAUX)
def test_order_of_the_interpolant(tableau: Tableau) -> None:
    dense = interpolant(tableau)
    *upto, beyond = dense_residuals(tableau, dense, dense.order + 1)
    assert max(upto) < (ROUNDED if dense.order > 4 else EXACT)
    assert beyond > WRONG
    assert dense.order >= min(tableau.order - 1, 7)


@per_tableau(TABLEAUX)
def test_interpolant_meets_values_and_slopes_at_both_ends(tableau: Tableau) -> None:
    """dense(1) = b, and the slopes are the stages' at both ends; dense(0) = 0 because the powers begin at theta."""
    dense = interpolant(tableau)
    stages = tableau.stages + len(dense.c)
    ends_of_step = [i for i, row in enumerate((*tableau.a, *dense.a)) if _same(row, tableau.b)]
    assert len(ends_of_step) == 1, "one stage must be the slope at the end of the step"
    start, end = _unit(0, stages), _unit(ends_of_step[0], stages)
    at_end = [sum(column) for column in zip(*dense.weights)]
    slope_at_end = [sum(p * w for p, w in enumerate(column, start=1)) for column in zip(*dense.weights)]
    assert tuple(dense.weights[0]) == start
    assert _same(at_end, tableau.b)
    assert tuple(slope_at_end) == end


def test_who_is_fsal() -> None:
    """Fehlberg's and Heun's last stages are at c = 1, but not at the propagated solution."""
    assert {name for name, t in TABLEAUX.items() if t.fsal} == {"bosh3", "dopri5", "tsit5", "dopri8"}


def _same(row: Row | list, b: Row | list) -> bool:
    """Equal, but for zeros at the end."""
    n = max(len(row), len(b))
    return (*row, *(0,) * (n - len(row))) == (*b, *(0,) * (n - len(b)))


def _unit(i: int, n: int) -> tuple[int, ...]:
    return tuple(int(j == i) for j in range(n))


# ---- the tests can fail


@per_tableau({name: t for name, t in TABLEAUX.items() if t.stages > 1})
def test_a_changed_coefficient_is_noticed(tableau: Tableau) -> None:
    """1e-6 in any a, b or b_err breaks a condition; with a the node moves too, so that the rows keep their sums."""
    step = Fraction(1, 10**6)

    def moved(row: Row, j: int) -> Row:
        return (*row[:j], row[j] + step, *row[j + 1 :])

    for j in range(tableau.stages):
        assert max(residuals(tableau.a, moved(tableau.b, j), tableau.order)) > 1e-7
        if tableau.b_err is not None:
            wrong = replace(tableau, b_err=moved(tableau.b_err, j))
            assert max(embedded_residuals(wrong, tableau.embedded_order)) > 1e-7
    for i, row in enumerate(tableau.a):
        if row and tableau.b[i]:
            wrong = replace(tableau, a=(*tableau.a[:i], moved(row, i - 1), *tableau.a[i + 1 :]))
            assert max(solution_residuals(wrong, tableau.order)) > 1e-9


@per_tableau(TABLEAUX)
def test_a_changed_interpolant_is_noticed(tableau: Tableau) -> None:
    dense = interpolant(tableau)
    for p, row in enumerate(dense.weights):
        wrong_row = (row[0] + Fraction(1, 10**6), *row[1:])
        wrong = replace(dense, weights=(*dense.weights[:p], wrong_row, *dense.weights[p + 1 :]))
        assert max(dense_residuals(tableau, wrong, dense.order)) > 1e-7


def test_a_missing_power_is_noticed() -> None:
    tableau = TABLEAUX["dopri5"]
    line = DenseOutput(order=1, weights=(tableau.b,))
    first, second = dense_residuals(tableau, line, 2)
    assert first == 0
    assert second == 0.5


def test_no_embedded_solution_says_so() -> None:
    with pytest.raises(ValueError, match="no error estimate"):
        embedded_residuals(TABLEAUX["rk4"], 1)


def test_floats_do_as_well_as_fractions() -> None:
    tableau = TABLEAUX["dopri8"]
    a = tuple(tuple(float(x) for x in row) for row in tableau.a)
    *upto, beyond = residuals(a, tuple(float(x) for x in tableau.b), 9)
    assert max(upto) < 1e-13
    assert beyond > WRONG


# ---- against the coefficients of others


def _floats(row: Row) -> np.ndarray:
    return np.array([float(x) for x in row])


@pytest.mark.parametrize(("name", "theirs"), [("bosh3", "RK23"), ("dopri5", "RK45")])
def test_scipy_has_the_same_digits(name: str, theirs: str) -> None:
    rk = getattr(pytest.importorskip("scipy.integrate"), theirs)
    tableau = TABLEAUX[name]
    stages = tableau.stages - 1  # SciPy leaves the FSAL stage out
    np.testing.assert_allclose(_floats(tableau.b[:stages]), rk.B, rtol=0, atol=1e-16)
    np.testing.assert_allclose(_floats(tableau.c[:stages]), rk.C, rtol=0, atol=1e-16)
    for row, their_row in zip(tableau.a[:stages], rk.A):
        np.testing.assert_allclose(_floats(row), their_row[: len(row)], rtol=1e-15)
    np.testing.assert_allclose(np.stack([_floats(w) for w in interpolant(tableau).weights]).T, rk.P, atol=2e-14)
    if name == "bosh3":  # dopri5 has Shampine's error weights, SciPy the authors'
        np.testing.assert_allclose(-_floats(tableau.b_err), rk.E, atol=1e-16)


@pytest.mark.parametrize(
    ("name", "theirs"),
    [("bosh3", "Bosh3"), ("dopri5", "Dopri5"), ("tsit5", "Tsit5"), ("dopri8", "Dopri8")],
)
def test_diffrax_has_the_same_digits(name: str, theirs: str) -> None:
    diffrax = pytest.importorskip("diffrax", reason="diffrax is not installed")
    other, tableau = getattr(diffrax, theirs).tableau, TABLEAUX[name]
    np.testing.assert_allclose(_floats(tableau.b), other.b_sol, atol=1e-16)
    np.testing.assert_allclose(_floats(tableau.c[1:]), other.c, atol=1e-16)
    np.testing.assert_allclose(_floats(tableau.b_err), other.b_error, atol=5e-16)
    for row, their_row in zip(tableau.a[1:], other.a_lower):
        np.testing.assert_allclose(_floats(row), their_row, rtol=1e-15)


@pytest.mark.parametrize("name", ["bosh3", "fehlberg2", "adaptive_heun", "dopri5", "dopri8"])
def test_torchdiffeq_has_the_same_digits(name: str) -> None:
    pytest.importorskip("torchdiffeq", reason="torchdiffeq is not installed")
    from torchdiffeq._impl.odeint import SOLVERS

    other, tableau = SOLVERS[name].tableau, TABLEAUX[name]
    np.testing.assert_allclose(_floats(tableau.b), other.c_sol, atol=1e-16)
    np.testing.assert_allclose(_floats(tableau.b_err), other.c_error, atol=5e-16)
    for row, their_row in zip(tableau.a[1:], other.beta):
        np.testing.assert_allclose(_floats(row), their_row, rtol=1e-15)


def test_dopri5_is_torchdiffeqs_in_the_middle_of_the_step() -> None:
    pytest.importorskip("torchdiffeq", reason="torchdiffeq is not installed")
    from torchdiffeq._impl.dopri5 import DPS_C_MID

    middle = sum(0.5**p * _floats(row) for p, row in enumerate(TABLEAUX["dopri5"].dense.weights, start=1))
    np.testing.assert_allclose(middle, DPS_C_MID, atol=1e-15)
