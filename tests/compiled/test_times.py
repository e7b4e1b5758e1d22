"""Gradients of the user's times through compiled loops: those of the eager runner."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import torchivp
from compiled.pairs import ROWS, Y0, Swing, torch64
from compiled.test_past import CROSSING, UNEVEN
from compiled.test_undone import Turned, short_calls
from torchivp import Event
from torchivp.gradients import replay

pytestmark = pytest.mark.compiled

END = Event(lambda t, y: t - 1.2 - 0.5 * y[..., 0], terminal=True)
OWN = torch.stack([UNEVEN, 0.3 + 0.7 * UNEVEN, 1.0 - 0.5 * UNEVEN])


def found(f: nn.Module, runner: str, y0: Tensor, t: Tensor = UNEVEN, **settings: Any) -> list[Tensor]:
    """Times and values of what comes out, and the gradients of all that went in."""
    y0, t = y0.clone().requires_grad_(), t.clone().requires_grad_()
    sol = torchivp.solve(f, y0, t, runner=runner, **{"rtol": 1e-4, **settings})
    out = [x.flatten() for part in (sol.t, sol.y) for x in (part if isinstance(part, list) else [part])]
    if settings.get("dense"):
        out.append(sol(torch.linspace(0.4, 0.9, 4, dtype=torch64)).flatten())
    for of_event in [*(sol.t_events or []), *(sol.y_events or [])]:
        out += [x.flatten() for x in (of_event if isinstance(of_event, list) else [of_event])]
    values = torch.cat(out)
    loss = (values * torch.linspace(0.5, 1.5, len(values), dtype=torch64)).sum()
    return [values.detach(), *torch.autograd.grad(loss, [y0, t, *f.parameters()])]


def assert_same(monkeypatch: pytest.MonkeyPatch, f: nn.Module, y0: Tensor, **settings: Any) -> None:
    """As eagerly, but without a step taken again in plain PyTorch."""
    eager = found(f, "eager", y0, **settings)
    monkeypatch.setattr(replay, "Replay", None)
    short_calls(monkeypatch)
    torch.testing.assert_close(found(f, "compiled", y0, **settings), eager, rtol=1e-9, atol=1e-10)


SETTINGS: dict[str, dict[str, Any]] = {
    "inside": {},
    "backwards": {"t": -UNEVEN},
    "steps": {"save": "steps", "method": "tsit5"},
    "end": {"save": "end", "jump_times": [0.7]},
    "fixed": {"method": "rk4", "dt": 0.1},
    "stops": {"stop_times": UNEVEN[1:-1].tolist()},
    "dense": {"dense": True},
    "events": {"events": [CROSSING, END], "save": "steps"},
}


@pytest.mark.usefixtures("python_loops")
class TestWithoutCompiling:
    @pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
    def test_one_problem(self, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
        assert_same(monkeypatch, Swing(), Y0, **{"method": "bosh3", **settings})

    @pytest.mark.parametrize(
        "settings", [*SETTINGS.values(), {"t": OWN}, {"couple": True}], ids=[*SETTINGS, "own", "coupled"]
    )
    def test_rows(self, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
        assert_same(monkeypatch, Swing(), ROWS, **{"method": "bosh3", "batch_dims": 1, **settings})

    @pytest.mark.parametrize(
        "method", ["rodas4", "reversible_heun", "alf", torchivp.methods.Reversible("bosh3")], ids=str
    )
    def test_other_methods(self, method: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        assert_same(monkeypatch, Swing(), Y0, method=method, rtol=1e-2, atol=1e-3)

    def test_a_solve_that_goes_on_from_another(self) -> None:
        """Where it starts is no time of its own."""
        f, grads = Swing(), []
        for runner in ("eager", "compiled"):
            y0, t = Y0.clone().requires_grad_(), torch.tensor([0.5, 0.8, 1.3], dtype=torch64, requires_grad=True)
            first = torchivp.solve(f, y0, (0.0, 0.5), method="bosh3", runner=runner)
            sol = torchivp.solve(f, None, t, start=first, method="bosh3", runner=runner)
            grads.append(torch.autograd.grad((sol.y**2).sum(), [y0, t, *f.parameters()]))
        torch.testing.assert_close(*grads, rtol=1e-9, atol=1e-10)

    def test_a_solve_of_no_length(self) -> None:
        for settings in ({"batch_dims": 0}, {"batch_dims": 1, "t": (0.5, 0.5)}):
            y0, t = ROWS.clone().requires_grad_(), torch.tensor([0.5, 0.5], dtype=torch64, requires_grad=True)
            sol = torchivp.solve(Swing(), y0, t, runner="compiled", batch_dims=settings["batch_dims"])
            at_y0, at_t = torch.autograd.grad(sol.y.sum() + 2 * sol.t.sum(), [y0, t])
            assert bool((at_y0 == 2).all())
            assert float(at_t.sum()) == 4 * (3 if settings["batch_dims"] else 1)


@pytest.mark.slow
@pytest.mark.parametrize("how", [{"y0": Y0}, {"y0": ROWS, "t": OWN, "batch_dims": 1}], ids=["one", "rows"])
def test_compiled(how: dict[str, Any]) -> None:
    """Twice, the second time with other numbers and without a compilation."""
    f, t = Turned(2, 2, dtype=torch64), how.get("t", UNEVEN)
    for factor in (1.0, 0.9):
        before = len(torchivp.compilations())
        pair = [found(f, runner, method="bosh3", **{**how, "t": factor * t}) for runner in ("eager", "compiled")]
        torch.testing.assert_close(pair[1], pair[0], rtol=1e-9, atol=1e-10)
    assert len(torchivp.compilations()) == before
