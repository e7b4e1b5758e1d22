"""Replaying the accepted steps gives the gradient of autograd through the loop: to 1e-12 of its norm, for every input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import torchivp
from gradients.comparison import Loss, assert_agree, gradients, weighted
from iterating import ITERATING
from torchivp.gradients import replay
from torchivp.methods import METHODS

F64 = torch.float64
# One of each kind: FSAL with a free interpolant, extra stages inside a step, end slope as extra stage, multistep.
KINDS = ["tsit5", "dopri8", "rk4", "explicit_adams", "implicit_adams"]


@pytest.fixture(autouse=True, params=["one graph", "three steps in a graph", "a graph for each step"])
def steps_in_a_graph(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps share a graph up to a number of bytes; these are small, so all of them would."""
    if request.param != "one graph":
        monkeypatch.setattr(replay, "_GRAPH", 3 if request.param == "three steps in a graph" else 1)
        monkeypatch.setattr(replay, "bytes_held", lambda outputs, known: 1)


def settings(method: str, **kw: Any) -> dict[str, Any]:
    """A first step that is too long, so that adaptive methods reject; nine steps for the others."""
    tol = 1e-4 if METHODS[method]().order < 8 else 1e-6
    size = (
        {"rtol": tol, "atol": tol / 10, "dt": 0.7}
        if METHODS[method]().adaptive
        else {"controller": torchivp.FixedSteps(dt=0.19)}
    )
    return {"method": method, **size, **kw}


class Net(nn.Module):
    """Not autonomous, not linear; takes a tree of args."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 4, dtype=F64)
        self.outer = nn.Linear(4, 3, dtype=F64)

    def forward(self, t: Tensor, y: Tensor, args: dict[str, Tensor]) -> Tensor:
        hidden = torch.tanh(self.inner(y) + torch.sin(args["rate"] * t))
        return self.outer(hidden) * 2 - args["decay"] * torch.sin(2 * y)


@dataclass
class Inputs:
    """Everything a solve is differentiable with respect to."""

    net: Net
    y0: Tensor
    t: Tensor
    args: dict[str, Tensor]

    @property
    def tensors(self) -> list[Tensor]:
        return [self.y0, self.t, *self.args.values(), *self.net.parameters()]


@pytest.fixture
def inputs() -> Inputs:
    return Inputs(
        net=Net(),
        y0=torch.tensor([0.8, -0.5, 1.1], dtype=F64, requires_grad=True),
        t=torch.tensor([0.0, 0.33, 0.7, 0.71, 1.6], dtype=F64, requires_grad=True),
        args={
            "rate": torch.tensor(3.0, dtype=F64, requires_grad=True),
            "decay": torch.tensor([0.5, 0.2, 0.9], dtype=F64, requires_grad=True),
        },
    )


@pytest.mark.parametrize("method", METHODS)
def test_all_inputs_all_outputs(method: str, inputs: Inputs) -> None:
    """y0, times, args and parameters; outputs off the mesh and at its ends; dense output at times that require grad."""
    between = torch.tensor([0.05, 0.5, 1.2, 1.55], dtype=F64, requires_grad=True)
    stats = {}

    def loss(gradient: str) -> Tensor:
        sol = torchivp.solve(
            inputs.net, inputs.y0, inputs.t, inputs.args, gradient=gradient, dense=True, **settings(method)
        )
        stats[gradient] = sol.stats
        return weighted(sol.y, sol(between))

    assert_agree(loss, [*inputs.tensors, between])
    assert stats["direct"].accepted == stats["discrete"].accepted >= 3
    # of those that iterate a gradient asks f at the roots, too
    assert method in ITERATING or stats["direct"].nfe == stats["discrete"].nfe
    assert stats["direct"].rejected > 0 or not METHODS[method]().adaptive


@pytest.mark.parametrize("method", METHODS)
def test_the_times_are_the_grid(method: str, inputs: Inputs) -> None:
    """Fixed steps from output to output: the step sizes themselves carry gradients."""

    def loss(gradient: str) -> Tensor:
        sol = torchivp.solve(
            inputs.net,
            inputs.y0,
            inputs.t,
            inputs.args,
            gradient=gradient,
            method=method,
            controller=torchivp.FixedSteps(),
        )
        return weighted(sol.y)

    assert_agree(loss, inputs.tensors)


def _end(sol: torchivp.Solution) -> Tensor:
    return weighted(sol.y)


SAVES: dict[str, dict[str, Any]] = {
    "steps": {"save": "steps"},
    "end": {"save": "end"},
    "function": {"save": lambda t, y: {"square": y * y, "time": t * y[0]}},
    "stop times": {"stop_times": [0.2, 1.1]},
    "jump times": {"jump_times": [0.4, 1.3]},
    "stopped early": {"on_step": lambda t, y: t > 0.75},
}


@pytest.mark.parametrize("save", SAVES)
@pytest.mark.parametrize("method", KINDS)
def test_what_is_saved(method: str, save: str, inputs: Inputs) -> None:
    def loss(gradient: str) -> Tensor:
        sol = torchivp.solve(
            inputs.net, inputs.y0, inputs.t, inputs.args, gradient=gradient, **settings(method, **SAVES[save])
        )
        return weighted(*(sol.y.values() if isinstance(sol.y, dict) else [sol.y]))

    # The last time asked for was not reached, or no time but the ends matters: then t's gradient has zeros, as it should.
    assert_agree(loss, inputs.tensors)


@pytest.mark.parametrize("method", KINDS)
def test_f_jumps(method: str, inputs: Inputs) -> None:
    def f(t: Tensor, y: Tensor, args: dict[str, Tensor]) -> Tensor:
        return inputs.net(t, y, args) * torch.where(t < 0.6, 1.0, -0.5)

    def loss(gradient: str) -> Tensor:
        kw = settings(method, jump_times=[0.6], dense=True)
        sol = torchivp.solve(f, inputs.y0, inputs.t, inputs.args, gradient=gradient, **kw)
        return weighted(sol.y, sol(0.61), sol(0.59))

    assert_agree(loss, inputs.tensors)


@pytest.mark.parametrize("method", METHODS)
def test_decreasing_time(method: str, inputs: Inputs) -> None:
    t = torch.tensor([1.2, 0.9, 0.31, -0.4], dtype=F64, requires_grad=True)

    def loss(gradient: str) -> Tensor:
        kw = settings(method, dense=True)
        sol = torchivp.solve(inputs.net, inputs.y0, t, inputs.args, gradient=gradient, **kw)
        return weighted(sol.y, sol(torch.tensor([0.0, 1.1], dtype=F64)))

    assert_agree(loss, [inputs.y0, t, *inputs.args.values(), *inputs.net.parameters()])


@pytest.mark.parametrize("method", KINDS)
def test_events(method: str) -> None:
    """Times and states of events, and parameters of the event functions: one that is passed, one that ends the solve."""
    y0 = torch.tensor([1.0, 0.2], dtype=F64, requires_grad=True)
    w = torch.tensor(1.4, dtype=F64, requires_grad=True)
    level, line = (torch.tensor(x, dtype=F64, requires_grad=True) for x in (0.35, -0.6))
    t = torch.tensor([0.1, 0.4, 4.0], dtype=F64, requires_grad=True)

    def f(t: Tensor, y: Tensor, w: Tensor) -> Tensor:
        return torch.stack([y[1], -w * y[0] * (1 + 0.3 * torch.sin(t))])

    passed = torchivp.Event(lambda t, y, w: y[0] - level * (1 + 0.1 * t))
    terminal = torchivp.Event(lambda t, y, w: y[0] - line, terminal=True)

    def loss(gradient: str) -> Tensor:
        sol = torchivp.solve(f, y0, t, w, gradient=gradient, events=[passed, terminal], **settings(method))
        assert sol.status is torchivp.Status.EVENT
        assert [len(x) for x in sol.t_events] == [1, 1]
        return weighted(sol.y, sol.t, *sol.t_events, *sol.y_events)

    assert_agree(loss, [y0, w, t, level, line])


@pytest.mark.parametrize("method", KINDS)
def test_pytrees(method: str) -> None:
    """A dict of tensors of several shapes, one of them without a gradient."""
    a = torch.randn(2, 3, dtype=F64, requires_grad=True)
    b = torch.tensor(0.3, dtype=F64, requires_grad=True)
    w = torch.randn(3, 3, dtype=F64, requires_grad=True)
    t = torch.linspace(0, 1.1, 4, dtype=F64).requires_grad_()

    def f(t: Tensor, y: dict[str, Any], args: tuple[Tensor, str]) -> dict[str, Any]:
        w, _ = args
        scale = torch.cos(t) * y["rest"][0]
        return {"a": torch.tanh(y["a"] @ w) * scale, "rest": [y["a"].mean() - y["rest"][0], y["rest"][1] * 0 + scale]}

    def loss(gradient: str) -> Tensor:
        y0 = {"a": a, "rest": [b, torch.zeros(1, dtype=F64)]}
        sol = torchivp.solve(f, y0, t, (w, "a string"), gradient=gradient, **settings(method))
        return weighted(sol.y["a"], *sol.y["rest"])

    assert_agree(loss, [a, b, w, t])


@pytest.mark.parametrize("method", KINDS)
def test_complex_states(method: str) -> None:
    y0 = torch.tensor([1 + 0.5j, -0.3j], requires_grad=True, dtype=torch.complex128)
    w = torch.tensor([0.3 + 2j, -0.5 - 1j], requires_grad=True, dtype=torch.complex128)
    t = torch.tensor([0.0, 0.5, 1.3], dtype=F64, requires_grad=True)

    def loss(gradient: str) -> Tensor:
        sol = torchivp.solve(
            lambda t, y, w: w * y - y * y.abs() * torch.sin(3 * t),
            y0,
            t,
            w,
            gradient=gradient,
            dense=True,
            **settings(method),
        )
        return weighted(sol.y, sol(0.77))

    assert_agree(loss, [y0, w, t])


@pytest.mark.parametrize("method", [m for m in KINDS if "adams" not in m])
def test_resumed(method: str, inputs: Inputs) -> None:
    """Two solves, the second from where the first stopped, as one differentiable function."""

    def loss(gradient: str) -> Tensor:
        kw = {"gradient": gradient, **settings(method)}
        first = torchivp.solve(inputs.net, inputs.y0, inputs.t[:3], inputs.args, **kw)
        kw.pop("dt", None)
        second = torchivp.solve(inputs.net, None, 1.6, inputs.args, start=first, **kw)
        return weighted(first.y, second.y)

    assert_agree(loss, [inputs.y0, inputs.t, *inputs.args.values(), *inputs.net.parameters()])


@pytest.mark.parametrize("method", ["explicit_adams", "implicit_adams"])
def test_resumed_multistep(method: str, inputs: Inputs) -> None:
    """The past of a multistep method belongs to the first solve: an error, not a part of the gradient."""

    def loss(gradient: str) -> Tensor:
        kw = {"gradient": gradient, **settings(method)}
        first = torchivp.solve(inputs.net, inputs.y0, inputs.t[:4], inputs.args, **kw)
        second = torchivp.solve(inputs.net, None, 1.6, inputs.args, start=first, **kw)
        return weighted(first.y, second.y)

    with pytest.raises(torchivp.GradientError, match="direct"):
        loss("discrete")
    assert loss("direct").requires_grad


def test_outputs_without_a_cotangent(inputs: Inputs) -> None:
    """A loss of one output among many; of the start alone; of the dense output alone."""
    picks: dict[str, Callable[[torchivp.Solution], Tensor]] = {
        "one": lambda sol: sol.y[2, 1],
        "end": lambda sol: sol.y[-1].sum(),
        "dense": lambda sol: sol(0.9).sum(),
    }
    for pick in picks.values():

        def loss(gradient: str, pick: Callable = pick) -> Tensor:
            sol = torchivp.solve(
                inputs.net,
                inputs.y0,
                inputs.t.detach(),
                inputs.args,
                gradient=gradient,
                dense=True,
                **settings("tsit5"),
            )
            return pick(sol)

        assert_agree(loss, [inputs.y0, *inputs.args.values(), *inputs.net.parameters()])
    sol = torchivp.solve(inputs.net, inputs.y0, inputs.t, inputs.args, **settings("tsit5"))
    at_start = gradients(sol.y[0].sum(), inputs.tensors)
    assert torch.equal(at_start[0], torch.ones_like(inputs.y0))
    assert not any(bool(g.any()) for g in at_start[1:])


def test_rejected_steps_leave_no_nan() -> None:
    """f is nan beyond y = 2, and its derivative infinite at the boundary: the first steps go there and are rejected."""
    y0 = torch.tensor([1.0], dtype=F64, requires_grad=True)
    w = torch.tensor(1.0, dtype=F64, requires_grad=True)

    def f(t: Tensor, y: Tensor, w: Tensor) -> Tensor:
        return w * torch.sqrt(2 - y)

    def make(times: tuple[float, float]) -> Loss:
        def loss(gradient: str) -> Tensor:
            sol = torchivp.solve(f, y0, times, w, gradient=gradient, rtol=1e-6, atol=1e-6, dt=20.0)
            assert sol.stats.rejected > 0
            return sol.y[-1].sum()

        return loss

    assert_agree(make((0.0, 1.5)), [y0, w])
    exact = 2 - (1 - 0.75) ** 2  # y = 2 - (1 - t / 2)^2
    assert float(make((0.0, 1.5))("discrete").detach()) == pytest.approx(exact, abs=1e-5)


def test_values_are_those_without_gradient(inputs: Inputs) -> None:
    """No gradient keyword, and not needing a gradient either, changes a value."""
    solve = lambda **kw: torchivp.solve(inputs.net, inputs.y0, inputs.t, inputs.args, **settings("tsit5"), **kw)
    with torch.no_grad():
        plain = solve()
    assert not plain.y.requires_grad
    for gradient in ("direct", "discrete", "adjoint"):
        assert torch.equal(solve(gradient=gradient).y, plain.y)
