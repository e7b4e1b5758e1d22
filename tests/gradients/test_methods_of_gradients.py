"""Every way to differentiate against ``direct``, and what each promises of its own."""

from __future__ import annotations

import gc
import math
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import torchivp
from gradients.comparison import gradients, weighted
from torchivp import gradients as ways
from torchivp.gradients import checkpoints
from torchivp.methods import METHODS, Tsit5
from torchivp.randomness import Draws
from torchivp.span import OneSpan
from torchivp.trajectory import Start, TapeEntry

F64 = torch.float64
EXACT = {
    "discrete": ways.Discrete(),
    "every third": ways.Discrete(every=3),
    "sqrt": ways.Discrete(every="sqrt"),
    "one checkpoint": ways.Discrete(checkpoints=1),
    "three checkpoints": ways.Discrete(checkpoints=3),
    "eight checkpoints": ways.Discrete(checkpoints=8),
    "forward": ways.Forward(),
}
CONTINUOUS = {
    "adjoint": ways.Adjoint(),
    "adjoint, all in the norm": ways.Adjoint(norm="full"),
    "adjoint by another method": ways.Adjoint(method="dopri8", rtol=1e-9, atol=1e-11),
    "interpolated": ways.Interpolated(),
    "interpolated, states kept": ways.Interpolated(every="sqrt"),
    "interpolated, few states kept": ways.Interpolated(checkpoints=2),
    "gauss": ways.Gauss(),
    "gauss, states kept": ways.Gauss(every=4),
}
REPRESENTATIVE = ["tsit5", "dopri8", "bosh3", "rk4", "euler", "explicit_adams", "implicit_adams"]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 2)).double()

    def forward(self, t: Tensor, y: Tensor, w: Tensor) -> Tensor:
        return self.net(y) * torch.sin(w * t) - y / 2


def both(method: str, way: ways.Gradient, times: list[float], **kw: Any) -> tuple[Tensor, Tensor, torchivp.Solution]:
    """The gradient of y0, times, args and parameters by ``direct`` and by another way; the values are the same."""
    torch.manual_seed(3)
    f = Net()
    y0 = torch.tensor([0.6, -0.9], dtype=F64, requires_grad=True)
    t = torch.tensor(times, dtype=F64, requires_grad=True)
    w = torch.tensor(2.0, dtype=F64, requires_grad=True)
    found, values = [], []
    for gradient in (ways.Direct(), way):
        sol = torchivp.solve(f, y0, t, w, gradient=gradient, method=method, **kw)
        values.append(sol.y.detach())
        found.append(torch.cat([g.reshape(-1) for g in gradients(weighted(sol.y), [y0, t, w, *f.parameters()])]))
    assert torch.equal(*values)
    return found[0], found[1], sol


def distance(a: Tensor, b: Tensor) -> float:
    return float(torch.linalg.vector_norm(a - b) / torch.linalg.vector_norm(a))


FORTH, BACK = [0.0, 0.31, 1.1, 1.5], [1.5, 1.1, 0.31, 0.0]


@pytest.mark.parametrize("times", [FORTH, BACK], ids=["increasing", "decreasing"])
@pytest.mark.parametrize("way", EXACT)
@pytest.mark.parametrize("method", REPRESENTATIVE)
def test_exact_ones(method: str, way: str, times: list[float]) -> None:
    size = {"rtol": 1e-5, "atol": 1e-7} if METHODS[method]().adaptive else {"dt": 0.083}
    kw: dict[str, Any] = {"jump_times": [0.7]} if way != "forward" else {}
    direct, other, _ = both(method, EXACT[way], times, **size, **kw)
    assert distance(direct, other) <= 1e-12


@pytest.mark.parametrize("times", [FORTH, BACK], ids=["increasing", "decreasing"])
@pytest.mark.parametrize("way", CONTINUOUS)
@pytest.mark.parametrize("method", ["tsit5", "dopri8", "rk4", "implicit_adams"])
def test_continuous_ones_converge(method: str, way: str, times: list[float]) -> None:
    if METHODS[method]().adaptive:
        sizes = [{"rtol": tol, "atol": tol} for tol in (1e-4, 1e-8)]
    else:
        sizes = [{"dt": dt} for dt in (0.1, 0.02)]
    coarse, fine = (distance(*both(method, CONTINUOUS[way], times, **size)[:2]) for size in sizes)
    assert fine < 2e-6
    assert fine < coarse / 5


@pytest.mark.parametrize(("steps", "slots"), [(1, 1), (17, 1), (100, 3), (100, 6), (1000, 10), (1000, 40)])
def test_the_binomial_schedule(steps: int, slots: int) -> None:
    """Every step once, last first, never more starts in memory than allowed, and not many more evaluations than the best
    schedule with as many slots makes (the number of steps is not known while they are placed)."""
    tape = checkpoints.at_most(slots)
    span = OneSpan(0.0, 1.0)
    entry = TapeEntry(span, False, 0, False, Draws(), None, None, Tsit5())
    alive: weakref.WeakSet = weakref.WeakSet()

    def at(i: int) -> Start:
        y = torch.tensor([[float(i)]])
        alive.add(y)
        return Start(y, ())

    for i in range(steps):
        tape.add(entry, at(i), at(i + 1))
    taken = 0

    class Again:
        def onwards(self, entry: TapeEntry, start: Start, following: TapeEntry) -> Start:
            nonlocal taken
            taken += 1
            return at(int(start.y) + 1)

        def undo(self, entry: TapeEntry, end: Start) -> Start:
            raise AssertionError

    seen, most = [], 0
    gc.collect()
    for _, start in tape.rewind(Again()):
        seen.append(int(start.y))
        most = max(most, len(alive))
    assert seen == list(range(steps))[::-1]
    assert most <= slots + 2  # and the one in the works
    repeats = next(r for r in range(steps + 1) if math.comb(slots + r, slots) >= steps)
    best = repeats * steps - math.comb(slots + repeats, slots + 1)
    assert taken <= 2.2 * best + steps


def test_the_square_root_policy() -> None:
    """100 steps of four evaluations: all but the starts kept are taken twice."""
    y0 = torch.tensor([0.3, 0.8], dtype=F64, requires_grad=True)
    for way, replayed in (
        (ways.Discrete(), 400),
        (ways.Discrete(every="sqrt"), 400 + 4 * (100 - 13)),
        (ways.Discrete(every=10), 760),
    ):
        sol = torchivp.solve(
            lambda t, y: -y.flip(0) * torch.cos(t), y0, (0.0, 1.0), method="rk4", dt=0.01, gradient=way
        )
        sol.y[-1].sum().backward()
        assert sol.stats.replayed == replayed


def test_forward_refuses_many_parameters() -> None:
    f = nn.Linear(40, 40)
    with pytest.raises(torchivp.InputError, match=r"1640 sensitivities.*gradient='discrete'"):
        torchivp.solve(lambda t, y: f(y), torch.zeros(40), (0.0, 1.0), gradient="forward")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (lambda: ways.Discrete(every=0), r"every=0.*Give 1, 2"),
        (lambda: ways.Discrete(every="log"), r"every='log'.*'sqrt'"),
        (lambda: ways.Discrete(checkpoints=0), r"checkpoints=0.*Give 1"),
        (lambda: ways.Discrete(every=2, checkpoints=3), r"both say.*Give one"),
        (lambda: ways.Interpolated(checkpoints=-1), r"checkpoints=-1"),
        (lambda: ways.Adjoint(norm="l2"), r"norm='l2'.*'seminorm'"),
    ],
)
def test_settings_that_make_no_sense(settings: Any, words: str) -> None:
    with pytest.raises(torchivp.InputError, match=words):
        settings()


def test_dense_output_needs_an_exact_one() -> None:
    y0 = torch.ones(2, dtype=F64, requires_grad=True)
    for name in ("adjoint", "interpolated", "gauss"):
        with pytest.raises(torchivp.InputError, match=rf"gradient='{name}'.*dense output.*gradient='discrete'"):
            torchivp.solve(lambda t, y: -y, y0, (0.0, 1.0), gradient=name, dense=True)


def test_what_is_unstable_backwards_is_reported() -> None:
    """Lorenz' attractor contracts volumes forwards, so errors explode backwards; along the stored solution they do not."""

    def lorenz(t: Tensor, y: Tensor, rho: Tensor) -> Tensor:
        a, b, c = y
        return torch.stack([10 * (b - a), a * (rho - c) - b, a * b - 8 / 3 * c])

    y0, rho = torch.tensor([1.0, 2.0, 20.0], dtype=F64), torch.tensor(28.0, dtype=F64, requires_grad=True)
    kw: dict[str, Any] = {"rtol": 1e-7, "atol": 1e-7}
    exact = torch.autograd.grad(torchivp.solve(lorenz, y0, (0.0, 5.0), rho, **kw).y[-1].sum(), rho)[0]
    with pytest.raises((torchivp.GradientError, torchivp.SolveError), match="discrete"):
        torchivp.solve(lorenz, y0, (0.0, 5.0), rho, gradient="adjoint", max_steps=600, **kw).y[-1].sum().backward()
    for name in ("interpolated", "gauss"):
        (grad,) = torch.autograd.grad(torchivp.solve(lorenz, y0, (0.0, 5.0), rho, gradient=name, **kw).y[-1].sum(), rho)
        assert abs(float(grad - exact)) < 1e-3 * abs(float(exact))


# ---- steady states


def cubic(t: Tensor, y: Tensor, w: Tensor) -> Tensor:
    """Comes to rest where y = w / (1 + y^2)."""
    return w - y * (1 + y * y)


REST = torchivp.SteadyState()
TIGHT: dict[str, Any] = {"events": REST, "save": "end", "rtol": 1e-9, "atol": 1e-12}


@pytest.mark.parametrize("gradient", ["implicit", "discrete", "direct"])
def test_the_gradient_of_a_steady_state(gradient: str) -> None:
    w = torch.tensor([0.5, 2.0, -1.0], dtype=F64, requires_grad=True)
    y0 = torch.zeros(3, dtype=F64, requires_grad=True)
    sol = torchivp.solve(cubic, y0, (0.0, 1e3), w, gradient=gradient, **TIGHT)
    assert sol.status is torchivp.Status.EVENT
    y = sol.y[-1]
    assert torch.allclose(y * (1 + y * y), w, atol=1e-7)
    at_w, at_y0 = torch.autograd.grad(y.sum(), [w, y0])
    assert torch.allclose(at_w, 1 / (1 + 3 * y.detach() ** 2), rtol=1e-5)
    assert torch.allclose(at_y0, torch.zeros(3, dtype=F64), atol=1e-5)
    if gradient == "implicit":
        assert sol.stats.replayed == 1


def test_a_steady_state_of_a_module_and_at_the_start() -> None:
    """Parameters of a module; and a solve that starts at rest ends at the end of its time, at rest."""
    f = nn.Linear(2, 2).double()
    with torch.no_grad():
        f.weight.copy_(torch.tensor([[-2.0, 0.5], [0.3, -1.0]]))
    rest = torch.linalg.solve(-f.weight, f.bias).detach()
    for y0 in (torch.zeros(2, dtype=F64), rest):
        sol = torchivp.solve(lambda t, y: f(y), y0, (0.0, 200.0), gradient="implicit", **TIGHT)
        (at_bias,) = torch.autograd.grad(sol.y[-1].sum(), f.bias)
        assert torch.allclose(at_bias, -torch.linalg.inv(f.weight).sum(0), rtol=1e-8)


def test_what_implicit_asks_for() -> None:
    w, y0 = torch.ones(1, dtype=F64, requires_grad=True), torch.zeros(1, dtype=F64)
    with pytest.raises(torchivp.InputError, match=r"no event stops.*SteadyState"):
        torchivp.solve(cubic, y0, (0.0, 10.0), w, gradient="implicit")
    with pytest.raises(torchivp.InputError, match=r"save='end'"):
        torchivp.solve(cubic, y0, (0.0, 10.0), w, gradient="implicit", events=REST)
    with pytest.raises(torchivp.GradientError, match=r"without coming to rest.*more time"):
        torchivp.solve(cubic, y0, (0.0, 0.1), w, gradient="implicit", **TIGHT)
    with pytest.raises(torchivp.InputError, match=r"rtol=0.*Give positive"):
        torchivp.SteadyState(0.0, 0.0)

    def conserves(t: Tensor, y: Tensor, w: Tensor) -> Tensor:
        flow = w * y[0] - y[1]
        return torch.stack([-flow, flow])

    sol = torchivp.solve(
        conserves, torch.tensor([1.0, 0.0], dtype=F64), (0.0, 100.0), w[0], gradient="implicit", **TIGHT
    )
    with pytest.raises(torchivp.GradientError, match=r"singular.*conserved"):
        sol.y[-1].sum().backward()


def test_rounding_on_the_way_back_is_no_other_function() -> None:
    """In float32 the start of a long reversible solve comes out a little off; that is no sign of a changed ``f``."""
    a = torch.tensor([[-0.1, 2.0], [-2.0, -0.1]], requires_grad=True)
    t = torch.linspace(0, 25, 101)
    y0, method = torch.tensor([2.0, 0.0]), torchivp.methods.Reversible("tsit5")
    sol = torchivp.solve(lambda t, y, a: y**3 @ a, y0, t, a, method=method, gradient="reversible")
    sol.y.square().mean().backward()
    assert a.grad is not None
    assert bool(a.grad.isfinite().all())
