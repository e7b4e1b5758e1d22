"""How often a solve waits for the device: once per attempted adaptive step, never in a fixed one.

On a GPU every value that Python looks at stops the queue of kernels. Counted are all ways to look that torch offers, on the
CPU, where they cost nothing but are the same calls. And how many calls of torch a step makes: what a small system costs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import torchivp
from iterating import ITERATING
from torchivp.methods import METHODS
from torchivp.per_sample.stiffness import WatchedRows

# Those that iterate look once in each iteration.
ADAPTIVE = sorted(name for name, method in METHODS.items() if method().adaptive and name not in ITERATING)
FIXED = sorted(name for name, method in METHODS.items() if not method().adaptive and name not in ITERATING)
AROUND = 11  # before and after the loop: times, finite y0, first step, finite result, whether f drew random numbers

_LOOKS = {
    torch.ops.aten._local_scalar_dense,  # item, float, int, bool, if
    torch.ops.aten.equal,
    torch.ops.aten.nonzero,
    torch.ops.aten.masked_select,
    torch.ops.aten.repeat_interleave,
    torch.ops.aten._unique2,
    torch.ops.aten.unique_dim,
}


class _Counter(TorchDispatchMode):
    """``count``: looks at values; ``calls``: all calls of torch."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += 1
        self.count += func.overloadpacket in _LOOKS or _picks_by_mask(func, args)
        return func(*args, **(kwargs or {}))


def _picks_by_mask(func: Any, args: Any) -> bool:
    """``x[mask]`` has to know how many entries are true."""
    packets = (torch.ops.aten.index, torch.ops.aten.index_put, torch.ops.aten.index_put_)
    return func.overloadpacket in packets and any(x is not None and x.dtype == torch.bool for x in args[1])


@contextmanager
def looks(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Counter]:
    """Counts how often Python looks at the values of a tensor; copies to the host do not pass the dispatcher on a CPU."""
    counter = _Counter()

    def counted(original: Callable[..., Any]) -> Callable[..., Any]:
        def look(*args: Any, **kwargs: Any) -> Any:
            counter.count += 1
            return original(*args, **kwargs)

        return look

    with monkeypatch.context() as patch, counter:
        for name in ("tolist", "numpy", "cpu"):
            patch.setattr(Tensor, name, counted(getattr(Tensor, name)))
        yield counter


def swing(t: Tensor, y: Tensor) -> Tensor:
    return torch.stack([y[1], -y[0] * (2 + torch.cos(t))])


Y0 = torch.tensor([1.0, 0.0], dtype=torch.float64)


def test_the_counter_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.tensor([1.0, 2.0])
    with looks(monkeypatch) as counter:
        _ = float(x[0]), x[0].item(), x.tolist(), x.cpu(), x.numpy(), bool(x[0] > 0), x[x > 1], torch.equal(x, x)
        if x[0] > 0:
            counter.count += 0
    assert counter.count == 9
    with looks(monkeypatch) as counter:
        _ = x[0] + 1.0 * x.sum(), torch.where(x > 1, x, 0.0), x.index_select(0, torch.tensor([1]))
    assert counter.count == 0


@pytest.mark.parametrize("method", ADAPTIVE)
@pytest.mark.parametrize("outputs", ["end", "many", "dense", "steps"])
def test_one_per_attempted_step(method: str, outputs: str, monkeypatch: pytest.MonkeyPatch) -> None:
    t = torch.linspace(0, 4, 200) if outputs == "many" else (0.0, 4.0)
    options = {"save": outputs} if outputs in ("end", "steps") else {"dense": outputs == "dense"}
    around = []
    for tol in (1e-2, 1e-2, 1e-5):  # twice: the first solve of all prepares the coefficients
        with looks(monkeypatch) as counter:
            sol = torchivp.solve(swing, Y0, t, method=method, rtol=tol, atol=tol, **options)
        around.append(counter.count - sol.stats.attempted)
    assert around[1] == around[2] <= AROUND


def test_none_for_watching_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is seen of stiffness travels with what the loop reads anyway."""
    f = lambda t, y: torch.stack([y[:, 1], -y[:, 0]], 1)
    looked: list[int] = []
    look = WatchedRows.look
    monkeypatch.setattr(WatchedRows, "look", lambda self, *step: looked.append(1) or look(self, *step))
    counts = []
    for watched in (False, True):
        with looks(monkeypatch) as counter, monkeypatch.context() as patch:
            if not watched:
                patch.setattr(WatchedRows, "of", lambda problem, plan: None)
            sol = torchivp.solve(f, torch.eye(2, dtype=torch.float64), (0.0, 90.0), rtol=1e-6, atol=1e-8, batch_dims=1)
        counts.append(counter.count)
    assert int(sol.stats.attempted.max()) > 300
    assert len(looked) > 20
    assert counts[0] == counts[1]


@pytest.mark.parametrize("method", FIXED)
@pytest.mark.parametrize("outputs", ["t", "end", "steps", "dense"])
def test_none_in_a_fixed_step(method: str, outputs: str, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"dense": True} if outputs == "dense" else {"save": outputs}
    counts = []
    for steps in (10, 10, 40):
        with looks(monkeypatch) as counter:
            sol = torchivp.solve(swing, Y0, torch.linspace(0, 4, 7), method=method, dt=4 / steps, **options)
        assert sol.stats.attempted >= steps
        counts.append(counter.count)
    assert counts[1] == counts[2] <= AROUND


def test_an_adaptive_method_with_fixed_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    with looks(monkeypatch) as counter:
        torchivp.solve(swing, Y0, (0.0, 4.0), controller=torchivp.FixedSteps(dt=0.05))
    assert counter.count <= AROUND


@pytest.mark.parametrize("times_too", [False, True])
@pytest.mark.parametrize("gradient", ["direct", "discrete"])
def test_backward_does_not_wait_for_steps(gradient: str, times_too: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The steps taken again are known: nothing is looked at but, once, the times and where the last step ends again."""
    net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2)).double()
    t = torch.linspace(0, 4, 30, dtype=torch.float64, requires_grad=times_too)
    with looks(monkeypatch) as counter:
        sol = torchivp.solve(lambda t, y: net(y), Y0, t, gradient=gradient)
        forward = counter.count
        sol.y.square().sum().backward()
    assert forward <= sol.stats.attempted + AROUND
    assert counter.count <= forward + times_too + (gradient == "discrete")


@pytest.mark.parametrize("gradient", ["adjoint", "gauss"])
def test_backward_solves_keep_the_rule(gradient: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One look more at every step of ``adjoint``, whatever the number of parameters: which slopes its integral is made of."""
    net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2)).double()
    sol = torchivp.solve(lambda t, y: net(y), Y0, torch.linspace(0, 4, 30), gradient=gradient)
    with looks(monkeypatch) as counter:
        sol.y.square().sum().backward()
    looks_per_step = 2 if gradient == "adjoint" else 1
    assert counter.count <= looks_per_step * sol.stats.backward_attempted + AROUND


@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_the_drop_in_keeps_the_rule(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    def counted(t: Tensor, y: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return swing(t, y)

    with looks(monkeypatch) as counter:
        torchivp.odeint(counted, Y0, torch.linspace(0, 4, 50), method=method, rtol=1e-6, atol=1e-6)
    assert counter.count <= (calls / 6 if method == "dopri5" else 0) + AROUND


class Spiral:
    """The cubic spiral, two calls of torch, counted."""

    def __init__(self) -> None:
        self.matrix = torch.tensor([[-0.1, 2.0], [-2.0, -0.1]], dtype=torch.float64)
        self.evaluations = 0

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        self.evaluations += 1
        return y**3 @ self.matrix


@pytest.mark.parametrize("drop_in", [False, True])
def test_few_calls_per_step(drop_in: bool) -> None:
    """A dopri5 step with many outputs, besides f: torchdiffeq makes 250 calls, twenty of them looks at values."""
    solve = torchivp.odeint if drop_in else torchivp.solve
    calls, steps = [], []
    for end in (5.0, 25.0):
        f = Spiral()
        with torch.no_grad(), _Counter() as counter:
            solve(f, Y0[None], torch.linspace(0, end, 500), method="dopri5", rtol=1e-6, atol=1e-8)
        calls.append(counter.calls - 2 * f.evaluations)
        steps.append(f.evaluations / 6)
    assert (calls[1] - calls[0]) / (steps[1] - steps[0]) <= 52
