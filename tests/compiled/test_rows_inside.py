"""Gradients of events and dense output of rows: the backward pass is compiled as well."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import torchivp
from compiled.pairs import ROWS, Swing, torch64
from compiled.test_past import CROSSING, REVERSIBLE, UNEVEN, of
from compiled.test_undone import Turned, short_calls
from torchivp import Event
from torchivp.gradients import replay

pytestmark = pytest.mark.compiled

END = Event(lambda t, y: t - 1.2 - 0.5 * y[..., 0], terminal=True)  # rows end at different steps, one of them at none
INSIDE: dict[str, dict[str, Any]] = {
    "events": {"events": [CROSSING]},
    "some end": {"events": [CROSSING, END], "save": "steps"},
    "dense": {"dense": True},
    "dense, some end": {"events": [END, CROSSING], "dense": True, "save": "end"},
}
inside = pytest.mark.parametrize("settings", INSIDE.values(), ids=INSIDE)


def found(f: nn.Module, runner: str, y0: Tensor, t: Any = UNEVEN, **settings: Any) -> list[Tensor]:
    """What comes out, its gradients, and the evaluations in both directions."""
    y0 = y0.clone().requires_grad_()
    sol = torchivp.solve(f, y0, t, runner=runner, **{"batch_dims": 1, "rtol": 1e-4, **settings})
    values = [y.flatten() for y in (sol.y if isinstance(sol.y, list) else [sol.y])]
    if settings.get("dense"):
        values.append(sol(torch.linspace(0.1, 0.9, 7, dtype=torch64)).flatten())
    for of_event in [*(sol.t_events or []), *(sol.y_events or [])]:
        values += [x.flatten() for x in of_event]
    y = torch.cat(values).nan_to_num(0.0)
    loss = (y * torch.linspace(0.5, 1.5, len(y), dtype=torch64)).sum()
    return [
        y.detach(),
        *torch.autograd.grad(loss, [y0, *f.parameters()]),
        torch.tensor([sol.stats.nfe, sol.stats.replayed]),
    ]


def assert_same(monkeypatch: pytest.MonkeyPatch, f: nn.Module, counts: bool = True, **settings: Any) -> None:
    """As eagerly, but without a step taken again in plain PyTorch."""
    eager = found(f, "eager", ROWS, **settings)
    monkeypatch.setattr(replay, "Replay", None)
    short_calls(monkeypatch)  # rows end in one call, and the others go on in the next
    compiled = found(f, "compiled", ROWS, **settings)
    torch.testing.assert_close(compiled[:-1], eager[:-1], rtol=1e-9, atol=1e-10)
    assert not counts or torch.equal(compiled[-1], eager[-1])


@pytest.mark.usefixtures("python_loops")
class TestWithoutCompiling:
    @inside
    def test_explicit(self, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
        assert_same(monkeypatch, Swing(), method="bosh3", **settings)

    @pytest.mark.parametrize("how", [{"jump_times": [0.7]}, {"method": "trapezoid"}, {"method": "rodas4"}], ids=str)
    def test_with_jumps_and_implicit(self, how: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
        how = {"method": "bosh3", **INSIDE["dense, some end"], **how}
        assert_same(monkeypatch, Swing(), counts=False, **how)

    @inside
    @of(REVERSIBLE)
    def test_steps_that_are_undone(
        self, how: dict[str, Any], settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Every row from where it ended."""
        assert_same(monkeypatch, Swing(), gradient="reversible", **{**settings, **how})

    def test_several_axes_and_tensors(self, monkeypatch: pytest.MonkeyPatch) -> None:
        w, grads = torch.tensor(0.7, dtype=torch64, requires_grad=True), []

        def orbit(t: Tensor, y: dict[str, Tensor]) -> dict[str, Tensor]:
            x, v = y["x"].unbind(-1)
            return {"total": y["x"].sum(-1) - y["total"], "x": torch.stack((v, -w * x), -1)}

        end = Event(lambda t, y: y["x"][..., 0], terminal=True)
        for runner in ("eager", "compiled"):
            x = torch.linspace(0.5, 1.5, 6, dtype=torch64).reshape(3, 1, 2).requires_grad_()
            y0 = {"x": x, "total": torch.zeros(3, 1, dtype=torch64)}
            sol = torchivp.solve(
                orbit, y0, (0.0, 2.7), batch_dims=2, save="end", events=[end], dense=True, runner=runner
            )
            y = [sol.y["x"], *sol.t_events[0], sol(torch.tensor([0.1, 0.5], dtype=torch64))["total"]]
            grads.append(torch.autograd.grad(torch.cat([z.flatten() for z in y]).square().sum(), [x, w]))
            monkeypatch.setattr(replay, "Replay", None)
        torch.testing.assert_close(*grads, rtol=1e-10, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("how", [{"method": "bosh3"}, REVERSIBLE["alf"]], ids=["discrete", "reversible"])
def test_compiled(how: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    how = {"gradient": "discrete" if how["method"] == "bosh3" else "reversible", **how}
    assert_same(monkeypatch, Turned(2, 2, dtype=torch64), **{**INSIDE["dense, some end"], **how})
