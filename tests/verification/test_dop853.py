"""``dop853`` is SciPy's DOP853: the same steps, error estimates and values between the steps, to rounding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import torchivp
from torchivp.estimates import combined
from torchivp.methods import METHODS
from torchivp.per_sample.tolerance import RowTolerance, of_rows
from torchivp.tolerance import Tolerance, max_norm

integrate = pytest.importorskip("scipy.integrate", reason="SciPy is not installed")
TABLEAU = METHODS["dop853"].tableau  # type: ignore[attr-defined]
Y0 = np.array([1.0, 0.3, -0.5])


def f(t: Tensor, y: Tensor) -> Tensor:
    """Not autonomous, and not linear."""
    return torch.stack([y[1] * torch.cos(t), -y[0] * y[2], y[0] * y[1] - 0.3 * torch.sin(2 * t)])


def for_scipy(t: float, y: np.ndarray) -> np.ndarray:
    return f(torch.tensor(t, dtype=torch.float64), torch.from_numpy(y)).numpy()


def b(row: tuple) -> Tensor:
    return torch.tensor([float(x) for x in row], dtype=torch.float64)


def test_the_same_steps_and_values_between_them() -> None:
    theirs = integrate.solve_ivp(for_scipy, (0.0, 8.0), Y0, method="DOP853", rtol=1e-8, atol=1e-10, dense_output=True)
    steps = torchivp.FixedSteps(times=theirs.t.tolist())
    with torch.no_grad():
        ours = torchivp.solve(
            f, torch.from_numpy(Y0), (0.0, 8.0), method="dop853", controller=steps, save="steps", dense=True
        )
    assert len(theirs.t) > 10
    np.testing.assert_allclose(ours.y.numpy(), theirs.y.T, rtol=0, atol=1e-13)
    between = np.concatenate([theirs.t[:-1] + x * np.diff(theirs.t) for x in (0.1, 0.37, 0.62, 0.9)])
    np.testing.assert_allclose(ours(torch.from_numpy(between)).numpy(), theirs.sol(between).T, rtol=0, atol=1e-12)


def test_the_same_estimates() -> None:
    solver = integrate.DOP853(for_scipy, 0.0, Y0, 8.0, rtol=1e-6, atol=1e-8)
    tolerance = Tolerance(1e-6, torch.tensor(1e-8, dtype=torch.float64))
    estimates = []
    while solver.status == "running":
        before, h = solver.y, solver.h_abs
        solver.step()
        h = solver.step_size
        scale = solver.atol + solver.rtol * np.maximum(np.abs(before), np.abs(solver.y))
        k = torch.from_numpy(solver.K[:12])
        error, lower = (h * (b(row) @ k).unsqueeze(0) for row in (TABLEAU.b_err, TABLEAU.b_err_lower))
        y0, y1 = (torch.from_numpy(y).unsqueeze(0) for y in (before, solver.y))
        theirs = solver._estimate_error_norm(solver.K, h, scale)
        assert tolerance.ratio(error, y0, y1, lower) == pytest.approx(theirs, rel=1e-5)  # sums of 5 that leave 1e-6
        assert tolerance.ratio(error, y0, y1) > 1.1 * theirs  # the estimate of order 5 alone is larger
        estimates.append(theirs)
    assert len(estimates) > 10


def test_between_the_steps_as_accurate_as_scipy() -> None:
    """y' = cos(t) y: both are about 50 times less accurate than at the steps."""
    times = torch.linspace(0, 10, 5_001, dtype=torch.float64)
    theirs = integrate.solve_ivp(
        lambda t, y: np.cos(t) * y, (0.0, 10.0), [1.0], method="DOP853", rtol=1e-9, atol=1e-9, dense_output=True
    )
    with torch.no_grad():
        ours = torchivp.solve(
            lambda t, y: torch.cos(t) * y,
            torch.ones(1, dtype=torch.float64),
            (0.0, 10.0),
            method="dop853",
            rtol=1e-9,
            atol=1e-9,
            dense=True,
        )
    exact = np.exp(np.sin(times.numpy()))
    error = np.abs(ours(times)[:, 0].numpy() - exact).max()  # other step sizes than SciPy's: 3.5e-8 and 1.8e-8
    assert error <= 3 * np.abs(theirs.sol(times.numpy())[0] - exact).max()


def test_combined() -> None:
    error = torch.tensor([0.0, 0.0, 3.0, 3.0, 1e-200, 1e200], dtype=torch.float64)
    lower = torch.tensor([0.0, 1.0, 0.0, 40.0, 1e-200, 1e200], dtype=torch.float64)
    found = combined(error, lower)
    assert found.tolist()[:3] == [0.0, 0.0, 3.0]
    assert found[3] == pytest.approx(9 / 5)
    assert found[4:].tolist() == pytest.approx([1e-200 / 1.01**0.5, 1e200 / 1.01**0.5])
    bad = combined(torch.tensor([torch.nan, 1.0, torch.inf]), torch.tensor([1.0, torch.nan, 1.0]))
    assert not torch.isfinite(bad).any()


@pytest.mark.parametrize("norm", ["rms", "max"])
def test_each_row_has_its_own_norms(norm: str) -> None:
    generator = torch.Generator().manual_seed(0)
    error, lower, y0, y1 = (torch.randn(1, 12, dtype=torch.float64, generator=generator) for _ in range(4))
    atol = torch.tensor(0.1, dtype=torch.float64)
    rows = RowTolerance(1e-2, atol, of_rows(3, False, norm), norm)
    alone = Tolerance(1e-2, atol, max_norm) if norm == "max" else Tolerance(1e-2, atol)
    parts = [alone.ratio(*(x[:, i : i + 4] for x in (error, y0, y1, lower))) for i in (0, 4, 8)]
    assert rows.ratio(error, y0, y1, lower).tolist() == pytest.approx(parts)
