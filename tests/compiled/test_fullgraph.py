"""An ODE Block inside a model that is compiled as one graph, or exported."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch
import torch._functorch.config
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

import torchivp
from torchivp.nn import ODEBlock

# torch's own, while it compiles
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

TSIT5: dict[str, Any] = {"t": (0.0, 2.0), "rtol": 1e-4, "atol": 1e-6}
RK4: dict[str, Any] = {"t": (0.0, 2.0), "method": "rk4", "dt": 0.3}


class Timed(nn.Module):
    """f(t, x) with a parameter, a buffer and the time in it."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.w = nn.Parameter(torch.ones(()))
        self.register_buffer("shift", torch.tensor(0.5))

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        return torch.tanh(self.linear(x)) * torch.cos(self.w * t) + self.shift


class Tied(nn.Module):
    """One layer in two places, and one parameter in two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.b.weight = self.a.weight
        self.layers = nn.Sequential(self.a, nn.Tanh(), self.b, nn.Tanh(), self.a)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    """Nothing compiled yet; and without the run-time type checks, which torch.compile cannot trace."""
    torch._dynamo.reset()
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 4))


def models(func: nn.Module | None = None, **settings: Any) -> tuple[nn.Module, nn.Module]:
    """The same model with a compiled and with an eager runner."""
    torch.manual_seed(0)
    block = ODEBlock(func or mlp(), runner="compiled", **settings)
    model = nn.Sequential(nn.Linear(3, 4), block, nn.Linear(4, 2)).double()
    eager = copy.deepcopy(model)
    eager[1].options = {**eager[1].options, "runner": "eager"}
    return model, eager


def step(model: Any, x: Tensor, parameters: Any) -> tuple[Tensor, list[Tensor]]:
    """A loss and its gradients."""
    loss = model(x).pow(2).mean()
    return loss.detach(), list(torch.autograd.grad(loss, list(parameters)))


def check_step(model: nn.Module, eager: nn.Module, backend: str = "aot_eager") -> None:
    """A training step through one graph is the eager one."""
    x = torch.randn(5, 3, dtype=torch.float64)
    graph = torch.compile(model, fullgraph=True, backend=backend)
    torch.testing.assert_close(
        step(graph, x, model.parameters()), step(eager, x, eager.parameters()), rtol=1e-10, atol=1e-12
    )


@pytest.mark.parametrize("settings", [TSIT5, RK4])
def test_explain_sees_one_graph_and_no_break(settings: dict[str, Any]) -> None:
    model, _ = models(**settings)
    seen = torch._dynamo.explain(model)(torch.randn(5, 3, dtype=torch.float64))
    assert (seen.graph_count, seen.graph_break_count) == (1, 0)


@pytest.mark.parametrize(
    ("func", "settings"),
    [
        (Timed, {**TSIT5, "t": (1.0, -1.0)}),
        (mlp, {**RK4, "t": (0.0, 0.5, 2.0)}),
        (mlp, {"method": "bosh3", "norm": "max", "controller": torchivp.PID(p=0.4, i=0.3), "stop_times": [0.3]}),
        (lambda: nn.Sequential(nn.Linear(5, 4), nn.Tanh()), {**TSIT5, "time_channel": True}),
        (Tied, RK4),
    ],
    ids=["backwards in time", "grid", "PI", "time channel", "tied"],
)
def test_a_training_step(func: Any, settings: dict[str, Any]) -> None:
    check_step(*models(func(), **settings))


@pytest.mark.compiled
@pytest.mark.slow
@pytest.mark.parametrize("settings", [TSIT5, RK4])
def test_a_training_step_through_inductor(settings: dict[str, Any]) -> None:
    """The last bias of func is what comes out wrong where inductor writes into the inputs of the loop."""
    check_step(*models(**settings), backend="inductor")
    assert torch._functorch.config.donated_buffer


@pytest.mark.slow
def test_rows_with_steps_of_their_own() -> None:
    model, _ = models(**TSIT5, batch_dims=1)
    x = torch.randn(5, 3, dtype=torch.float64)
    before, block, after = model
    rows = torchivp.solve(
        lambda t, y: block.func(y), before(x), (0.0, 2.0), rtol=1e-4, atol=1e-6, batch_dims=1, save="end"
    )
    graph = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(graph(x), after(rows.y[:, -1]), rtol=1e-10, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("recorded", [True, False])
def test_batches_of_other_sizes_are_compiled_once_more_in_all(recorded: bool) -> None:
    model, eager = models(**RK4)
    counter = CompileCounterWithBackend("aot_eager")
    graph = torch.compile(model, fullgraph=True, backend=counter)
    with torch.set_grad_enabled(recorded):
        for size in (5, 6, 7, 33):
            x = torch.randn(size, 3, dtype=torch.float64)
            torch.testing.assert_close(graph(x), eager(x))
    assert counter.frame_count <= 2


@pytest.mark.slow
def test_a_changed_setting_is_heard() -> None:
    model, eager = models(**TSIT5)
    graph = torch.compile(model, fullgraph=True, backend="aot_eager")
    x = torch.randn(5, 3, dtype=torch.float64)
    for rtol in (1e-4, 1e-8):
        model[1].rtol = eager[1].rtol = rtol
        with torch.no_grad():
            torch.testing.assert_close(graph(x), eager(x), rtol=1e-11, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("recorded", [True, False])
def test_a_solve_that_fails_is_nan(recorded: bool) -> None:
    model, _ = models(**TSIT5, max_steps=2)
    graph = torch.compile(model, fullgraph=True, backend="aot_eager")
    x = torch.randn(5, 3, dtype=torch.float64)
    with torch.set_grad_enabled(recorded):
        y = graph(x)
    assert y.isnan().all()
    if recorded:
        y.sum().backward()
        assert all(p.grad is not None and p.grad.isnan().all() for p in model[0].parameters())


class Reaching(nn.Module):
    """Uses a layer that it does not hold."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layers = [layer]

    def forward(self, x: Tensor) -> Tensor:
        return self.layers[0](x)


@pytest.mark.parametrize(
    ("func", "settings", "message"),
    [
        (Reaching(nn.Linear(4, 4).double()), {}, "no parameters of func"),
        (nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)), {}, "Dropout in func"),
        (mlp(), {"method": "implicit_adams", "dt": 0.1}, "explicit Runge-Kutta methods are compiled"),
        (mlp(), {"gradient": "adjoint"}, "gradient 'discrete', not 'adjoint'"),
        (mlp(), {"jump_times": [0.5]}, "jump_times="),
        (mlp(), {"rtol": torch.tensor(1e-3)}, "tolerances that are no numbers"),
    ],
)
def test_what_cannot_stand_in_a_graph_says_so(func: nn.Module, settings: dict[str, Any], message: str) -> None:
    model, _ = models(func, **settings)
    with pytest.raises(Exception, match=message):
        torch.compile(model, fullgraph=True, backend="eager")(torch.randn(5, 3, dtype=torch.float64))


@pytest.mark.compiled
@pytest.mark.slow
@pytest.mark.parametrize("settings", [TSIT5, RK4])
def test_an_exported_model_runs_from_a_file(settings: dict[str, Any], tmp_path: Path) -> None:
    model, eager = models(**settings)
    model, eager = model.float().eval(), eager.float()
    batch = torch.export.Dim("batch", min=1, max=1024)
    program = torch.export.export(model, (torch.randn(5, 3),), dynamic_shapes=({0: batch},))
    path = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "model.pt2"))
    served = torch._inductor.aoti_load_package(path)
    for size in (5, 64):
        x = torch.randn(size, 3)
        torch.testing.assert_close(served(x), eager(x).detach(), rtol=1e-5, atol=1e-5)
