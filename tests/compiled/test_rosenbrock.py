"""Rosenbrock methods in compiled loops: Jacobians of the traced ``f``, and gradients through them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import torchivp
from compiled.pairs import ROWS, SWING, TIMES, assert_same, both, torch64
from torchivp.runners.compiled.systems import inverse, solver

RATES = torch.tensor([0.04, 1e4, 3e7], dtype=torch64, requires_grad=True)
START = torch.tensor([1.0, 0.0, 0.0], dtype=torch64)


def robertson(t: Tensor, y: Tensor) -> Tensor:
    a, b, c = y.unbind(-1)
    r1, r2, r3 = RATES[0] * a, RATES[1] * b * c, RATES[2] * b * b
    return torch.stack((r2 - r1, r1 - r2 - r3, r3), -1)


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch64)


@pytest.mark.parametrize("shape", [(3, 3), (5, 4, 4), (2, 3, 8, 8), (1, 1), (4, 20, 20)], ids=str)
def test_systems_are_solved(shape: tuple[int, ...]) -> None:
    matrix, b = random(*shape), random(*shape[:-1])
    torch.testing.assert_close(solver(matrix)(b), torch.linalg.solve(matrix, b), rtol=1e-10, atol=1e-10)


def test_pivots_are_looked_for() -> None:
    matrix = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 2.0]], dtype=torch64)
    assert torch.equal(inverse(matrix) @ matrix, torch.eye(3, dtype=torch64))


@pytest.mark.slow
@pytest.mark.compiled
def test_robertson_is_solved_the_same_and_has_the_same_gradient() -> None:
    how: dict[str, Any] = {"method": "rodas5p", "save": "end", "rtol": 1e-6, "atol": 1e-10}
    found = []
    for runner in ("eager", "compiled"):
        sol = torchivp.solve(robertson, START.clone(), (0.0, 1e5), runner=runner, **how)
        found.append((sol, torch.autograd.grad((sol.y[-1] * torch.tensor([1.0, 1e4, 1.0])).sum(), RATES)[0]))
    (eager, by_eager), (compiled, by_compiled) = found
    assert (compiled.stats.accepted, compiled.stats.njev) == (eager.stats.accepted, eager.stats.njev)
    torch.testing.assert_close(compiled.y, eager.y, rtol=1e-10, atol=1e-16)
    torch.testing.assert_close(by_compiled, by_eager, rtol=1e-8, atol=0)


@pytest.mark.slow
@pytest.mark.compiled
@pytest.mark.parametrize("settings", [{"dense": True}, {"batch_dims": 1}], ids=["one", "rows"])
@pytest.mark.parametrize("times", [TIMES, -TIMES], ids=["forwards", "backwards"])
def test_the_same_as_eager(settings: dict[str, Any], times: Tensor) -> None:
    """With ``f`` of the time, outputs inside steps, and a state that stays whole."""
    y0 = ROWS if "batch_dims" in settings else ROWS[0]
    assert_same(*both(SWING, y0, times, method="rosenbrock23", **settings), nfe=False)


@pytest.mark.slow
@pytest.mark.compiled
def test_an_explicit_solve_that_runs_out_of_steps_is_called_stiff() -> None:
    how: dict[str, Any] = {"save": "end", "rtol": 1e-6, "atol": 1e-8, "max_steps": 3000, "throw": False}
    with torch.no_grad(), pytest.warns(torchivp.StiffnessWarning):
        sol = torchivp.solve(robertson, START, (0.0, 1e5), runner="compiled", **how)
    assert sol.status is torchivp.Status.STIFF
    assert sol.stats.attempted == 3000
    assert "kvaerno5" in sol.message
