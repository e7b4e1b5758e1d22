"""Outer eigenvalues of a Jacobian from evaluations of ``f``, against those of the matrix."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from torchivp.linalg.spectrum import outer_eigenvalues
from torchivp.per_sample.loop import begin
from torchivp.per_sample.problem import make_rows_problem
from torchivp.span import RowSpan

F64 = torch.float64


def found(f: Callable[[Tensor, Tensor], Tensor], y0: Tensor, rtol: float = 1e-6, atol: float = 1e-9) -> Tensor:
    problem = make_rows_problem(f, y0, (0.0, 1.0), None, batch_dims=1, couple=False, rtol=rtol, atol=atol)
    state = begin(problem)
    return outer_eigenvalues(problem.field, RowSpan(state.t, state.t, state.t, state.y), state.y)


def assert_same_values(values: Tensor, expected: Tensor, tol: float) -> None:
    """The same set of complex numbers in every row, to a share of the largest."""
    for a, b in zip(values, expected):
        gaps = (a.unsqueeze(1) - b).abs()
        assert max(float(gaps.amin(0).max()), float(gaps.amin(1).max())) < tol * float(b.abs().max())


def uneven(dtype: torch.dtype) -> tuple[Callable[[Tensor, Tensor], Tensor], Tensor, Tensor]:
    """A function that is not linear, of numbers of very different sizes; three rows, and their eigenvalues."""
    random = torch.Generator().manual_seed(1)
    matrices = torch.randn(3, 8, 8, generator=random, dtype=F64)
    y0 = torch.randn(3, 8, generator=random, dtype=F64) * 10.0 ** torch.arange(-4, 4)
    size, entries = y0.abs().to(dtype), matrices.to(dtype)
    exact = y0.abs().unsqueeze(2) * matrices * torch.cos(y0 / y0.abs()).unsqueeze(1) / y0.abs().unsqueeze(1)
    f = lambda t, y: torch.einsum("bij,bj->bi", entries, torch.sin(y / size)) * size
    return f, y0.to(dtype), torch.linalg.eigvals(exact)


def test_all_of_small_rows() -> None:
    f, y0, exact = uneven(F64)
    assert_same_values(found(f, y0), exact, 1e-4)


def test_the_largest_in_single_precision() -> None:
    f, y0, exact = uneven(torch.float32)
    largest = found(f, y0).abs().amax(1)
    assert largest.tolist() == pytest.approx(exact.abs().amax(1).tolist(), rel=0.02)


def test_a_complex_row_has_those_of_its_real_and_imaginary_parts() -> None:
    y0 = torch.tensor([[1.0 + 2.0j, 3.0 - 1.0j]], dtype=torch.complex128)
    f = lambda t, y: y * torch.tensor([-3.0 + 1.0j, -50.0 + 0.0j]) + 2 * y.conj()
    pairs = [torch.tensor([[a + 2, -b], [b, a - 2]], dtype=F64) for a, b in ((-3.0, 1.0), (-50.0, 0.0))]
    assert_same_values(found(f, y0), torch.linalg.eigvals(torch.block_diag(*pairs)).unsqueeze(0), 1e-6)


def test_the_outermost_of_large_rows() -> None:
    """Second differences of 500 numbers: 30 of 500 directions find the largest eigenvalue to 3 %."""
    n = 500
    f = lambda t, u: torch.nn.functional.pad(u[:, :-1], (1, 0)) - 2 * u + torch.nn.functional.pad(u[:, 1:], (0, 1))
    values = found(f, torch.sin(torch.linspace(0, 3, 2 * n, dtype=F64)).view(2, n))
    assert values.shape == (2, 30)
    assert (values.real.amin(1) / -4).tolist() == pytest.approx([1.0, 1.0], abs=0.03)


def test_a_row_that_is_not_finite_leaves_the_others_alone() -> None:
    f = lambda t, y: torch.where(y > 2, torch.nan, -7 * y)
    values = found(f, torch.tensor([[1.0, 1.0], [3.0, 1.0]], dtype=F64))
    assert float(values[0].real.min()) == pytest.approx(-7, rel=1e-6)
    assert not values[1].any()


def test_a_number_without_a_tolerance() -> None:
    """A number that is 0, with no absolute tolerance."""
    f = lambda t, y: torch.stack([-4 * y[:, 0], y[:, 0] * y[:, 1]], 1)
    values = found(f, torch.tensor([[1.0, 0.0]], dtype=F64), atol=0.0)
    assert sorted(values.real[0].tolist()) == pytest.approx([-4, 1], abs=1e-6)
