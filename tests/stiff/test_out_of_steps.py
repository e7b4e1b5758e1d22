"""Explicit solves that run out of steps: those of stiff problems say so, the others do not."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import torchivp
from stiff_problems import STIFF
from torchivp import Status, StiffnessWarning, out_of_steps
from torchivp.methods import METHODS, ExplicitRungeKutta

F64 = torch.float64
EXPLICIT = [name for name, m in METHODS.items() if issubclass(m, ExplicitRungeKutta) and m().adaptive]


def run_out(f: Any, y0: Any, t: Any = (0.0, 1e3), args: Any = None, **settings: Any) -> Any:
    how = {"max_steps": 300, "rtol": 1e-3, "atol": 1e-6, "throw": False, **settings}
    with torch.no_grad():
        return torchivp.solve(f, y0, t, args, **how)


def stiff(*problem: Any, **settings: Any) -> Any:
    """The same; the solve has warned, once."""
    with pytest.warns(StiffnessWarning, match="kvaerno5.*auto") as found:
        sol = run_out(*problem, **settings)
    assert len(found) == 1
    return sol


@pytest.mark.parametrize("method", EXPLICIT)
@pytest.mark.parametrize("problem", ["Robertson", "van der Pol, 1000", "van der Pol, 1e-6"])
def test_stiff_problems(problem: str, method: str) -> None:
    """With the part done; whatever the method."""
    how = {"max_steps": 2000} if method == "fehlberg2" else {}
    p = STIFF[problem]
    sol = stiff(p.f, p.start, (0.0, p.t1), method=method, save="steps", atol=p.atol(1e-4), rtol=1e-4, **how)
    assert sol.status is Status.STIFF
    assert "method='kvaerno5'" in sol.message
    assert "method='auto'" in sol.message
    assert sol.stats.attempted == how.get("max_steps", 300)
    assert len(sol.t) == sol.stats.accepted + 1
    assert torch.isfinite(sol.y).all()


def test_hires_after_a_few_seconds() -> None:
    p = STIFF["HIRES"]
    assert stiff(p.f, p.start, (0.0, p.t1), method="bosh3", atol=1e-7).status is Status.STIFF


def test_throwing() -> None:
    with pytest.raises(torchivp.SolveError, match="The problem is stiff"), pytest.warns(StiffnessWarning):
        run_out(STIFF["Robertson"].f, STIFF["Robertson"].start, method="bosh3", throw=True)


def lorenz(t: Tensor, y: Tensor) -> Tensor:
    a, b, c = y.unbind(-1)
    return torch.stack([10 * (b - a), a * (28 - c) - b, a * b - 8 / 3 * c], -1)


def arenstorf(t: Tensor, u: Tensor) -> Tensor:
    x, y, vx, vy = u.unbind(-1)
    mu = 0.012277471
    d1, d2 = ((x + mu) ** 2 + y**2) ** 1.5, ((x - 1 + mu) ** 2 + y**2) ** 1.5
    ax = x + 2 * vy - (1 - mu) * (x + mu) / d1 - mu * (x - 1 + mu) / d2
    return torch.stack([vx, vy, ax, y - 2 * vx - (1 - mu) * y / d1 - mu * y / d2], -1)


def brusselator(t: Tensor, y: Tensor) -> Tensor:
    a, b = y.unbind(-1)
    return torch.stack([1 + a * a * b - 4 * a, 3 * a - a * a * b], -1)


def spring(t: Tensor, y: Tensor) -> Tensor:
    return torch.stack([y[..., 1], -y[..., 0]], -1)


def transport(t: Tensor, u: Tensor) -> Tensor:
    """A wave that travels through 100 cells: its eigenvalues are imaginary."""
    return 50 * (torch.roll(u, 1, -1) - torch.roll(u, -1, -1))


NOT_STIFF: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], list[float]]] = {
    "Lorenz": (lorenz, [1.0, 1.0, 1.0]),
    "Arenstorf": (arenstorf, [0.994, 0.0, 0.0, -2.00158510637908252240537862224]),
    "Brusselator": (brusselator, [1.5, 3.0]),
    "a spring": (spring, [1.0, 0.0]),
    "a wave": (transport, torch.sin(torch.arange(100) * math.tau / 100).tolist()),
    "decay": (lambda t, y: -y, [1.0]),
    "growth": (lambda t, y: 0.01 * y, [1.0]),
    "forcing": (lambda t, y: torch.cos(1000 * t) - y, [1.0]),
    "stiff forcing": (lambda t, y: 100 * (torch.cos(1000 * t) - y), [1.0]),
    "jumps": (lambda t, y: torch.sign(torch.sin(20 * t)) - y, [1.0]),
    "a relay": (lambda t, y: 0.3 * torch.cos(t) - torch.sign(y), [1.0]),
    "rest": (lambda t, y: 0 * y, [1.0]),
}


@pytest.mark.parametrize("rtol", [1e-3, 1e-7])
@pytest.mark.parametrize("method", ["tsit5", "dop853", "vern9", "bosh3", "adaptive_heun"])
@pytest.mark.parametrize("name", NOT_STIFF)
def test_problems_that_are_not_stiff(name: str, method: str, rtol: float) -> None:
    """Few steps and many; nobody warns (warnings are errors here)."""
    f, start = NOT_STIFF[name]
    few = {"decay": 4, "rest": 2, "growth": 4}.get(name)
    t = (0.0, 15.0 if name == "decay" else 1e3)  # longer, and it rests where its steps are limited by stability alone
    for most in (few,) if few else (25, 100):
        sol = run_out(f, torch.tensor(start, dtype=F64), t, method=method, max_steps=most, rtol=rtol, atol=rtol / 100)
        assert sol.status is Status.MAX_STEPS


def relaxing(t: Tensor, y: Tensor) -> Tensor:
    return 1e4 * (torch.cos(t).to(y.dtype) - y)


STATES: dict[str, tuple[Any, Any]] = {
    "single precision": (relaxing, torch.zeros(3)),
    "complex": (lambda t, y: (3e3j - 1e4) * y, torch.ones(2, dtype=torch.complex128)),
    "a dict": (
        lambda t, y: {"x": relaxing(t, y["x"]), "n": -y["n"]},
        {"x": torch.zeros(2, 2, dtype=F64), "n": torch.ones(1)},
    ),
    "NumPy inside": (lambda t, y: torch.from_numpy(1e4 * (1 - y.detach().numpy())), torch.zeros(2, dtype=F64)),
    "cells": (
        lambda t, u: 1e4 * (torch.roll(u, 1) - 2 * u + torch.roll(u, -1)),
        torch.sin(torch.arange(3000, dtype=F64) * math.tau / 3000),
    ),
    "damped fast oscillations": (
        lambda t, y: 1e3 * torch.stack([y[1] - 0.3 * y[0], -y[0] - 0.3 * y[1]]) + 1,
        torch.ones(2, dtype=F64),
    ),
}


@pytest.mark.parametrize("name", STATES)
@pytest.mark.parametrize("method", ["bosh3", "tsit5"])
def test_any_state(name: str, method: str) -> None:
    f, y0 = STATES[name]
    for t in ((0.0, 50.0), (0.0, -50.0)):
        way = f if t[1] > 0 else lambda t, y: torch.utils._pytree.tree_map(torch.neg, f(-t, y))
        assert stiff(way, y0, t, method=method).status is Status.STIFF


class Counting:
    """Relaxation with noise; counts, and at some evaluation refuses."""

    def __init__(self, most: float = math.inf):
        self.calls, self.most = 0, most

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        self.calls += 1
        if self.calls > self.most:
            raise RuntimeError("enough")
        return 1e4 * (1 - y) + 1e-9 * torch.rand(1, dtype=F64)


def test_nothing_is_left_of_the_question(monkeypatch: pytest.MonkeyPatch) -> None:
    """The solution, its counts and the random numbers that follow are those of a solve that is not asked."""
    start = torch.zeros(2, dtype=F64)

    def solved() -> tuple[Any, Tensor]:
        torch.manual_seed(0)
        return run_out(Counting(), start, method="bosh3", save="steps"), torch.rand(3)

    with pytest.warns(StiffnessWarning):
        sol, after = solved()
    monkeypatch.setattr(out_of_steps, "asked", lambda *question: None)
    plain, expected = solved()
    assert (sol.status, plain.status) == (Status.STIFF, Status.MAX_STEPS)
    assert sol.stats == plain.stats
    assert torch.equal(sol.t, plain.t)
    assert torch.equal(sol.y, plain.y)
    assert torch.equal(after, expected)


def test_an_f_that_refuses_keeps_the_solution() -> None:
    f = Counting()
    with pytest.warns(StiffnessWarning):
        sol = run_out(f, torch.zeros(2, dtype=F64), method="bosh3")
    assert f.calls > sol.stats.nfe
    for more in (0, 5, 40):
        refusing = run_out(Counting(sol.stats.nfe + more), torch.zeros(2, dtype=F64), method="bosh3")
        assert refusing.status is Status.MAX_STEPS
        assert torch.equal(refusing.y, sol.y)


def test_ctrl_c_while_it_is_asked() -> None:
    with pytest.warns(StiffnessWarning):
        calls = run_out(relaxing, torch.zeros(2, dtype=F64), method="bosh3").stats.nfe
    counted = 0

    def f(t: Tensor, y: Tensor) -> Tensor:
        nonlocal counted
        counted += 1
        if counted > calls + 3:
            raise KeyboardInterrupt
        return relaxing(t, y)

    assert run_out(f, torch.zeros(2, dtype=F64), method="bosh3").status is Status.MAX_STEPS


@pytest.mark.parametrize(
    "how", [{"method": "rk4", "dt": 1e-4}, {"method": "reversible_heun"}, {"method": "kvaerno3"}], ids=repr
)
def test_methods_that_are_not_asked(how: dict[str, Any]) -> None:
    """Fixed steps; methods without a region of stability, whatever the problem; implicit ones."""
    assert run_out(relaxing, torch.zeros(2, dtype=F64), (0.0, 0.1), max_steps=5, **how).status is Status.MAX_STEPS


def test_with_a_graph() -> None:
    """``gradient="direct"`` has recorded the solve; the part done still has its gradient."""
    rate = torch.tensor(1e4, dtype=F64, requires_grad=True)
    with pytest.warns(StiffnessWarning):
        sol = torchivp.solve(
            lambda t, y: rate * (1 - y), torch.zeros(1, dtype=F64), (0.0, 10.0), method="bosh3", max_steps=150,
            throw=False, gradient="direct", save="steps",
        )  # fmt: skip
    assert sol.status is Status.STIFF
    (grad,) = torch.autograd.grad(sol.y[-1].sum(), rate)
    assert torch.isfinite(grad)
