"""What is kept of a solve: given times, every step, the end, a function of the state."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import torchivp
from torchivp import solve
from torchivp.runners import eager

METHODS = sorted(torchivp.methods.METHODS)


def f(t: Tensor, y: Tensor) -> Tensor:
    """y = exp(sin t)."""
    return torch.cos(t) * y


def exact(t: Tensor) -> Tensor:
    return torch.exp(torch.sin(t)).unsqueeze(-1)


ONE = torch.ones(1, dtype=torch.float64)
FINE = {"method": "dopri8", "rtol": 1e-9, "atol": 1e-11}


def adaptive(method: str) -> bool:
    return torchivp.methods.METHODS[method]().adaptive


def test_given_times_are_the_times() -> None:
    t = torch.tensor([0.0, 1e-9, 0.5, 0.5 + 1e-12, 3.0, 9.99999, 10.0], dtype=torch.float64)
    sol = solve(f, ONE, t, **FINE)
    assert torch.equal(sol.t, t)
    assert torch.equal(sol.y[0], ONE)
    torch.testing.assert_close(sol.y, exact(t), rtol=1e-7, atol=0)


def test_more_times_than_steps_cost_no_steps() -> None:
    few = solve(f, ONE, (0.0, 10.0), rtol=1e-7, atol=1e-9)
    many = solve(f, ONE, torch.linspace(0, 10, 2000, dtype=torch.float64), rtol=1e-7, atol=1e-9)
    assert many.stats == few.stats
    assert torch.equal(many.y[-1], few.y[-1])
    assert (many.y - exact(many.t)).abs().max() < 1e-5


@pytest.mark.parametrize("method", METHODS)
def test_which_times_are_saved_changes_no_value(method: str) -> None:
    """A value at a time is the same whatever else is saved (with fixed steps of their own size, too)."""
    dt = None if adaptive(method) else 0.05
    options = {"method": method, "dt": dt, "rtol": 1e-3, "atol": 1e-3}
    all_times = torch.linspace(0, 3, 31, dtype=torch.float64)
    every = solve(f, ONE, all_times, **options)
    third = solve(f, ONE, all_times[::3], **options)
    end = solve(f, ONE, all_times, save="end", **options)
    torch.testing.assert_close(third.y, every.y[::3], rtol=1e-13, atol=0)
    torch.testing.assert_close(end.y[-1], every.y[-1], rtol=1e-13, atol=0)


@pytest.mark.parametrize("method", METHODS)
def test_every_step_is_saved(method: str) -> None:
    options: dict[str, Any] = {"method": method, "dt": None if adaptive(method) else 0.1, "rtol": 1e-4, "atol": 1e-4}
    seen = [(0.0, ONE)]
    sol = solve(f, ONE, (0.0, 3.0), save="steps", on_step=lambda t, y: seen.append((t, y)), **options)
    assert len(sol.t) == sol.stats.accepted + 1
    assert sol.t.tolist() == [t for t, _ in seen]
    assert torch.equal(sol.y, torch.stack([y for _, y in seen]))
    assert sol.t[-1] == 3


def test_every_step_ignores_the_times_between() -> None:
    a = solve(f, ONE, (0.0, 3.0), save="steps")
    b = solve(f, ONE, torch.linspace(0, 3, 50), save="steps")
    assert torch.equal(a.t, b.t)
    assert torch.equal(a.y, b.y)


def test_the_end_alone() -> None:
    sol = solve(f, ONE, torch.linspace(0, 3, 7), save="end", **FINE)
    assert sol.t.tolist() == [3.0]
    assert sol.y.shape == (1, 1)
    torch.testing.assert_close(sol.y, exact(sol.t), rtol=1e-8, atol=0)


def test_a_function_of_the_state() -> None:
    t = torch.linspace(0, 3, 7, dtype=torch.float64)
    seen = []

    def save(t: Tensor, y: Tensor) -> Tensor:
        seen.append(t)
        return y.sum() * 2 + t

    sol = solve(f, torch.ones(4, dtype=torch.float64), t, save=save, **FINE)
    assert sol.y.shape == (7,)
    torch.testing.assert_close(sol.y, 8 * torch.exp(torch.sin(t)) + t, rtol=1e-8, atol=0)
    assert torch.equal(torch.stack(seen), t)


def test_a_function_that_returns_a_pytree() -> None:
    def save(t: Tensor, y: dict[str, Tensor]) -> dict[str, Any]:
        return {"mean": y["a"].mean(), "both": (y["a"][0], [y["b"]]), "positive": (y["a"] > 0).all(), "n": 3}

    y0 = {"a": torch.ones(2, dtype=torch.float64), "b": torch.ones(2, 2)}
    t = torch.linspace(1, 0, 4, dtype=torch.float64)
    sol = solve(lambda t, y: {"a": -y["a"], "b": y["b"]}, y0, t, save=save, **FINE)
    torch.testing.assert_close(sol.y["mean"], torch.exp(1 - t), rtol=1e-8, atol=0)
    assert sol.y["both"][0].shape == (4,)
    assert sol.y["both"][1][0].shape == (4, 2, 2)
    assert sol.y["positive"].tolist() == [True] * 4
    assert sol.y["n"].tolist() == [3] * 4


@pytest.mark.parametrize("gradient", ["discrete", "direct", "adjoint"])
def test_a_function_of_the_state_is_differentiable(gradient: str) -> None:
    y0 = torch.ones(2, dtype=torch.float64, requires_grad=True)
    sol = solve(f, y0, (0.0, 1.0, 2.0), save=lambda t, y: (y**2).sum(), gradient=gradient, **FINE)
    (grad,) = torch.autograd.grad(sol.y[1], y0)
    torch.testing.assert_close(
        grad, 2 * torch.exp(2 * torch.sin(torch.ones(2, dtype=torch.float64))), rtol=1e-7, atol=0
    )


def test_many_outputs_are_evaluated_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody needs the step polynomials later, they are let go in between, and no value changes."""
    t = torch.linspace(0, 10, 300, dtype=torch.float64)
    with torch.no_grad():
        whole = solve(f, ONE.expand(5), t)
        monkeypatch.setattr(eager, "_HOLD", 20)
        portions = solve(f, ONE.expand(5), t)
        monkeypatch.setattr(eager, "_HOLD", 0)
        one_by_one = solve(f, ONE.expand(5), t)
    assert torch.equal(portions.t, whole.t)
    torch.testing.assert_close(portions.y, whole.y, rtol=1e-14, atol=0)
    torch.testing.assert_close(one_by_one.y, whole.y, rtol=1e-14, atol=0)


@pytest.mark.parametrize("method", ["tsit5", "dopri8", "rk4", "implicit_adams"])
def test_an_output_on_a_step_is_the_step(method: str) -> None:
    dt = None if adaptive(method) else 0.25
    steps = solve(f, ONE, (0.0, 3.0), method=method, dt=dt, save="steps")
    middle = steps.t[len(steps.t) // 2]
    sol = solve(f, ONE, torch.stack([steps.t[0], middle, steps.t[-1]]), method=method, dt=dt)
    assert torch.equal(sol.y[1], steps.y[len(steps.t) // 2])


def test_outputs_of_a_failed_solve_are_those_before() -> None:
    def blows(t: Tensor, y: Tensor) -> Tensor:
        return y * y

    sol = solve(blows, ONE, torch.linspace(0, 2, 21), throw=False)
    assert not sol.success
    assert 0 < len(sol.t) == len(sol.y) <= 11
    torch.testing.assert_close(sol.y[:10, 0], 1 / (1 - sol.t[:10]), rtol=1e-3, atol=0)
    end = solve(blows, ONE, torch.linspace(0, 2, 21), throw=False, save="end")
    assert 0.99 < end.t.item() < 1.01
    assert torch.isfinite(end.y).all()
