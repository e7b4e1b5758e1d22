"""Gradients against finite differences, in float64, for every method, on a non-autonomous nonlinear problem.

Step sizes are constants of the gradient. Finite differences of an adaptive solve would move them and see the difference, so
that they are held: a controller notes its verdicts in one solve, rejections among them, and repeats them in all others. One test
lets them go, at a tight tolerance.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

import torchivp
from gradients.comparison import weighted
from iterating import ITERATING
from torchivp.controllers import Controller, Verdict
from torchivp.methods import METHODS

F64 = torch.float64
WAYS = ["direct", "discrete"]
ADAPTIVE = [name for name, cls in METHODS.items() if cls().adaptive]


class Noted(Controller):
    """A classical controller that notes its verdicts."""

    adaptive = True

    def __init__(self) -> None:
        self.verdicts: list[Verdict] = []
        self.inner = torchivp.PID()

    def judge(self, *args: Any) -> Verdict:
        self.verdicts.append(self.inner.judge(*args))
        return self.verdicts[-1]

    def grid(self, t: list[float]) -> list[float]:
        return []


class Repeated(Controller):
    """Verdicts given beforehand."""

    adaptive = True

    def __init__(self, verdicts: list[Verdict]) -> None:
        self.rest = iter(verdicts)

    def judge(self, *args: Any) -> Verdict:
        return next(self.rest)

    def grid(self, t: list[float]) -> list[float]:
        return []


class Held:
    """``solve`` with steps that are the same in every call: those of the first one.

    An adaptive method begins with a step that is too long, and rejects it; the others take steps of a given size.
    """

    def __init__(self, method: str, gradient: str, tol: float = 1e-4, dt: float = 0.13) -> None:
        self.settings: dict[str, Any] = {"method": method, "gradient": gradient}
        self.adaptive = method in ADAPTIVE and method not in ITERATING
        if method in ITERATING:  # stages solved to rounding, with steps of one size
            self.settings |= {
                "rtol": 1e-12,
                "atol": 1e-12,
                "controller": torchivp.FixedSteps(dt=dt / 2),
            }  # no root for longer ones
            self.noted, self.stats = Noted(), None
            return
        self.settings |= {"rtol": tol, "atol": tol, "dt": 3.0} if self.adaptive else {"dt": dt}
        self.noted = Noted()
        self.stats: torchivp.Stats | None = None

    def __call__(self, *args: Any, **kw: Any) -> torchivp.Solution:
        if self.adaptive:
            kw["controller"] = self.noted if self.stats is None else Repeated(self.noted.verdicts)
        sol = torchivp.solve(*args, **self.settings, **kw)
        self.stats = self.stats or sol.stats
        assert (sol.stats.accepted, sol.stats.rejected) == (self.stats.accepted, self.stats.rejected)
        return sol


def f(t: Tensor, y: Tensor, w: Tensor) -> Tensor:
    return torch.stack([torch.sin(w[0] * t) * y[1] - y[0] ** 2, torch.cos(3 * y[0] + 5 * t) * w[1]])


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    """y0, times (the ones in the middle are off any mesh), parameters."""
    y0 = torch.tensor([0.7, -0.4], dtype=F64, requires_grad=True)
    t = torch.tensor([0.1, 0.333, 0.52, 0.85], dtype=F64, requires_grad=True)
    return y0, t, torch.tensor([4.0, 2.5], dtype=F64, requires_grad=True)


# Tolerances at which the pairs take about as many steps.
TOL = {"adaptive_heun": 1e-2, "fehlberg2": 1e-5, "bosh3": 1e-3, "dopri5": 1e-6, "tsit5": 1e-6, "dopri8": 1e-9,
       "dop853": 1e-9, "vern6": 1e-7, "vern7": 1e-8, "vern8": 1e-9, "vern9": 1e-9}  # fmt: skip
TOL |= {"reversible_heun": 1e-2, "alf": 1e-2}
TOL |= {"rosenbrock23": 1e-3, "rodas4": 1e-4, "rodas5p": 1e-5}


@pytest.mark.parametrize("gradient", WAYS)
@pytest.mark.parametrize("method", METHODS)
def test_y0_times_and_args(method: str, gradient: str) -> None:
    solve = Held(method, gradient, TOL.get(method, 0))

    def values(y0: Tensor, t: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        sol = solve(f, y0, t, w)
        return weighted(sol.y[1:3]), sol.y[-1]

    assert gradcheck(values, inputs(), eps=1e-5, atol=1e-7, rtol=1e-6)
    assert solve.stats.accepted >= 5
    assert solve.stats.rejected >= 1 or not solve.adaptive


# Methods of low order: the tolerance, and what moving steps may add.
LET_GO = {"adaptive_heun": (1e-4, 2e-2), "fehlberg2": (1e-6, 2e-2), "bosh3": (1e-6, 1e-4)}
LET_GO |= {"reversible_heun": (1e-4, 2e-2), "alf": (1e-4, 2e-2)}


@pytest.mark.parametrize("gradient", WAYS)
@pytest.mark.parametrize("method", ADAPTIVE)
def test_steps_let_go(method: str, gradient: str) -> None:
    """Finite differences of the adaptive solve itself: what moving steps add is of the size of its error."""
    tol, error = LET_GO.get(method, (1e-9, 1e-6))

    def values(y0: Tensor, t: Tensor, w: Tensor) -> Tensor:
        sol = torchivp.solve(f, y0, t, w, method=method, gradient=gradient, rtol=tol, atol=tol)
        return weighted(sol.y)

    assert gradcheck(values, inputs(), eps=1e-5, atol=error, rtol=10 * error, fast_mode=True)


@pytest.mark.parametrize("gradient", WAYS)
@pytest.mark.parametrize("method", METHODS)
def test_dense_output(method: str, gradient: str) -> None:
    """Values between the steps, at times that require grad, decreasing time."""
    y0, t, w = inputs()
    between = torch.tensor([0.42, 0.7], dtype=F64, requires_grad=True)
    solve = Held(method, gradient, TOL.get(method, 0))

    def values(y0: Tensor, t: Tensor, w: Tensor, between: Tensor) -> Tensor:
        return solve(f, y0, t.flip(0), w, dense=True)(between)

    assert gradcheck(values, (y0, t, w, between), eps=1e-5, atol=1e-7, rtol=1e-6, fast_mode=True)


@pytest.mark.parametrize("gradient", WAYS)
@pytest.mark.parametrize("method", ["euler", "rk4", "fehlberg2", "tsit5", "dopri8", "explicit_adams", "implicit_adams"])
def test_events(method: str, gradient: str) -> None:
    """Times and states of an event that is passed and of one that ends the solve; parameters of the event functions."""
    y0 = torch.tensor([1.0, 0.3], dtype=F64, requires_grad=True)
    t = torch.tensor([0.1, 5.0], dtype=F64, requires_grad=True)
    w = torch.tensor(1.3, dtype=F64, requires_grad=True)
    levels = torch.tensor([0.4, -0.5], dtype=F64, requires_grad=True)
    solve = Held(method, gradient, tol=1e-3, dt=0.27)

    def pendulum(t: Tensor, y: Tensor, w: Tensor) -> Tensor:
        return torch.stack([y[1], -w * torch.sin(y[0]) + 0.1 * torch.cos(2 * t)])

    def values(y0: Tensor, t: Tensor, w: Tensor, levels: Tensor) -> tuple[Tensor, ...]:
        passed = torchivp.Event(lambda t, y, w: y[0] - levels[0] + 0.1 * t)
        ends = torchivp.Event(lambda t, y, w: torch.sinh(y[0] - levels[1]) * w, terminal=True)
        sol = solve(pendulum, y0, t, w, events=[passed, ends])
        assert [len(x) for x in sol.t_events] == [1, 1]
        return (*sol.t_events, *sol.y_events, sol.y[-1])

    assert gradcheck(values, (y0, t, w, levels), eps=1e-5, atol=1e-7, rtol=1e-6, fast_mode=True)


@pytest.mark.parametrize("gradient", WAYS)
@pytest.mark.parametrize("method", ["rk4", "tsit5", "dopri8", "implicit_adams"])
def test_complex_states_pytrees_and_jumps(method: str, gradient: str) -> None:
    """With parameters that f closes over."""
    z0 = torch.tensor([0.5 + 0.4j], dtype=torch.complex128, requires_grad=True)
    x0 = torch.tensor(0.3, dtype=F64, requires_grad=True)
    w = torch.tensor(0.7 - 0.9j, dtype=torch.complex128, requires_grad=True)
    solve = Held(method, gradient)

    def slope(t: Tensor, y: dict[str, Tensor]) -> dict[str, Tensor]:
        sign = torch.where(t < 0.5, 1.0, -0.5)
        return {"z": w * y["z"] * sign - y["x"] * y["z"] ** 2, "x": y["z"].abs().square().sum() - y["x"]}

    def values(z0: Tensor, x0: Tensor, w_: Tensor) -> tuple[Tensor, Tensor]:
        sol = solve(slope, {"z": z0, "x": x0}, (0.0, 0.3, 1.2), jump_times=[0.5])
        return sol.y["z"], sol.y["x"]

    assert gradcheck(values, (z0, x0, w), eps=1e-5, atol=1e-7, rtol=1e-6, fast_mode=True)
