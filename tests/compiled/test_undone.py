"""``gradient="reversible"`` in compiled loops: the steps are undone, and nothing but their times is kept."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import torchivp
from compiled.pairs import ROWS, Y0, Swing, torch64
from compiled.test_past import CROSSING, END, REVERSIBLE, UNEVEN, assert_same_gradient, loss, of
from torchivp.gradients import replay
from torchivp.runners.compiled import march

pytestmark = pytest.mark.compiled

JUMP: dict[str, Any] = {"jump_times": [0.7], "stop_times": [1.0]}


@pytest.fixture
def f(python_loops: None) -> Swing:
    return Swing()


@pytest.fixture
def only_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody takes steps again in plain PyTorch."""
    monkeypatch.setattr(replay, "Replay", None)


def reversible(f: Any, y0: Tensor, runner: str = "compiled", t: Tensor = UNEVEN, **settings: Any) -> list[Tensor]:
    y0 = y0.clone().requires_grad_()
    value, _ = loss(f, runner, y0, t, **{"gradient": "reversible", **settings})
    return [value.detach(), *torch.autograd.grad(value, [y0, *f.parameters()])]


def short_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(march, "_FIRST", 2)
    monkeypatch.setattr(march, "_LEAST", 3)
    monkeypatch.setattr(march, "_SECONDS", 0.0)


@pytest.mark.parametrize(
    "settings",
    [
        {"save": "steps"},
        {"save": "end", **JUMP},
        {"t": -UNEVEN, "jump_times": [-0.7]},
        {"dense": True},
        {"controller": torchivp.FixedSteps(0.1)},
    ],
    ids=["steps", "end and jump", "backwards in time", "dense", "fixed"],
)
@of(REVERSIBLE)
def test_one_problem(f: Swing, how: dict[str, Any], settings: dict[str, Any]) -> None:
    assert_same_gradient(f, Y0, gradient="reversible", **how, **settings)


@pytest.mark.parametrize(
    "settings", [{"stop_times": [1.0]}, {"save": "steps"}, {"save": "end"}], ids=["stop", "steps", "end"]
)
@of(REVERSIBLE)
def test_rows(f: Swing, how: dict[str, Any], settings: dict[str, Any]) -> None:
    """Steps are undone in the rows that took them."""
    assert_same_gradient(f, ROWS, gradient="reversible", batch_dims=1, **how, **settings)


@pytest.mark.usefixtures("only_compiled")
@pytest.mark.parametrize(
    ("y0", "settings"),
    [(Y0, JUMP), (Y0, {"events": [CROSSING, END]}), (ROWS, {"batch_dims": 1}), (Y0, {"dense": True})],
    ids=["jump", "events", "rows", "dense"],
)
@of(REVERSIBLE)
def test_that_of_discrete(f: Swing, how: dict[str, Any], y0: Tensor, settings: dict[str, Any]) -> None:
    found = [reversible(f, y0, gradient=gradient, **how, **settings) for gradient in ("discrete", "reversible")]
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-10)


@of(REVERSIBLE)
def test_many_calls_of_the_loop(f: Swing, how: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The state goes from call to call, backwards; where the method started afresh it is the stored one."""
    short_calls(monkeypatch)
    assert_same_gradient(f, Y0, gradient="reversible", **JUMP, **how)
    assert_same_gradient(f, ROWS, gradient="reversible", batch_dims=1, **how)


def test_a_tree_in_columns(f: Swing) -> None:
    """Of which one part is taken apart, and the other is not."""
    w = torch.tensor(0.7, dtype=torch64, requires_grad=True)
    found = []

    def orbit(t: Tensor, y: dict[str, Tensor]) -> dict[str, Tensor]:
        x, v = y["x"].unbind(-1)
        return {"x": torch.stack((v, -w * x), -1), "total": y["x"].sum(-1, keepdim=True) - y["total"]}

    for runner in ("eager", "compiled"):
        y0 = {"x": Y0.clone().requires_grad_(), "total": torch.zeros(1, dtype=torch64)}
        sol = torchivp.solve(orbit, y0, UNEVEN, method="reversible_heun", gradient="reversible", runner=runner)
        found.append(torch.autograd.grad((sol.y["x"] ** 2).sum() + sol.y["total"].sum(), [y0["x"], w]))
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-10)


def decay(t: Tensor, y: Tensor) -> Tensor:
    return -y


@pytest.mark.parametrize(("y0", "rows"), [(Y0, 0), (ROWS, 1)], ids=["one", "rows"])
def test_states_that_come_out_elsewhere_are_an_error(python_loops: None, y0: Tensor, rows: int) -> None:
    """Of what decays nothing is left that one could compute back from; as eagerly."""
    said = []
    for runner in ("eager", "compiled"):
        start = y0.clone().requires_grad_()
        how: dict[str, Any] = {"method": torchivp.methods.Reversible("bosh3", lam=0.5), "dt": 0.1, "batch_dims": rows}
        how["controller"], how["dt"] = torchivp.FixedSteps(0.1), None
        sol = torchivp.solve(decay, start, (0.0, 8.0), gradient="reversible", runner=runner, **how)
        with pytest.raises(torchivp.GradientError, match="y0, computed backwards") as error:
            sol.y[-1].sum().backward()
        said.append(str(error.value).split("came out")[1].split("(more")[1])
    assert said[0] == said[1]


def tensors() -> list[Tensor]:
    gc.collect()
    return [x for x in gc.get_objects() if issubclass(type(x), Tensor)]


def held(f: nn.Module, steps: int, **settings: Any) -> int:
    """Numbers of states that a solve holds until its gradient is wanted."""
    before = {id(x) for x in tensors()}
    y0 = torch.ones(1000, dtype=torch64, requires_grad=True)
    how = {"method": "reversible_heun", "controller": torchivp.FixedSteps(1.0 / steps), "gradient": "reversible"}
    sol = torchivp.solve(f, y0, (0.0, 0.33, 1.0), runner="compiled", **{**how, **settings})
    assert sol.stats.accepted == steps
    return sum(x.numel() for x in tensors() if id(x) not in before and x.shape[-1:] == (1000,))


class Decay(nn.Module):
    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return -y


@pytest.mark.parametrize("save", ["end", "t"])
def test_memory_does_not_grow_with_the_steps(python_loops: None, save: str, monkeypatch: pytest.MonkeyPatch) -> None:
    short_calls(monkeypatch)
    few, many = (held(Decay(), steps, save=save) for steps in (10, 100))
    assert many == few
    assert held(Decay(), 100, save=save, gradient="discrete") > 100_000


@pytest.mark.parametrize("gradient", ["discrete", "reversible"])
def test_the_graph_goes_with_the_outputs(f: Swing, gradient: str) -> None:
    """Without the garbage collector: nothing holds itself in a circle."""
    y0 = Y0.clone().requires_grad_()
    gc.collect()
    gc.disable()
    try:
        sol = torchivp.solve(f, y0, UNEVEN, method="alf", gradient=gradient, runner="compiled")
        outcomes = [weakref.ref(node.outcome) for node in nodes(sol.y) if hasattr(node, "outcome")]
        assert len(outcomes) == 1
        sol.y.sum().backward()
        del sol
        assert outcomes[0]() is None
    finally:
        gc.enable()


def nodes(y: Tensor) -> list[Any]:
    todo, seen = [y.grad_fn], []
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.append(node)
            todo += [before for before, _ in node.next_functions]
    return seen


class Turned(nn.Linear):
    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        t = t.unsqueeze(-1) if y.dim() > 1 else t
        return torch.tanh(super().forward(y)) * torch.cos(t)


@pytest.mark.slow
@of(REVERSIBLE)
def test_compiled(how: dict[str, Any]) -> None:
    """Twice, the second time with other numbers and without a compilation."""
    f = Turned(2, 2, dtype=torch64)
    for factor in (1.0, 0.5):
        before = len(torchivp.compilations())
        found = [reversible(f, factor * Y0, runner, **JUMP, **how) for runner in ("eager", "compiled")]
        torch.testing.assert_close(*found, rtol=1e-10, atol=1e-10)
    made = torchivp.compilations()
    assert len(made) == before
    assert made[-1].what == "gradient"


@pytest.mark.slow
def test_compiled_rows() -> None:
    f, how = Turned(2, 2, dtype=torch64), REVERSIBLE["reversible_heun"]
    found = [reversible(f, ROWS, runner, batch_dims=1, **how) for runner in ("eager", "compiled")]
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-10)
