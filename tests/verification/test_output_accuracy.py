"""Values between the steps are as accurate as the steps: y' = cos(t) y on [0, 10], every adaptive method.

The largest error at 101 outputs, and of the dense output anywhere, is at most ten times the largest error at the solver's own
steps; tolerance 1e-9, for methods of order 2 1e-6. Hairer's interpolant of dop853 is not that accurate (52 times; SciPy's is the
same, see test_dop853.py).
"""

from __future__ import annotations

import pytest
import torch

import torchivp
from torchivp.methods import METHODS

ADAPTIVE = [name for name, cls in METHODS.items() if cls().adaptive]
FACTOR = {name: 100 if name == "dop853" else 10 for name in ADAPTIVE}


def f(t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.cos(t) * y


def exact(t: torch.Tensor) -> torch.Tensor:
    return torch.exp(torch.sin(t)).unsqueeze(-1)


def worst(t: torch.Tensor, y: torch.Tensor) -> float:
    return float((y - exact(t)).abs().max())


def errors(method: str, times: torch.Tensor, tol: float) -> tuple[float, float, float]:
    """Largest errors at the solver's steps, at the outputs, and of the dense output."""
    steps: list[tuple[float, float]] = []
    with torch.no_grad():
        sol = torchivp.solve(
            f, exact(times[0]), times, method=method, rtol=tol, atol=tol, dense=True,
            on_step=lambda t, y: steps.append((t, float(y))),
        )  # fmt: skip
        anywhere = torch.linspace(0, 10, 20_001, dtype=torch.float64)
        t, y = torch.tensor(steps, dtype=torch.float64).unbind(1)
        assert len(steps) == sol.stats.accepted
        return worst(t, y.unsqueeze(-1)), worst(sol.t, sol.y), worst(anywhere, sol(anywhere))


@pytest.mark.parametrize("method", ADAPTIVE)
def test_outputs_and_dense_output(method: str) -> None:
    tol = 1e-9 if METHODS[method]().order > 2 else 1e-6
    at_steps, at_outputs, dense = errors(method, torch.linspace(0, 10, 101, dtype=torch.float64), tol)
    assert at_outputs <= FACTOR[method] * at_steps
    assert dense <= FACTOR[method] * at_steps


@pytest.mark.parametrize("method", ADAPTIVE)
def test_decreasing_time(method: str) -> None:
    tol = 1e-7 if METHODS[method]().order > 2 else 1e-4
    at_steps, at_outputs, dense = errors(method, torch.linspace(10, 0, 101, dtype=torch.float64), tol)
    assert at_outputs <= FACTOR[method] * at_steps
    assert dense <= FACTOR[method] * at_steps


@pytest.mark.parametrize("method", ADAPTIVE)
def test_outputs_do_not_change_the_steps(method: str) -> None:
    """However many values are asked for, the mesh stays, and the end is the same to the last bit."""
    tol = 1e-5
    settings = {"method": method, "rtol": tol, "atol": tol}
    y0 = torch.ones(1, dtype=torch.float64)
    with torch.no_grad():
        few = torchivp.solve(f, y0, (0.0, 3.0), **settings)
        many = torchivp.solve(f, y0, torch.linspace(0, 3, 300, dtype=torch.float64), dense=True, **settings)
    assert torch.equal(few.y[-1], many.y[-1])
    assert few.stats.attempted == many.stats.attempted


@pytest.mark.parametrize("method", METHODS)
def test_dense_output_meets_the_steps(method: str) -> None:
    """At step points, the ends included, the dense output is the step's value; at given times it is the saved value."""
    adaptive = METHODS[method]().adaptive
    settings = {"rtol": 1e-6, "atol": 1e-6} if adaptive else {"dt": 0.1}
    y0 = torch.ones(1, dtype=torch.float64)
    with torch.no_grad():
        steps = torchivp.solve(f, y0, (0.0, 3.0), method=method, save="steps", dense=True, **settings)
        given = torchivp.solve(
            f, y0, torch.tensor([0.0, 0.31, 1.57, 2.999, 3.0]), method=method, dense=True, **settings
        )
    rounding = 1e-13 if METHODS[method]().order < 8 else 1e-11  # weights of 1e4: docs/design/verner-dense.md
    assert torch.allclose(steps(steps.t), steps.y, rtol=rounding, atol=rounding)
    assert torch.allclose(given(given.t), given.y, rtol=rounding, atol=rounding)
