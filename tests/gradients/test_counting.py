"""What a gradient costs: evaluations, vector-Jacobian products, memory of the graph."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import torchivp
from gradients.comparison import gradients
from iterating import ITERATING
from torchivp.methods import METHODS

F64 = torch.float64


def settings(method: str) -> dict[str, Any]:
    return {"method": method, **({"rtol": 1e-4, "atol": 1e-4} if METHODS[method]().adaptive else {"dt": 0.23})}


class Counted(nn.Module):
    """Counts its own evaluations."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 2)).double()
        self.calls = 0

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        self.calls += 1
        return self.net(y) * torch.cos(t)


@pytest.mark.parametrize("gradient", ["direct", "discrete", "adjoint"])
@pytest.mark.parametrize("method", METHODS)
def test_evaluations_are_counted_apart(method: str, gradient: str) -> None:
    """``nfe``: the forward ones, the probe of what f closes over among them; ``replayed``: those of the backward pass."""
    if method in ITERATING and gradient == "direct":
        return  # a recorded step evaluates f at its roots once more
    if gradient == "adjoint" and METHODS[method]().carries != "slopes":
        return  # refused: see test_adjoint
    f, y0 = Counted(), torch.tensor([0.3, -0.8], dtype=F64, requires_grad=True)
    times = torch.tensor([0.0, 0.4, 1.0], dtype=F64, requires_grad=True)
    with torch.no_grad():
        plain = torchivp.solve(f, y0, times, **settings(method)).stats
    assert plain.nfe == f.calls
    f.calls = 0
    sol = torchivp.solve(f, y0, times, gradient=gradient, **settings(method))
    assert sol.stats.nfe == f.calls == plain.nfe
    assert sol.stats.replayed == 0
    sol.y.sum().backward()
    assert sol.stats.nfe == plain.nfe
    assert sol.stats.replayed == f.calls - plain.nfe
    assert (sol.stats.replayed == 0) == (gradient == "direct")
    assert sol.stats.attempted == plain.attempted


@pytest.mark.parametrize("method", [m for m in METHODS if METHODS[m]().adaptive and m not in ITERATING])
def test_the_replay_takes_accepted_steps_only(method: str) -> None:
    """As many evaluations as the accepted steps need when they are taken as a grid: none for rejected ones, no probe."""
    w = torch.tensor(7.0, dtype=F64, requires_grad=True)
    y0, kw = torch.ones(1, dtype=F64), {"method": method, "save": "steps"}

    def f(t: Tensor, y: Tensor) -> Tensor:
        return torch.sin(w * t) * y

    sol = torchivp.solve(f, y0, (0.0, 2.0), rtol=1e-4, atol=1e-4, dt=2.0, **kw)
    assert sol.stats.rejected > 0
    sol.y.sum().backward()
    grid = torchivp.FixedSteps(times=sol.t.tolist())
    with torch.no_grad():
        again = torchivp.solve(f, y0, (0.0, 2.0), controller=grid, **kw)
    assert torch.equal(again.y, sol.y)
    looks = 3 if METHODS[method].uses_jacobian else 0  # at how f depends on the time: once a solve, not in a replay
    assert again.stats.nfe - looks <= sol.stats.replayed <= again.stats.nfe


class Operations(TorchDispatchMode):
    """Counts the operations that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("gradient", ["discrete", "adjoint"])
def test_frozen_parameters_cost_no_vjp(gradient: str) -> None:
    """A vjp of a Linear layer's weight is a matrix product of its own; frozen, it is not computed."""

    def products(frozen: bool) -> int:
        torch.manual_seed(0)
        f, y0 = Counted(), torch.randn(7, 2, dtype=F64, requires_grad=True)
        f.requires_grad_(not frozen)
        sol = torchivp.solve(f, y0, (0.0, 1.0), gradient=gradient, rtol=1e-4, atol=1e-4)
        with Operations() as backward:
            sol.y[-1].sum().backward()
        assert f.net[0].weight.grad is None if frozen else f.net[0].weight.grad.any()
        products.replayed = sol.stats.replayed
        return backward.names["mm"] + backward.names["addmm"]

    frozen, per = products(frozen=True), products.replayed
    trained, per_trained = products(frozen=False), products.replayed
    # Two layers: f itself and the vjp of y need two products each; the weights' vjps two more.
    assert trained / per_trained - frozen / per > 1.5


def test_a_single_frozen_layer() -> None:
    """Gradients of the others only, the same as with all."""
    f, y0 = Counted(), torch.tensor([0.3, -0.8], dtype=F64)
    every = gradients(torchivp.solve(f, y0, (0.0, 1.0)).y.sum(), list(f.parameters()))
    f.net[0].requires_grad_(False)
    rest = [p for p in f.parameters() if p.requires_grad]
    some = gradients(torchivp.solve(f, y0, (0.0, 1.0)).y.sum(), rest)
    assert len(rest) == 2
    for a, b in zip(every[2:], some):
        assert torch.allclose(a, b, rtol=1e-12)


def test_the_forward_pass_builds_no_graph() -> None:
    """``discrete``: f runs without autograd but for the one evaluation that shows what it uses."""
    modes: list[bool] = []

    def f(t: Tensor, y: Tensor) -> Tensor:
        modes.append(torch.is_grad_enabled())
        return -y

    y0 = torch.ones(2, dtype=F64, requires_grad=True)
    sol = torchivp.solve(f, y0, (0.0, 1.0))
    assert sum(modes) == 1
    assert len(modes) == sol.stats.nfe > 10


@pytest.mark.parametrize("gradient", ["discrete", "adjoint"])
def test_memory_does_not_grow_with_the_evaluations(gradient: str) -> None:
    """Autograd keeps one node for the whole solve, however many steps it took."""
    f, y0 = Counted(), torch.tensor([0.3, -0.8], dtype=F64, requires_grad=True)
    sizes = []
    for t1 in (1.0, 30.0):
        sol = torchivp.solve(f, y0, (0.0, t1), gradient=gradient)
        seen, todo = set(), [sol.y.grad_fn]
        while todo:
            node = todo.pop()
            if node is not None and node not in seen:
                seen.add(node)
                todo.extend(n for n, _ in node.next_functions)
        sizes.append(len(seen))
    assert sol.stats.accepted > 20
    assert sizes[0] == sizes[1] < 20
