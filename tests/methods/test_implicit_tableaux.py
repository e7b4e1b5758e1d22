"""Every implicit tableau is proved by all rooted-tree order conditions, fails the next order, and is as stable as it says."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from torchivp.methods import METHODS
from torchivp.methods.diagonal_rk import DiagonalRungeKutta
from torchivp.methods.dirk import kencarp3, kencarp4, kencarp5
from torchivp.methods.implicit_rk import ImplicitRungeKutta, coefficients
from torchivp.methods.order_conditions import dense_residuals, embedded_residuals, solution_residuals
from torchivp.methods.tableau import DenseOutput, Row, Tableau, hermite

DIAGONAL = {name: m.tableau for name, m in METHODS.items() if issubclass(m, DiagonalRungeKutta)}
FULL = {name: m.tableau for name, m in METHODS.items() if issubclass(m, ImplicitRungeKutta)}
COMPANIONS = {module.__name__.split(".")[-1]: module.COMPANION for module in (kencarp3, kencarp4, kencarp5)}
TABLEAUX = {**DIAGONAL, **FULL}
ALL = {**TABLEAUX, **{f"companion of {name}": t for name, t in COMPANIONS.items()}}
WITH_ESTIMATE = {name: t for name, t in ALL.items() if t.b_err is not None}
UNDAMPED = {"implicit_midpoint", "trapezoid", "gauss4", "gauss6"}  # of modulus 1 at infinity
# Kvaerno printed 17 digits; all others are algebraic numbers to 60, or rationals to 24.
EXACT, ROUNDED = 1e-23, 1e-16
WRONG = 1e-5


def per_tableau(tableaux: dict[str, Tableau]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("name", tableaux)


def small(name: str) -> float:
    return ROUNDED if name == "kvaerno5" else EXACT


def interpolant(tableau: Tableau) -> DenseOutput:
    return tableau.dense or hermite(tableau)


def arrays(tableau: Tableau) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A, b, and the weights of the embedded solution (b without one)."""
    s = tableau.stages
    a = np.array([[float(x) for x in (*row, *(0,) * (s - len(row)))] for row in tableau.a])
    b = np.array([float(x) for x in tableau.b])
    error = np.array([float(x) for x in tableau.b_err or (0,) * s])
    return a, b, b - error


def stability(tableau: Tableau, z: complex) -> complex:
    """R(z), which multiplies the solution of y' = z y in a step of size 1."""
    a, b, _ = arrays(tableau)
    one = np.ones(len(b))
    return 1 + z * (b @ np.linalg.solve(np.eye(len(b)) - z * a, one))


def test_how_many() -> None:
    assert len(DIAGONAL) == 11
    assert len(FULL) == 4
    assert {n for n, t in TABLEAUX.items() if t.b_err is None} == {
        "implicit_euler", "implicit_midpoint", "trapezoid", "gauss4", "gauss6",
    }  # fmt: skip


@per_tableau(DIAGONAL)
def test_shape_of_diagonal_ones(name: str) -> None:
    """The first stage is explicit, all others have one gamma."""
    t = DIAGONAL[name]
    assert [len(row) for row in t.a] == [0, *range(2, t.stages + 1)]
    assert len({row[i] for i, row in enumerate(t.a) if i}) == 1
    assert t.c[0] == 0


@per_tableau(FULL)
def test_shape_of_full_ones(name: str) -> None:
    t = FULL[name]
    assert all(len(row) == t.stages and row[0] == 0 for row in t.a[1:])
    assert t.b[0] == 0


@per_tableau(ALL)
def test_rows_sum_to_nodes(name: str) -> None:
    for row, c in zip(ALL[name].a, ALL[name].c):
        assert abs(float(sum(row) - c)) < small(name)


@per_tableau(ALL)
def test_order_of_the_solution(name: str) -> None:
    *upto, beyond = solution_residuals(ALL[name], ALL[name].order + 1)
    assert max(upto) < small(name)
    assert beyond > WRONG


@per_tableau(WITH_ESTIMATE)
def test_order_of_the_embedded_solution(name: str) -> None:
    t = WITH_ESTIMATE[name]
    *upto, beyond = embedded_residuals(t, t.embedded_order + 1)
    assert max(upto) < small(name)
    assert beyond > WRONG
    assert t.error_order == 1 + min(t.order, t.embedded_order)


@per_tableau(TABLEAUX)
def test_order_of_the_interpolant(name: str) -> None:
    t = TABLEAUX[name]
    *upto, beyond = dense_residuals(t, interpolant(t), interpolant(t).order + 1)
    assert max(upto) < small(name)
    assert beyond > WRONG
    assert interpolant(t).order >= min(t.order, 3) - (name in ("radau3", "gauss4"))


@per_tableau(COMPANIONS)
def test_companions_share_nodes_and_weights(name: str) -> None:
    implicit, explicit = TABLEAUX[name], COMPANIONS[name]
    assert (implicit.c, implicit.b, implicit.b_err) == (explicit.c, explicit.b, explicit.b_err)
    assert [len(row) for row in explicit.a] == list(range(explicit.stages))


@per_tableau(TABLEAUX)
def test_stability(name: str) -> None:
    """A-stable (|R| <= 1 on the imaginary axis, R without poles on the left), and L-stable but for the undamped ones."""
    t = TABLEAUX[name]
    on_axis = [abs(stability(t, 1j * x)) for x in np.geomspace(1e-3, 1e4, 400)]
    assert max(on_axis) < 1 + 1e-9
    inside = [abs(stability(t, -x + 1j * x * y)) for x in np.geomspace(1e-3, 1e4, 40) for y in (-3, -1, 0, 1, 3)]
    assert max(inside) < 1
    assert np.isclose(abs(stability(t, -1e6)), 1 if name in UNDAMPED else 0, atol=3e-3)


@per_tableau(TABLEAUX)
def test_who_is_stiffly_accurate(name: str) -> None:
    assert TABLEAUX[name].fsal == (name not in {"implicit_midpoint", "gauss4", "gauss6"})


def test_nodes_behind_the_step() -> None:
    behind = {name for name, t in TABLEAUX.items() if max(t.c) > 1}
    assert behind == {"kvaerno4", "kvaerno5"}
    assert all(0 <= c <= 1 for name in ("kencarp4", "kencarp5") for c in TABLEAUX[name].c)
    for name in behind:
        inside = METHODS[name].at_limits
        assert inside is not None
        assert (inside.order, inside.error_order) == (TABLEAUX[name].order, TABLEAUX[name].error_order)


@pytest.mark.parametrize("name", ["trbdf2", "kencarp4", "radau5"])
def test_a_changed_coefficient_is_noticed(name: str) -> None:
    t = TABLEAUX[name]
    step = Fraction(1, 10**6)

    def moved(row: Row, j: int) -> Row:
        return (*row[:j], row[j] + step, *row[j + 1 :])

    for j in range(t.stages):
        assert max(solution_residuals(replace(t, b=moved(t.b, j)), t.order)) > 1e-7
        assert max(embedded_residuals(replace(t, b_err=moved(t.b_err, j)), t.embedded_order)) > 1e-7
    for i, row in enumerate(t.a):
        if row and t.b[i]:
            wrong = replace(t, a=(*t.a[:i], moved(row, i), *t.a[i + 1 :]))
            assert max(solution_residuals(wrong, t.order)) > 1e-9


# ---- against the coefficients of others


@per_tableau(FULL)
def test_eigenvalues_diagonalise(name: str) -> None:
    """``A = back * diag(eigenvalues) * into``, one of each pair and twice its real part."""
    import torch

    rk = coefficients(FULL[name], torch.float64, torch.device("cpu"))
    diagonal = torch.diag(torch.tensor(rk.eigenvalues, dtype=torch.complex128))
    assert torch.allclose((rk.back @ diagonal @ rk.into).real, rk.a, atol=1e-15)
    assert len(rk.eigenvalues) == (len(rk.a) + 1) // 2


def test_scipy_has_the_same_radau() -> None:
    theirs = pytest.importorskip("scipy.integrate._ivp.radau")
    t = TABLEAUX["radau5"]
    a, _, _ = arrays(t)
    np.testing.assert_allclose([float(c) for c in t.c[1:]], theirs.C, rtol=0, atol=1e-16)
    np.testing.assert_allclose(
        np.sort_complex(1 / np.linalg.eigvals(a[1:, 1:])),
        np.sort_complex([theirs.MU_REAL, theirs.MU_COMPLEX, np.conj(theirs.MU_COMPLEX)]),
    )
    assert np.isclose(METHODS["radau5"].smoothing, 1 / theirs.MU_REAL, rtol=1e-15)
    # f + E Z / dt, times gamma = 1 / MU_REAL, with Z = dt A K
    wanted = np.concatenate([[1], theirs.E @ a[1:, 1:]]) / theirs.MU_REAL
    np.testing.assert_allclose([float(x) for x in t.b_err], wanted, rtol=0, atol=1e-15)
    weights = np.array([[float(x) for x in row[1:]] for row in interpolant(t).weights])
    np.testing.assert_allclose(weights, np.linalg.multi_dot([theirs.P.T, a[1:, 1:]]), rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", ["kvaerno3", "kvaerno4", "kvaerno5", "kencarp3", "kencarp4", "kencarp5"])
def test_diffrax_has_the_same_digits(name: str) -> None:
    diffrax = pytest.importorskip("diffrax")
    theirs = getattr(diffrax, name.replace("kvaerno", "Kvaerno").replace("kencarp", "KenCarp")).tableau
    theirs = theirs.tableaus[1] if hasattr(theirs, "tableaus") else theirs
    a, b, _ = arrays(TABLEAUX[name])
    for i, row in enumerate(theirs.a_lower, start=1):
        np.testing.assert_allclose(a[i, :i], row, rtol=0, atol=1e-10)  # gamma has 11 digits there
    np.testing.assert_allclose(b, theirs.b_sol, rtol=0, atol=1e-10)
