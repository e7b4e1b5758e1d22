"""Continuous adjoints of many rows: their backward solves through the compiled loop."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import torchivp
from compiled.pairs import torch64
from torchivp.gradients import Adjoint, Interpolated, row_backsolve
from torchivp.runners.compiled import march

pytestmark = pytest.mark.compiled

TIMES = (0.0, 0.4, 1.0)
SHARED = [0.0, 0.4, 1.0]
OWN = [[0.0, 0.5, 1.0], [0.0, 1.0, 3.0], [1.0, 0.5, -1.0]]


class Driven(nn.Module):
    """With parameters, a tensor in args for each row, and one that is closed over."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 3, dtype=torch64)
        self.outer = nn.Linear(3, 2, dtype=torch64)
        self.scale = torch.tensor(0.3, dtype=torch64)

    def forward(self, t: Tensor, y: Tensor, drive: Tensor) -> Tensor:
        return self.outer(torch.tanh(self.inner(y))) + drive * torch.sin(t)[..., None] - self.scale * y


def gradients(f: nn.Module, runner: str, factor: float = 1.0, times: Any = SHARED, **settings: Any) -> list[Tensor]:
    """Those of start, drive and parameters; at last the attempted steps of every row."""
    start = torch.tensor([[1.0, 0.5], [3.0, -2.0], [0.1, 0.0]], dtype=torch64)
    y0, drive = (factor * start).requires_grad_(), start.cos().requires_grad_()
    settings = {"t": torch.tensor(times, dtype=torch64), "rtol": 1e-6, "atol": 1e-7, "method": "bosh3", **settings}
    sol = torchivp.solve(f, y0, args=drive, batch_dims=1, runner=runner, **settings)
    y = torch.cat([x.flatten() for x in sol.y]) if isinstance(sol.y, list) else sol.y.flatten()
    loss = (y * torch.linspace(0.5, 1.5, len(y), dtype=torch64)).sum()
    found = torch.autograd.grad(loss, [y0, drive, *f.parameters()], allow_unused=True, materialize_grads=True)
    return [*found, torch.as_tensor(sol.stats.backward_attempted)]


CONTINUOUS = ["adjoint", "interpolated", "gauss"]


@pytest.fixture
def f(python_loops: None) -> Driven:
    return Driven()


def assert_same(monkeypatch: pytest.MonkeyPatch, solve: Callable[[str], Any]) -> None:
    """Twice the same, the second time without a step backwards in plain PyTorch."""
    eager = solve("eager")
    monkeypatch.setattr(row_backsolve, "StepByStep", None)
    torch.testing.assert_close(solve("compiled"), eager, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"times": OWN},
        {"save": "steps"},
        {"save": "end"},
        {"method": "tsit5", "jump_times": [0.7]},
        {"method": "rk4", "dt": 0.1},
        {"couple": True, "norm": "max"},
        {"method": "rosenbrock23", "rtol": 1e-3, "times": OWN},
    ],
    ids=["shared times", "own times", "steps", "end", "jump", "fixed", "coupled", "Rosenbrock"],
)
@pytest.mark.parametrize("gradient", CONTINUOUS)
def test_the_same_gradients(
    f: Driven, gradient: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And attempted steps of every row."""
    assert_same(monkeypatch, lambda runner: gradients(f, runner, gradient=gradient, **settings))


@pytest.mark.parametrize("how", [Adjoint("tsit5", rtol=1e-7), Interpolated("tsit5", atol=1e-8)], ids=repr)
def test_settings_of_the_backward_solve(f: Driven, how: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_same(monkeypatch, lambda runner: gradients(f, runner, gradient=how))


@pytest.mark.parametrize("gradient", CONTINUOUS)
def test_many_calls_of_the_loop(f: Driven, gradient: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(march, "_FIRST", 2)
    monkeypatch.setattr(march, "_LEAST", 3)
    monkeypatch.setattr(march, "_SECONDS", 0.0)
    assert_same(monkeypatch, lambda runner: gradients(f, runner, gradient=gradient, times=OWN))


@pytest.mark.parametrize("gradient", ["adjoint", "interpolated"])
def test_batches_of_several_sizes(f: Driven, gradient: str) -> None:
    """What was traced for one serves the others."""
    for rows in (3, 5, 1, 4):
        start, found = torch.linspace(0.3, 1.7, 2 * rows, dtype=torch64).reshape(rows, 2), []
        for runner in ("eager", "compiled"):
            y0 = start.clone().requires_grad_()
            how: dict[str, Any] = {"method": "bosh3", "rtol": 1e-4, "gradient": gradient, "runner": runner}
            sol = torchivp.solve(f, y0, TIMES, start.cos(), batch_dims=1, **how)
            found.append(torch.autograd.grad((sol.y**2).sum(), [y0, *f.parameters()]))
        torch.testing.assert_close(*found, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("batch", [(1,), (2, 1), (2, 3)], ids=str)
@pytest.mark.parametrize("gradient", ["adjoint", "interpolated"])
def test_trees_and_axes(
    python_loops: None, gradient: str, batch: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """States of several tensors, in one function for batches of several shapes."""
    w = torch.tensor([0.7, 1.3], dtype=torch64, requires_grad=True)

    def orbit(t: Tensor, y: dict[str, Tensor]) -> dict[str, Tensor]:
        x, v = y["x"].unbind(-1)
        return {"total": y["x"].sum(-1) * w[1] * torch.cos(t) - y["total"], "x": torch.stack((v, -w[0] * x), -1)}

    def solve(runner: str) -> Any:
        x = torch.linspace(0.5, 1.5, 2 * math.prod(batch), dtype=torch64).reshape(*batch, 2).requires_grad_()
        y0, how = {"x": x, "total": torch.zeros(batch, dtype=torch64)}, {"runner": runner, "gradient": gradient}
        sol = torchivp.solve(orbit, y0, TIMES, batch_dims=len(batch), method="bosh3", rtol=1e-4, atol=1e-5, **how)
        return torch.autograd.grad((sol.y["x"] ** 2).sum() + sol.y["total"].sum(), [x, w])

    assert_same(monkeypatch, solve)


@pytest.mark.parametrize("gradient", ["adjoint", "interpolated"])
def test_without_parameters(python_loops: None, gradient: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then no step is written down; in float32."""

    def solve(runner: str) -> Any:
        y0 = torch.tensor([[1.0], [2.0]], requires_grad=True)
        how = {"runner": runner, "gradient": gradient, "rtol": 1e-3, "atol": 1e-4}
        sol = torchivp.solve(lambda t, y: -y * torch.cos(t)[:, None], y0, (0.0, 1.0), batch_dims=1, **how)
        (grad,) = torch.autograd.grad(sol.y.sum(), y0)
        return grad.double().round(decimals=5)

    assert_same(monkeypatch, solve)


def test_what_is_not_compiled_goes_on_in_plain_pytorch(f: Driven) -> None:
    """An implicit method backwards."""
    how = Adjoint("trapezoid", rtol=1e-3, atol=1e-3)
    eager, compiled = (gradients(f, runner, gradient=how, times=[0.0, 0.4]) for runner in ("eager", "compiled"))
    torch.testing.assert_close(compiled, eager, rtol=1e-10, atol=1e-10)


def test_a_failure_says_the_same(python_loops: None) -> None:
    said, stiff = [], torch.tensor([[0.0], [-3e4]], dtype=torch64)
    for runner in ("eager", "compiled"):
        y0 = torch.tensor([[0.5], [1.0]], dtype=torch64, requires_grad=True)
        how: dict[str, Any] = {"method": "bosh3", "max_steps": 40, "rtol": 1e-3, "atol": 1e-3}
        sol = torchivp.solve(
            lambda t, y: stiff * (y - 1), y0, (0.0, 1.0), batch_dims=1, gradient="adjoint", runner=runner, throw=False, **how
        )  # fmt: skip
        with pytest.raises((torchivp.GradientError, torchivp.SolveError)) as error:
            sol.y.sum().backward()
        said.append(str(error.value)[:60])
    assert said[0] == said[1]


@pytest.mark.slow
@pytest.mark.parametrize("gradient", ["adjoint", "interpolated"])
def test_compiled(gradient: str) -> None:
    """Twice, the second time with other numbers and without a compilation (but for another number of stored steps)."""
    f, how = Driven(), {"method": "adaptive_heun", "rtol": 1e-3, "atol": 1e-4}
    for factor in (1.0, 0.5):
        before = len(torchivp.compilations())
        found = [gradients(f, runner, factor, OWN, gradient=gradient, **how) for runner in ("eager", "compiled")]
        torch.testing.assert_close(*found, rtol=1e-10, atol=1e-10)
    assert len(torchivp.compilations()) - before in {"adjoint": [0], "interpolated": [0, 1, 2]}[gradient]
