"""Gradients through compiled loops: those of the eager runner."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import torchivp
from compiled.pairs import ROWS, TIMES, Y0, torch64
from torchivp.gradients import backsolve
from torchivp.gradients.stored import value
from torchivp.runners.compiled.back import looked_up, table_of
from torchivp.span import OneSpan
from torchivp.trajectory import Piece

pytestmark = pytest.mark.compiled

TURN = nn.Linear(2, 2).double()
DRIVE = torch.tensor(0.3, dtype=torch64, requires_grad=True)


EVENT = torchivp.Event(lambda t, y, args: t - 1.3 + 0.01 * y[0])
END = torchivp.Event(lambda t, y, args: t - 2.1 + 0.01 * y[0], terminal=True)


def f(t: Tensor, y: Tensor, args: dict[str, Tensor]) -> Tensor:
    """Parameters of a module, a tensor that is closed over, and one in args."""
    t = t.unsqueeze(-1) if y.dim() > 1 else t
    return torch.tanh(TURN(y)) + DRIVE * torch.cos(args["w"] * t) * y


def gradient(runner: str, y0: Tensor, batch_dims: int = 0, gradient: Any = "discrete", **settings: Any) -> list[Tensor]:
    y0 = y0.clone().requires_grad_()
    w = torch.tensor(2.0, dtype=torch64, requires_grad=True)
    settings = {"method": "bosh3", "rtol": 1e-4, "t": TIMES, **settings}
    sol = torchivp.solve(f, y0, args={"w": w}, runner=runner, batch_dims=batch_dims, gradient=gradient, **settings)
    weights = torch.linspace(0.5, 1.5, sol.y.numel(), dtype=torch64).view_as(sol.y)
    return [*torch.autograd.grad((weights * sol.y).sum(), [y0, w, DRIVE, *TURN.parameters()])]


@pytest.mark.parametrize(
    ("y0", "batch_dims"), [(Y0, 0), pytest.param(ROWS, 1, marks=pytest.mark.slow)], ids=["one", "rows"]
)
def test_the_same_gradients(y0: Tensor, batch_dims: int) -> None:
    for factor in (1.0, 0.5):  # the second without a compilation
        before = len(torchivp.compilations())
        pairs = zip(*(gradient(runner, factor * y0, batch_dims) for runner in ("eager", "compiled")))
        for eager, compiled in pairs:
            torch.testing.assert_close(compiled, eager, rtol=1e-10, atol=1e-10)
    assert len(torchivp.compilations()) == before


def test_a_parameter_changed_between_two_solves() -> None:
    before = gradient("compiled", Y0)
    with torch.no_grad():
        TURN.weight.add_(0.1)
    for eager, compiled, old in zip(gradient("eager", Y0), gradient("compiled", Y0), before):
        torch.testing.assert_close(compiled, eager, rtol=1e-10, atol=1e-10)
        assert not torch.equal(compiled, old)


@pytest.mark.slow
def test_the_continuous_adjoint() -> None:
    """One program solves backwards from any output to the one before it."""
    for factor in (1.0, 0.5):  # the second without a compilation
        before = len(torchivp.compilations())
        pairs = zip(*(gradient(runner, factor * Y0, gradient="adjoint") for runner in ("eager", "compiled")))
        for eager, compiled in pairs:
            torch.testing.assert_close(compiled, eager, rtol=1e-10, atol=1e-10)
    made = torchivp.compilations()
    assert len(made) == before
    assert made[-1].what == "loop"


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"t": -TIMES},
        {"gradient": torchivp.gradients.Adjoint(norm="full")},
        {"method": "rk4", "dt": 0.1, "rtol": 1e-3, "jump_times": [0.7]},
        {"gradient": "interpolated"},
        {"gradient": "interpolated", "t": -TIMES, "method": "tsit5"},
        {"gradient": "gauss"},
    ],
    ids=["backwards in time", "full norm", "fixed steps", "interpolated", "interpolated backwards in time", "gauss"],
)
def test_other_continuous_adjoints(settings: dict[str, Any]) -> None:
    pairs = zip(*(gradient(runner, Y0, **{"gradient": "adjoint", **settings}) for runner in ("eager", "compiled")))
    for eager, compiled in pairs:
        torch.testing.assert_close(compiled, eager, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("how", ["adjoint", "interpolated"])
def test_outputs_at_any_time_count(python_loops: None, how: str) -> None:
    """Also at times that float32 does not have."""
    settings = {"gradient": how, "t": torch.tensor([0.0, 0.13, 0.77, 1.1], dtype=torch64)}
    for eager, compiled in zip(*(gradient(runner, Y0, **settings) for runner in ("eager", "compiled"))):
        torch.testing.assert_close(compiled, eager, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "tsit5"},
        {"t": -TIMES, "jump_times": [-0.7]},
        {"method": "rk4", "dt": 0.1, "rtol": 1e-3},
        {"save": "end", "gradient": torchivp.gradients.Gauss("tsit5", rtol=1e-6)},
        {"method": "rodas4"},
        {"method": "rosenbrock23", "rtol": 1e-3},
    ],
    ids=["plain", "backwards in time", "fixed steps", "another method", "rodas4", "rosenbrock23"],
)
def test_gauss(python_loops: None, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a step backwards in plain PyTorch."""
    eager = gradient("eager", Y0, **{"gradient": "gauss", **settings})
    monkeypatch.setattr(backsolve, "march", None)
    compiled = gradient("compiled", Y0, **{"gradient": "gauss", **settings})
    torch.testing.assert_close(compiled, eager, rtol=1e-10, atol=1e-10)


def test_gauss_without_parameters(python_loops: None) -> None:
    """Then no step is written down."""
    found = []
    for runner in ("eager", "compiled"):
        y0 = Y0.clone().requires_grad_()
        sol = torchivp.solve(lambda t, y: -y * torch.cos(t) * y, y0, TIMES, gradient="gauss", runner=runner)
        found.append(torch.autograd.grad(sol.y.sum(), y0))
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-10)


def test_a_stored_solution_is_looked_up() -> None:
    """In a table as in the solution itself, in every step and at both ends."""
    weights = torch.tensor([[1.0, 0.0], [-0.5, 0.5]], dtype=torch64)
    k = torch.randn(3, 2, 2, dtype=torch64, generator=torch.Generator().manual_seed(0))
    spans = [OneSpan(t, t + 0.5, None, None, 0.5) for t in (0.0, 0.5, 1.0)]
    pieces = [Piece(span, ROWS[i : i + 1], k[i], weights) for i, span in enumerate(spans)]
    table = table_of(pieces)
    assert table is not None
    for t, piece in ((0.0, 0), (0.2, 0), (0.7, 1), (1.0, 2), (1.3, 2), (1.5, 2)):
        found = looked_up(table, torch.tensor(t, dtype=torch64))
        torch.testing.assert_close(found, value(pieces[piece], t)[0], rtol=1e-14, atol=1e-14)
    assert table_of([*pieces, pieces[0]._replace(k=k[0, :1])]) is None


@pytest.mark.slow
@pytest.mark.parametrize("how", ["adjoint", "interpolated"])
def test_implicit_solves_backwards_leave_the_parameters_out_of_their_systems(how: str) -> None:
    settings = {"method": "trapezoid", "gradient": how}
    for eager, compiled in zip(*(gradient(runner, Y0, **settings) for runner in ("eager", "compiled"))):
        torch.testing.assert_close(compiled, eager, rtol=1e-9, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize(
    "how",
    [{"dense": True}, {"events": [EVENT]}, {"events": [EVENT, END], "save": "steps"}],
    ids=["dense", "event", "end"],
)
def test_gradients_of_what_lies_inside_steps(how: dict[str, Any]) -> None:
    """Dense output and events; with one that ends the solve, the steps behind it count for nothing."""
    found = []
    for runner in ("eager", "compiled"):
        y0 = Y0.clone().requires_grad_()
        args = {"w": torch.tensor(2.0, dtype=torch64, requires_grad=True)}
        sol = torchivp.solve(f, y0, TIMES, args, method="bosh3", runner=runner, rtol=1e-4, **how)
        if sol.t_events is None:
            values = sol(torch.linspace(0.1, 2.9, 7, dtype=torch64))
        else:
            assert all(len(t) for t in sol.t_events)
            values = torch.cat([*sol.t_events, *(y.flatten() for y in sol.y_events), sol.y.flatten()])
        grads = torch.autograd.grad((values**2).sum(), [y0, args["w"], DRIVE, *TURN.parameters()])
        found.append([values, *grads, torch.tensor([sol.stats.nfe, sol.stats.replayed])])
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-10)


@pytest.mark.slow
def test_slopes_that_lie_in_columns() -> None:
    """In memory: a loop is particular about strides."""
    turn, found = torch.tensor([[-0.1, 2.0], [-2.0, -0.1]], dtype=torch64, requires_grad=True), []
    for runner in ("eager", "compiled"):
        y0 = ROWS.clone().requires_grad_()
        how: dict[str, Any] = {"batch_dims": 1, "method": "bosh3", "runner": runner}
        sol = torchivp.solve(lambda t, y: torch.tanh((turn @ y.mT).mT), y0, TIMES, **how)
        found.append(torch.autograd.grad(sol.y.square().sum(), [y0, turn]))
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-10)


@pytest.mark.slow
def test_a_second_derivative_is_refused() -> None:
    y0 = Y0.clone().requires_grad_()
    args = {"w": torch.tensor(2.0, dtype=torch64)}
    sol = torchivp.solve(f, y0, TIMES, args, method="bosh3", runner="compiled")
    with pytest.raises(torchivp.GradientError, match="runner='eager'"):
        torch.autograd.grad(sol.y.sum(), y0, create_graph=True)


def test_autograd_through_the_loop_is_refused() -> None:
    with pytest.raises(torchivp.NotCompilable, match="gradient='direct'"):
        gradient("compiled", Y0, gradient="direct")
