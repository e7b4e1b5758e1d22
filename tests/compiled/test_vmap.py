"""``torch.func.vmap`` around compiled solves: its rows are those of a batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import torchivp
from compiled.pairs import ROWS, SWING, TIMES, torch64
from torchivp import Event
from torchivp.gradients import replay

pytestmark = [
    pytest.mark.compiled,
    pytest.mark.filterwarnings(
        "ignore:The .grad attribute"
    ),  # dynamo asks for it, and hides the warning by its own means
]
WEIGHTS = torch.tensor([0.5, 1.0, 2.0], dtype=torch64)


def f(t: Tensor, y: Tensor, args: dict[str, Tensor]) -> Tensor:
    """Of one row: it could not take several."""
    return torch.tanh(SWING.turn @ y) * args["w"] + torch.stack([torch.cos(args["shift"] + t), -y[0]])


def found(runner: str, loss: Any, **settings: Any) -> list[Tensor]:
    y0, w = ROWS.clone().requires_grad_(), WEIGHTS.clone().requires_grad_()
    shift = torch.tensor(0.3, dtype=torch64, requires_grad=True)

    def one(y0: Tensor, w: Tensor) -> Tensor:
        sol = torchivp.solve(f, y0, TIMES, {"w": w, "shift": shift}, runner=runner, **{"method": "bosh3", **settings})
        return loss(sol)

    values = torch.func.vmap(one)(y0, w)
    return [values.detach(), *torch.autograd.grad(values.square().sum(), [y0, w, shift, SWING.turn])]


CROSSING = Event(lambda t, y, args: t - 0.7 - 0.01 * args["w"] * y[0], terminal=True)
HOW: dict[str, tuple[Any, dict[str, Any]]] = {
    "times": (lambda sol: sol.y, {}),
    "end": (lambda sol: sol.y[-1], {"save": "end", "method": "rodas4", "rtol": 1e-3}),
    "function": (lambda sol: sol.y, {"save": lambda t, y: t * y[0]}),
    "dense": (lambda sol: sol(torch.tensor([0.3, 1.7], dtype=torch64)), {"dense": True}),
    "event": (lambda sol: torch.cat([sol.t_events[0], sol.y[-1]]), {"events": CROSSING, "save": "end"}),
}


@pytest.mark.parametrize(("loss", "settings"), HOW.values(), ids=HOW)
def test_the_same_as_eager(
    python_loops: None, loss: Any, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    eager = found("eager", loss, **settings)
    monkeypatch.setattr(replay, "Replay", None)
    torch.testing.assert_close(found("compiled", loss, **settings), eager, rtol=1e-9, atol=1e-10)


def test_a_gradient_of_another_kind(python_loops: None) -> None:
    """That of the same batch."""

    def of_rows(t: Tensor, y: Tensor, args: Tensor) -> Tensor:
        return torch.func.vmap(decay)(t, y, args)

    def decay(t: Tensor, y: Tensor, w: Tensor) -> Tensor:
        return -w * y * torch.cos(t)

    w = WEIGHTS.clone().requires_grad_()
    how: dict[str, Any] = {"runner": "compiled", "gradient": "adjoint", "method": "bosh3"}
    batch = torchivp.solve(of_rows, ROWS, TIMES, w, batch_dims=1, **how).y
    rows = torch.func.vmap(lambda y, w: torchivp.solve(decay, y, TIMES, w, **how).y)(ROWS, w)
    torch.testing.assert_close(*(torch.autograd.grad(y.square().sum(), w) for y in (batch, rows)), rtol=1e-12, atol=0)


def test_several_levels_and_times_of_their_own(python_loops: None) -> None:
    """All rows of all levels are one batch."""
    ends = torch.tensor([1.0, 2.0], dtype=torch64)

    def one(y0: Tensor, end: Tensor, runner: str) -> Tensor:
        t = torch.stack([torch.zeros_like(end), 0.3 * end, end])
        return torchivp.solve(lambda t, y: -y * torch.cos(t), y0, t, runner=runner).y

    def all_of_them(runner: str) -> Tensor:
        return torch.func.vmap(lambda y: torch.func.vmap(lambda end: one(y, end, runner))(ends))(ROWS)

    torch.testing.assert_close(all_of_them("compiled"), all_of_them("eager"), rtol=1e-10, atol=1e-12)


def test_rows_that_f_closes_over_are_refused(python_loops: None) -> None:
    """Nobody could lay them out; in args one can."""
    with pytest.raises(torchivp.NotCompilable, match=r"torch\.func"):
        torch.func.vmap(lambda w: torchivp.solve(lambda t, y: -w * y, ROWS[0], TIMES, runner="compiled").y)(WEIGHTS)


@pytest.mark.slow
def test_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    loss, settings = HOW["times"]
    eager = found("eager", loss, **settings)
    monkeypatch.setattr(replay, "Replay", None)
    for _ in range(2):  # the second time without a compilation
        before = len(torchivp.compilations())
        torch.testing.assert_close(found("compiled", loss, **settings), eager, rtol=1e-9, atol=1e-10)
    assert len(torchivp.compilations()) == before
