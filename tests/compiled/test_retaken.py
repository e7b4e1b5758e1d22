"""``Discrete`` with fewer checkpoints in compiled loops: the steps between them are taken again there."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compiled.pairs import ROWS, Y0, Swing, torch64
from compiled.test_past import ALL, CROSSING, UNEVEN, loss, of
from compiled.test_rows_inside import END
from compiled.test_undone import JUMP, Turned, held
from torchivp.gradients import Discrete, replay

pytestmark = pytest.mark.compiled

FEW = [Discrete(every=3), Discrete(every="sqrt"), Discrete(checkpoints=5)]


@pytest.fixture
def f(python_loops: None) -> Swing:
    return Swing()


def found(f: nn.Module, runner: str, y0: Tensor, t: Tensor = UNEVEN, **settings: Any) -> list[Tensor]:
    y0 = y0.clone().requires_grad_()
    value, _ = loss(f, runner, y0, t, **settings)
    return [value.detach(), *torch.autograd.grad(value, [y0, *f.parameters()])]


def assert_same(monkeypatch: pytest.MonkeyPatch, f: nn.Module, y0: Tensor, **settings: Any) -> None:
    """As eagerly, but without a step taken again in plain PyTorch."""
    eager = found(f, "eager", y0, **{**settings, "gradient": "discrete"})
    monkeypatch.setattr(replay, "Replay", None)
    torch.testing.assert_close(found(f, "compiled", y0, **settings), eager, rtol=1e-9, atol=1e-10)


SETTINGS: dict[str, dict[str, Any]] = {
    "inside": {},
    "end and jump": {"save": "end", **JUMP},
    "dense": {"dense": True},
    "events": {"events": [CROSSING, END], "save": "steps"},
    "fixed": {"method": "rk4", "dt": 0.1},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_one_problem(f: Swing, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    assert_same(monkeypatch, f, Y0, **{"method": "bosh3", "gradient": Discrete(checkpoints=5), **settings})


@pytest.mark.parametrize("gradient", [*FEW, Discrete(every=2), Discrete(checkpoints=1)], ids=repr)
def test_all_kinds(f: Swing, gradient: Discrete, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_same(monkeypatch, f, Y0, **JUMP, method="bosh3", gradient=gradient)


@pytest.mark.parametrize("settings", [{}, {"jump_times": [0.7]}, SETTINGS["events"]], ids=["inside", "jump", "events"])
def test_rows(f: Swing, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    assert_same(monkeypatch, f, ROWS, **{"method": "bosh3", "gradient": Discrete(every=3), "batch_dims": 1, **settings})


@of({**ALL, "trapezoid": {"method": "trapezoid"}, "rodas4": {"method": "rodas4"}})
def test_what_methods_carry(f: Swing, how: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Past and opening, also of calls that begin in the middle of one."""
    assert_same(monkeypatch, f, Y0, gradient=Discrete(checkpoints=4), **JUMP, **how)


class Decay(nn.Module):
    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return -y


@pytest.mark.usefixtures("python_loops")
def test_what_is_kept() -> None:
    """Numbers of states that wait for the gradient: of all steps, or of few."""
    numbers = [held(Decay(), 100, method="rk4", save="end", gradient=gradient) for gradient in FEW]
    assert all(few < limit for few, limit in zip(numbers, (80_000, 20_000, 20_000)))  # of 200 000


@pytest.mark.slow
@pytest.mark.parametrize("how", [{"y0": Y0, **JUMP}, {"y0": ROWS, "batch_dims": 1}], ids=["one", "rows"])
def test_compiled(how: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"method": "bosh3", "gradient": Discrete(every="sqrt"), "rtol": 1e-6, **how}
    assert_same(monkeypatch, Turned(2, 2, dtype=torch64), **settings)
