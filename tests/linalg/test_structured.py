"""Bands, patterns and products: the same solutions as with all entries, from fewer derivatives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import torchivp
from torchivp.errors import InputError
from torchivp.linalg import Autograd, Banded, DenseMatrix, DiagonalMatrix, Linear, MatrixFree, Sparse, linearise
from torchivp.linalg.banded import BandedMatrix, BlockFactors
from torchivp.linalg.choose import LARGE, choose_jacobian, from_sparsity
from torchivp.linalg.lapack import LapackFactors
from torchivp.linalg.structured import coloured
from torchivp.problem import make_problem
from torchivp.span import OneSpan


def band(lower: int, upper: int) -> Any:
    """A nonlinear field whose slope i depends on states ``i - lower .. i + upper``."""

    def f(t: Tensor, y: Tensor) -> Tensor:
        n = y.shape[-1]
        padded = torch.nn.functional.pad(y, (lower, upper))
        terms = [(1 + k) * padded[..., k : k + n] ** (1 + k % 2) for k in range(lower + upper + 1)]
        return torch.stack(terms).sum(0) * (1 + t) - 3 * y

    return f


def arrow(t: Tensor, y: Tensor) -> Tensor:
    """All depend on the first, and the first on itself: one group of columns besides the first, many of rows."""
    return y * y[..., :1] - y**2 * t


def at_a_point(f: Any, y: Tensor, how: Any) -> Linear:
    problem = make_problem(f, y, (0.7, 1.5))
    problem.field.jacobian = how
    span = OneSpan(0.7, 1.5, size=0.8)
    return linearise(problem.field, span, problem.y0, problem.field.start_slope(span, problem.y0))


def assert_same(found: Linear, wanted: Linear, y: Tensor, tol: float = 1e-12) -> None:
    v = torch.randn(1, y.numel(), dtype=y.dtype)
    close = {"rtol": tol, "atol": tol * 100}
    torch.testing.assert_close(found.times(v), wanted.times(v), **close)
    torch.testing.assert_close(found.at_time, wanted.at_time)
    torch.testing.assert_close(found.shifted(0.05).solve(v), wanted.shifted(0.05).solve(v), **close)


@pytest.mark.parametrize("widths", [(0, 0), (1, 1), (2, 0), (0, 3), (2, 1)], ids=str)
@pytest.mark.parametrize("n", [1, 7, 230])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
def test_banded(widths: tuple[int, int], n: int, dtype: torch.dtype) -> None:
    y = torch.randn(n, dtype=dtype)
    found = at_a_point(band(*widths), y, Banded(*widths))
    assert_same(found, at_a_point(band(*widths), y, Autograd()), y)
    large = n * (2 if dtype.is_complex else 1) > 200
    real = widths == (0, 0) and not dtype.is_complex
    form = DiagonalMatrix if real else BandedMatrix if large else DenseMatrix
    assert type(found.matrix) is form


def pattern_of(f: Any, y: Tensor) -> np.ndarray:
    return at_a_point(f, y, Autograd()).matrix.entries[0].numpy() != 0


@pytest.mark.parametrize("f", [band(1, 2), arrow, lambda t, y: arrow(t, y).flip(0)], ids=["band", "arrow", "flipped"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
def test_sparse(f: Any, dtype: torch.dtype) -> None:
    y = torch.randn(9, dtype=torch.float64)
    how = Sparse(pattern_of(f, y))
    y = y.to(dtype)
    assert_same(at_a_point(f, y, how), at_a_point(f, y, Autograd()), y)


def test_few_groups() -> None:
    """The arrow's columns fall into two groups, and its rows into as many as there are."""
    y = torch.randn(9, dtype=torch.float64)
    pattern = pattern_of(arrow, y)
    assert coloured(pattern).max() + 1 == 9
    assert coloured(pattern.T).max() + 1 == 2
    how = Sparse(pattern)
    at_a_point(arrow, y, how)
    assert how.groups[False].number == 2


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
def test_matrix_free(dtype: torch.dtype) -> None:
    y = torch.randn(12, dtype=dtype)
    assert_same(at_a_point(band(1, 1), y, MatrixFree(tol=1e-13)), at_a_point(band(1, 1), y, Autograd()), y, 1e-9)


def test_what_does_not_converge_is_not_finite() -> None:
    y = torch.randn(12, dtype=torch.float64)
    linear = at_a_point(band(1, 1), y, MatrixFree(most=2))
    assert torch.isnan(linear.shifted(10.0).solve(torch.randn(1, 12, dtype=torch.float64))).all()


def as_scipy(pattern: np.ndarray) -> Any:
    return pytest.importorskip("scipy.sparse").csr_matrix(pattern)


@pytest.mark.parametrize(
    "form",
    [lambda p: p, torch.from_numpy, lambda p: torch.from_numpy(p).to_sparse(), np.ndarray.tolist, as_scipy],
    ids=["numpy", "tensor", "sparse tensor", "lists", "scipy"],
)
def test_forms_of_a_pattern(form: Any) -> None:
    pattern = np.random.default_rng(0).random((12, 12)) < 0.3
    how = from_sparsity(form(pattern))
    assert isinstance(how, Sparse)
    np.testing.assert_array_equal(how.pattern, pattern)


@pytest.mark.parametrize(
    ("sparsity", "expected"),
    [((1, 2), "Banded(1, 2)"), (np.eye(5), "Banded(0, 0)"), (np.eye(40, k=2) + np.eye(40), "Banded(0, 2)")],
    ids=["pair", "diagonal", "narrow"],
)
def test_what_is_a_band(sparsity: Any, expected: str) -> None:
    assert repr(from_sparsity(sparsity)) == expected


def test_large_states_are_matrix_free() -> None:
    for n, kind in ((LARGE, Autograd), (LARGE + 1, MatrixFree)):
        layout = make_problem(arrow, torch.zeros(n), (0.0, 1.0)).layout
        assert isinstance(choose_jacobian(None, None, layout, True, "rodas4"), kind)


class TestErrors:
    def solve(self, **more: Any) -> Any:
        return torchivp.solve(arrow, torch.ones(4, dtype=torch.float64), (0.0, 1.0), **more)

    def test_explicit_methods_ask_for_none(self) -> None:
        with pytest.raises(InputError, match=r"jac_sparsity is about the Jacobian of f, and Tsit5\(\) asks for none"):
            self.solve(jac_sparsity=np.eye(4))

    def test_one_of_them(self) -> None:
        with pytest.raises(InputError, match="Give one of them"):
            self.solve(method="rodas4", jac=lambda t, y: y, jac_sparsity=np.eye(4))

    def test_not_a_function(self) -> None:
        with pytest.raises(TypeError, match="jac is a Tensor, which cannot be called"):
            self.solve(method="rodas4", jac=torch.eye(4))

    def test_a_pattern_of_another_size(self) -> None:
        with pytest.raises(InputError, match=r"jac_sparsity has shape \(12, 12\), but a state holds 4"):
            self.solve(method="rodas4", jac_sparsity=np.ones((12, 12)))

    def test_a_pattern_that_is_none(self) -> None:
        with pytest.raises(InputError, match="a pattern is a square matrix"):
            self.solve(method="rodas4", jac_sparsity=np.ones(3))

    @pytest.mark.parametrize("how", [Banded(0, 0), Sparse(np.eye(4))], ids=str)
    def test_a_structure_that_lacks_entries(self, how: Any) -> None:
        with pytest.raises(InputError, match="entries outside of the structure"):
            self.solve(method="rodas4", jac=how)

    def test_numbers_that_are_no_widths(self) -> None:
        with pytest.raises(InputError, match="counts diagonals"):
            Banded(-1, 0)


class TestSolves:
    """Whole solves, with their gradients."""

    def gradient(self, f: Any, n: int, **more: Any) -> tuple[Tensor, Tensor, Tensor]:
        w = torch.tensor(1.1, dtype=torch.float64, requires_grad=True)
        y0 = torch.linspace(0.1, 0.5, n, dtype=torch.float64).requires_grad_()
        sol = torchivp.solve(lambda t, y: -w * f(t, y), y0, (0.0, 0.2), method="rodas4", rtol=1e-5, atol=1e-7, **more)
        (sol.y[-1] ** 2).sum().backward()
        return sol.y[-1].detach(), y0.grad, w.grad

    @pytest.mark.parametrize("gradient", ["discrete", "direct"])
    @pytest.mark.parametrize(
        "how",
        [
            {"jac_sparsity": (1, 1)},
            {"jac": Sparse(np.eye(6) + np.eye(6, k=1) + np.eye(6, k=-1))},
            {"jac": MatrixFree(1e-13)},
        ],
        ids=["band", "pattern", "products"],
    )
    def test_the_same_numbers(self, how: dict[str, Any], gradient: str) -> None:
        wanted = self.gradient(band(1, 1), 6)
        for found, expected in zip(self.gradient(band(1, 1), 6, gradient=gradient, **how), wanted):
            torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)

    def test_a_wide_band(self) -> None:
        wanted = self.gradient(band(1, 1), 210)
        for found, expected in zip(self.gradient(band(1, 1), 210, jac_sparsity=(1, 1)), wanted):
            torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)

    def test_rows(self) -> None:
        y0 = torch.rand(3, 6, dtype=torch.float64)
        kw: dict[str, Any] = {"method": "rodas4", "batch_dims": 1, "save": "end"}

        def f(t: Tensor, y: Tensor) -> Tensor:
            return -band(1, 1)(t.unsqueeze(-1), y)

        plain = torchivp.solve(f, y0, (0.0, 0.2), **kw)
        for how in ({"jac_sparsity": (1, 1)}, {"jac": MatrixFree(1e-13)}):
            torch.testing.assert_close(torchivp.solve(f, y0, (0.0, 0.2), **kw, **how).y, plain.y, rtol=1e-9, atol=1e-11)

    def test_a_given_jacobian_in_rows_of_vmap(self) -> None:
        y0 = torch.rand(3, 4, dtype=torch.float64)

        def f(t: Tensor, y: Tensor) -> Tensor:
            return -(y**2)

        def solve(y0: Tensor, **more: Any) -> Tensor:
            return torchivp.solve(f, y0, (0.0, 1.0), method="rodas4", **more).y[-1]

        found = torch.func.vmap(lambda y: solve(y, jac=lambda t, y: torch.diag(-2 * y)))(y0)
        torch.testing.assert_close(found, torch.func.vmap(solve)(y0))


@pytest.mark.parametrize("widths", [(1, 1), (2, 0), (0, 3)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.complex128], ids=str)
def test_bands_by_lapack_and_in_blocks(widths: tuple[int, int], dtype: torch.dtype) -> None:
    pytest.importorskip("scipy")
    n, generator = 150, torch.Generator().manual_seed(0)
    entries = torch.randn(2, sum(widths) + 1, n, dtype=dtype, generator=generator)
    for k in range(len(entries[0])):  # zero where there is no such row
        i = torch.arange(n) + k - widths[1]
        entries[:, k] = torch.where((i >= 0) & (i < n), entries[:, k], 0)
    b, matrix = torch.randn(2, n, dtype=dtype, generator=generator), BandedMatrix(entries, *widths)
    with torch.no_grad():
        factors = matrix.shifted(0.1)
        assert isinstance(factors, LapackFactors)
        x = factors.solve(b)
    in_blocks = matrix.shifted(0.1)
    assert isinstance(in_blocks, BlockFactors)
    tol = 1e-4 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(x, in_blocks.solve(b), rtol=tol, atol=tol)
    torch.testing.assert_close(x - 0.1 * matrix.times(x), b, rtol=tol, atol=tol)


def test_a_singular_band_gives_no_finite_solution() -> None:
    pytest.importorskip("scipy")
    with torch.no_grad():
        entries = torch.ones(1, 1, 5, dtype=torch.float64)
        assert not torch.isfinite(LapackFactors(entries * 0, 0, 0).solve(torch.ones(1, 5, dtype=torch.float64))).any()
