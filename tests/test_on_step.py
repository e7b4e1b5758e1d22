"""``on_step`` and the progress bar."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import torchivp
from torchivp import Event, InputError, Status, solve

ONE = torch.ones(2, dtype=torch.float64)
METHODS = sorted(torchivp.methods.METHODS)


def f(t: Tensor, y: Tensor) -> Tensor:
    return torch.cos(t) * y


@pytest.mark.parametrize("method", METHODS)
def test_it_sees_every_accepted_step(method: str) -> None:
    adaptive = torchivp.methods.METHODS[method]().adaptive
    seen: list[tuple[float, Tensor]] = []
    sol = solve(
        f, ONE, (0.0, 3.0), method=method, dt=None if adaptive else 0.1, save="steps", rtol=1e-4, atol=1e-4,
        on_step=lambda t, y: seen.append((t, y)),
    )  # fmt: skip
    assert len(seen) == sol.stats.accepted
    assert [t for t, _ in seen] == sol.t[1:].tolist()
    assert torch.equal(torch.stack([y for _, y in seen]), sol.y[1:])
    assert all(isinstance(t, float) for t, _ in seen)


@pytest.mark.parametrize("gradient", ["discrete", "direct", "adjoint"])
def test_it_gets_the_user_s_state_and_time(gradient: str) -> None:
    w = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    seen: list[tuple[float, Any]] = []
    sol = solve(
        lambda t, y: {"a": w * y["b"], "b": -w * y["a"]}, {"a": ONE, "b": torch.zeros(2).double()}, (3.0, 0.0),
        on_step=lambda t, y: seen.append((t, y)), gradient=gradient,
    )  # fmt: skip
    times = [t for t, _ in seen]
    assert times == sorted(times, reverse=True)
    assert times[-1] == 0
    assert all(set(y) == {"a", "b"} and y["a"].shape == (2,) and not y["a"].requires_grad for _, y in seen)
    assert torch.equal(seen[-1][1]["a"], sol.y["a"][-1].detach())


@pytest.mark.parametrize("stop", [True, 1, "yes", np.True_, torch.tensor(True), torch.tensor([1.0])], ids=repr)
def test_a_true_answer_stops(stop: Any) -> None:
    sol = solve(f, ONE, (0.0, 10.0), save="steps", on_step=lambda t, y: stop if t > 1 else None)
    assert sol.status is Status.STOPPED
    assert sol.success
    assert "stopped by on_step" in sol.message
    assert f"t={sol.t[-1].item():g}" in sol.message
    assert sol.t[-2] <= 1 < sol.t[-1]


@pytest.mark.parametrize("answer", [False, None, 0, "", np.False_, torch.tensor(False)], ids=repr)
def test_a_false_answer_goes_on(answer: Any) -> None:
    assert solve(f, ONE, 1.0, on_step=lambda t, y: answer).status is Status.SUCCESS


def test_after_a_stop_nothing_more_is_asked() -> None:
    asked: list[float] = []

    def spy(t: Tensor, y: Tensor) -> Tensor:
        asked.append(t.item())
        return f(t, y)

    steps: list[tuple[float, int]] = []
    sol = solve(
        spy, ONE, torch.linspace(0, 10, 101), on_step=lambda t, y: steps.append((t, len(asked))) or len(steps) == 3
    )
    assert len(steps) == 3
    assert len(asked) == steps[-1][1] == sol.stats.nfe
    assert sol.t[-1] <= steps[-1][0]
    assert torch.equal(sol.t, torch.linspace(0, 10, 101)[: len(sol.t)].double())
    assert sol.t[-1] + 0.1 > steps[-1][0]
    torch.testing.assert_close(sol.y[:, 0], torch.exp(torch.sin(sol.t)), rtol=1e-4, atol=0)


@pytest.mark.parametrize("gradient", ["discrete", "direct", "adjoint"])
@pytest.mark.parametrize("save", ["t", "steps", "end"])
def test_a_stopped_solve_has_its_gradients(save: str, gradient: str) -> None:
    y0 = ONE.clone().requires_grad_()
    sol = solve(
        f,
        y0,
        torch.linspace(0, 10, 101),
        save=save,
        gradient=gradient,
        on_step=lambda t, y: t > 2,
        rtol=1e-8,
        atol=1e-8,
    )
    assert sol.status is Status.STOPPED
    (grad,) = torch.autograd.grad(sol.y[-1].sum(), y0)
    torch.testing.assert_close(grad, torch.exp(torch.sin(sol.t[-1:])).expand(2), rtol=1e-5, atol=0)


def test_stopping_at_the_very_end_is_a_stop() -> None:
    sol = solve(f, ONE, 1.0, on_step=lambda t, y: t == 1)
    assert sol.status is Status.STOPPED
    assert sol.t.tolist() == [0, 1]


def test_it_is_not_called_beyond_a_terminal_event() -> None:
    seen: list[float] = []
    sol = solve(f, ONE, 10.0, on_step=lambda t, y: seen.append(t), events=Event(lambda t, y: t - 0.77, terminal=True))
    assert sol.status is Status.EVENT
    assert all(t <= sol.t[-1] for t in seen)


def test_its_exceptions_are_the_user_s() -> None:
    class Enough(Exception):
        pass

    def on_step(t: float, y: Tensor) -> None:
        raise Enough

    for throw in (True, False):
        with pytest.raises(Enough):
            solve(f, ONE, 1.0, on_step=on_step, throw=throw)


def test_it_changes_no_number() -> None:
    plain = solve(f, ONE, torch.linspace(0, 3, 9))
    watched = solve(f, ONE, torch.linspace(0, 3, 9), on_step=lambda t, y: False, progress=True)
    assert torch.equal(watched.y, plain.y)
    assert watched.stats == plain.stats


# ---- progress


@pytest.mark.parametrize("t", [(0.0, 1.0), (1.0, -1.0), torch.linspace(0, 7, 50)], ids=["span", "back", "many"])
@pytest.mark.parametrize("method", ["tsit5", "rk4"])
def test_a_bar_that_reaches_the_end(t: Any, method: str, capsys: pytest.CaptureFixture[str]) -> None:
    end = float(t[-1])
    sol = solve(f, ONE, t, progress=True, method=method, dt=None if method == "tsit5" else 0.013)
    out, err = capsys.readouterr()
    assert out == ""
    last = err.rstrip().rsplit("\r", 1)[-1]
    assert "solve: 100%" in last
    assert f"t={end:.4g}" in last
    assert f"steps={sol.stats.accepted}" in last


def test_a_bar_that_stops_where_the_solve_stops(capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[float] = []
    solve(f, ONE, 10.0, progress=True, on_step=lambda t, y: seen.append(t) or t > 4)
    last = capsys.readouterr().err.rstrip().rsplit("\r", 1)[-1]
    assert f"{int(10 * seen[-1])}%" in last


def test_a_bar_of_a_resumed_solve_runs_over_the_rest(capsys: pytest.CaptureFixture[str]) -> None:
    first = solve(f, ONE, 10.0, on_step=lambda t, y: t > 4)
    capsys.readouterr()
    solve(f, None, 10.0, start=first, progress=True)
    assert "solve: 100%" in capsys.readouterr().err


@pytest.mark.parametrize("t", [(1.0, 1.0), [2.0]])
def test_no_interval_no_trouble(t: Any) -> None:
    assert solve(f, ONE, t, progress=True).success


def test_a_failure_leaves_the_bar_behind(capsys: pytest.CaptureFixture[str]) -> None:
    assert not solve(lambda t, y: y * y, ONE, 2.0, progress=True, throw=False).success
    assert "50%" in capsys.readouterr().err


def test_without_tqdm_there_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tqdm", "tqdm.auto"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=r"progress=True needs tqdm.*pip install torchivp\[progress\]"):
        solve(f, ONE, 1.0, progress=True)
    assert solve(f, ONE, 1.0).success
