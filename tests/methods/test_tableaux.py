"""Every explicit tableau is proved by all rooted-tree order conditions, and fails the next order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from decimal import Context, Decimal, localcontext
from fractions import Fraction
from functools import cache
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

DIGITS = 60  # of the arithmetic: products of fractions of 40 digits would grow without end


@pytest.fixture(autouse=True)
def _many_digits() -> Iterator[None]:
    with localcontext(Context(prec=DIGITS)):
        yield


@cache
def in_digits(tableau: Tableau) -> Tableau:
    """The tableau in decimal numbers of ``DIGITS`` digits, its interpolant included."""

    def numbers(row: Row) -> Row:
        exact = [Fraction(x) for x in row]
        with localcontext(Context(prec=DIGITS)):
            return tuple(Decimal(x.numerator) / Decimal(x.denominator) for x in exact)

    def rows(matrix: tuple[Row, ...]) -> tuple[Row, ...]:
        return tuple(map(numbers, matrix))

    dense = tableau.dense or hermite(tableau)
    return replace(
        tableau,
        c=numbers(tableau.c),
        a=rows(tableau.a),
        b=numbers(tableau.b),
        b_err=tableau.b_err and numbers(tableau.b_err),
        b_err_lower=tableau.b_err_lower and numbers(tableau.b_err_lower),
        dense=replace(dense, weights=rows(dense.weights), c=numbers(dense.c), a=rows(dense.a)),
    )


TABLEAUX = {name: m.tableau for name, m in METHODS.items() if issubclass(m, ExplicitRungeKutta)}
WITH_ESTIMATE = {name: t for name, t in TABLEAUX.items() if t.b_err is not None}
# Published with 29 digits and more, but for dopri8 (its rationals are rounded, its interpolant multiplies that by weights of
# 3000) and the interpolants of dopri5 and tsit5.
EXACT, ROUNDED, DOPRI8 = 1e-25, 1e-16, 2e-14
WRONG = 1e-7  # smallest violation that counts as a failing condition (of vern8, order 9: 4e-7)


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


def test_there_are_eighteen() -> None:
    assert len(TABLEAUX) == 18
    assert sorted(WITH_ESTIMATE) == [
        "adaptive_heun",
        "bosh3",
        "dop853",
        "dopri5",
        "dopri8",
        "fehlberg2",
        "tsit5",
        "vern6",
        "vern7",
        "vern8",
        "vern9",
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
        if tableau.b_err_lower is None:
            assert tableau.error_order == 1 + min(tableau.order, tableau.embedded_order)
        else:
            assert len(tableau.b_err_lower) == stages


@per_tableau(TABLEAUX)
def test_rows_sum_to_nodes(tableau: Tableau) -> None:
    dense = interpolant(tableau)
    for row, c in zip((*tableau.a, *dense.a), (*tableau.c, *dense.c)):
        assert abs(float(sum(row) - c)) < (ROUNDED if tableau is TABLEAUX["dopri8"] else EXACT)


@per_tableau(TABLEAUX)
def test_order_of_the_solution(tableau: Tableau) -> None:
    *upto, beyond = solution_residuals(in_digits(tableau), tableau.order + 1)
    assert max(upto) < (ROUNDED if tableau is TABLEAUX["dopri8"] else EXACT)
    assert beyond > WRONG


@per_tableau(WITH_ESTIMATE)
def test_order_of_the_embedded_solution(tableau: Tableau) -> None:
    *upto, beyond = embedded_residuals(in_digits(tableau), tableau.embedded_order + 1)
    assert max(upto) < (ROUNDED if tableau is TABLEAUX["dopri8"] else EXACT)
    assert beyond > WRONG


def test_two_estimates_make_one() -> None:
    """The orders 5 and 3 of dop853: errors of h^6 and h^4 make one of h^(2 * 6 - 4)."""
    (name,) = (name for name, t in TABLEAUX.items() if t.b_err_lower is not None)
    tableau = in_digits(TABLEAUX[name])
    second = replace(tableau, b_err=tableau.b_err_lower)
    *upto, beyond = embedded_residuals(second, 4)
    assert name == "dop853"
    assert max(upto) < EXACT
    assert beyond > WRONG
    assert tableau.error_order == 2 * (tableau.embedded_order + 1) - (3 + 1)


@per_tableau(TABLEAUX)
def test_order_of_the_interpolant(tableau: Tableau) -> None:
    tableau, name = in_digits(tableau), next(name for name, t in TABLEAUX.items() if t is tableau)
    dense = interpolant(tableau)
    *upto, beyond = dense_residuals(tableau, dense, dense.order + 1)
    assert max(upto) < {"dopri8": DOPRI8, "dopri5": ROUNDED, "tsit5": ROUNDED}.get(name, EXACT)
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
    for found, wanted in ((at_end, (*tableau.b, *(0,) * len(dense.c))), (slope_at_end, end)):
        assert max(abs(float(x - y)) for x, y in zip(found, wanted)) < 1e-30


def test_who_is_fsal() -> None:
    """Fehlberg's and Heun's last stages are at c = 1, but not at the propagated solution."""
    assert {name for name, t in TABLEAUX.items() if t.fsal} == {"bosh3", "dopri5", "tsit5", "dopri8", "vern6"}


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
    tableau, step = in_digits(tableau), Decimal("1e-6")

    def moved(row: Row, j: int) -> Row:
        return (*row[:j], row[j] + step, *row[j + 1 :])

    for j in range(tableau.stages):
        assert max(residuals(tableau.a, moved(tableau.b, j), 1)) > 1e-7
        for b_err in (tableau.b_err, tableau.b_err_lower):
            if b_err is not None:
                assert max(embedded_residuals(replace(tableau, b_err=moved(b_err, j)), 1)) > 1e-7
    for i, row in enumerate(tableau.a):
        if row and tableau.b[i]:
            wrong = replace(tableau, a=(*tableau.a[:i], moved(row, i - 1), *tableau.a[i + 1 :]))
            assert max(solution_residuals(wrong, tableau.order)) > 1e-9


@per_tableau(TABLEAUX)
def test_a_changed_interpolant_is_noticed(tableau: Tableau) -> None:
    tableau = in_digits(tableau)
    dense = interpolant(tableau)
    for p, row in enumerate(dense.weights):
        wrong_row = (row[0] + Decimal("1e-6"), *row[1:])
        wrong = replace(dense, weights=(*dense.weights[:p], wrong_row, *dense.weights[p + 1 :]))
        assert max(dense_residuals(tableau, wrong, 1)) > 1e-7


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


def test_scipy_has_the_same_dop853() -> None:
    rk, tableau = pytest.importorskip("scipy.integrate").DOP853, TABLEAUX["dop853"]
    dense = interpolant(tableau)
    np.testing.assert_allclose(_floats(tableau.b), rk.B, rtol=1e-15)
    np.testing.assert_allclose(_floats((*tableau.c, *dense.c)), [*rk.C, 1, *rk.C_EXTRA], rtol=1e-15)
    np.testing.assert_allclose(_floats(tableau.b_err), rk.E5[:12], rtol=1e-15)
    np.testing.assert_allclose(_floats(tableau.b_err_lower), rk.E3[:12], rtol=1e-14, atol=1e-16)
    for row, their_row in zip((*tableau.a, *dense.a[1:]), (*rk.A, *rk.A_EXTRA)):
        np.testing.assert_allclose(_floats(row), their_row[: len(row)], rtol=1e-15)


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
