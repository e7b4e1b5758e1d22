"""Diagonally implicit methods in compiled loops: their iterations, both tableaux of Kvaerno's, and gradients through them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import torchivp
from compiled.pairs import ROWS, SWING, TIMES, assert_same, both, gradients, torch64
from compiled.test_rosenbrock import RATES, START, robertson
from torchivp.methods.dirk import TRBDF2, Kvaerno4
from torchivp.runners.compiled.diagonal import parts_of, tableau_of

pytestmark = pytest.mark.compiled


def test_two_tableaux_lie_side_by_side() -> None:
    method = Kvaerno4()
    whole, (first, second) = tableau_of(method), parts_of(method)
    assert tableau_of(TRBDF2()) is TRBDF2.tableau
    assert (first.last, second.last) == (second.first, whole.stages)
    assert first.reach > 1 >= second.reach
    assert whole.b[second.first :] == method.at_limits.b  # type: ignore[union-attr]
    assert all(row[: second.first] == (0,) * second.first for row in whole.a[second.first :])
    weights = method.interpolant(torch64, torch.device("cpu"))
    assert weights.shape[1] == whole.stages == len(whole.dense.weights[0])  # type: ignore[union-attr]


def test_a_step_goes_on_as_eagerly() -> None:
    """Fixed steps, no error estimate: one implicit stage, which Newton's own method solves where the simplified one fails."""
    assert_same(*both(SWING, ROWS[0], TIMES, method="implicit_midpoint", dt=0.3))


@pytest.mark.slow
def test_fixed_steps_fail_with_the_same_words() -> None:
    for y0, times in ((ROWS[0], [0.0, 0.1, 6.0, 9.0]), (ROWS[0] * torch.nan, [0.0, 1.0, 2.0, 3.0])):
        settings = {"method": "implicit_midpoint", "controller": torchivp.FixedSteps(times=times), "throw": False}
        eager, compiled = both(SWING, y0, (0.0, times[-1]), **settings)
        assert (compiled.status, compiled.message) == (eager.status, eager.message)


@pytest.mark.slow
def test_newtons_own_method_is_counted() -> None:
    settings: dict[str, Any] = {
        "method": "implicit_midpoint",
        "controller": torchivp.FixedSteps(times=[0, 0.1, 0.5, 3]),
    }
    eager, compiled = both(SWING, ROWS[0], (0.0, 3.0), **settings)
    assert eager.stats.njev > eager.stats.attempted
    assert compiled.stats.nfe == eager.stats.nfe


@pytest.mark.slow
def test_the_attempt_that_is_made_again_for_a_message_does_not_count() -> None:
    assert_same(*both(SWING, ROWS[0], TIMES, method="sdirk2", dense=True, max_steps=4, throw=False))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["kvaerno5", "trbdf2", "kencarp3"])
def test_robertson_is_solved_the_same_and_has_the_same_gradient(method: str) -> None:
    how: dict[str, Any] = {"method": method, "save": "end", "rtol": 1e-6, "atol": 1e-10}
    found = []
    for runner in ("eager", "compiled"):
        sol = torchivp.solve(robertson, START.clone(), (0.0, 1e5), runner=runner, **how)
        found.append((sol, torch.autograd.grad((sol.y[-1] * torch.tensor([1.0, 1e4, 1.0])).sum(), RATES)[0]))
    (eager, by_eager), (compiled, by_compiled) = found
    for name in ("attempted", "accepted", "nfe", "njev", "nlu"):
        assert getattr(compiled.stats, name) == getattr(eager.stats, name), name
    torch.testing.assert_close(compiled.y, eager.y, rtol=1e-8, atol=1e-16)
    torch.testing.assert_close(by_compiled, by_eager, rtol=1e-7, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"dense": True}, {"batch_dims": 1}], ids=["one", "rows"])
@pytest.mark.parametrize("times", [TIMES, -TIMES], ids=["forwards", "backwards"])
@pytest.mark.parametrize("method", ["kvaerno4", "sdirk2"])
def test_the_same_as_eager(method: str, settings: dict[str, Any], times: Tensor) -> None:
    """With ``f`` of the time, outputs inside steps, and steps that end where ``f`` does."""
    y0 = ROWS if "batch_dims" in settings else ROWS[0]
    eager, compiled = both(SWING, y0, times, method=method, **settings)
    assert_same(eager, compiled, nfe=False)  # rows of both kinds share their matrices here, and not in plain PyTorch
    assert (compiled.stats.nfe, compiled.stats.njev) == (eager.stats.nfe, eager.stats.njev)


@pytest.mark.slow
def test_fixed_steps_with_nodes_beyond_them() -> None:
    assert_same(*both(SWING, ROWS[0], TIMES, method="kvaerno5", dt=0.2))


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"batch_dims": 1}], ids=["one", "rows"])
@pytest.mark.parametrize("method", ["kvaerno4", "trapezoid", "implicit_midpoint"])
def test_the_gradient_is_that_of_plain_pytorch(method: str, settings: dict[str, Any]) -> None:
    y0 = (ROWS if settings else ROWS[0]).clone().requires_grad_()
    how = {"method": method, **settings, **({"dt": 0.3} if method == "implicit_midpoint" else {})}
    tight = {} if "dt" in how else {"rtol": 1e-8, "atol": 1e-8}

    def loss(runner: str) -> Tensor:
        sol = torchivp.solve(SWING, y0, TIMES, runner=runner, **how, **tight)
        return (sol.y * torch.linspace(-1, 1, sol.y.numel(), dtype=torch64).view(sol.y.shape)).sum()

    by = [y0, *SWING.parameters()]
    for one, other in zip(gradients(lambda: loss("compiled"), by), gradients(lambda: loss("eager"), by)):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)


@pytest.mark.slow
def test_a_root_that_is_not_found_makes_the_step_shorter() -> None:
    def f(t: Tensor, y: Tensor) -> Tensor:
        return torch.where(y > 0.9, 1e3 * (1 - y) ** 3 - 200 * torch.sin(40 * y), 1.0 + y)

    assert_same(*both(f, torch.tensor([0.1], dtype=torch64), (0.0, 3.0), method="kvaerno5"), tol=1e-6, nfe=False)
