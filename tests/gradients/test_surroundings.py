"""What may stand around a solve, or inside ``f``: checkpoints, saved-tensor hooks, gradients within f, other kinds of AD."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

import torchivp
from gradients.comparison import assert_agree, gradients, weighted
from torchivp.gradients import Discrete

F64 = torch.float64
Slope = Callable[[Tensor, Tensor], Tensor]


def solve(f: Callable, y0: Tensor | None = None, gradient: str = "discrete", **kw: Any) -> torchivp.Solution:
    y0 = torch.tensor([0.6, -0.4], dtype=F64) if y0 is None else y0
    return torchivp.solve(f, y0, (0.0, 1.0), gradient=gradient, **{"rtol": 1e-5, "atol": 1e-7, **kw})


@pytest.fixture
def w() -> Tensor:
    return torch.tensor([[0.7, -1.3], [0.9, 0.2]], dtype=F64, requires_grad=True)


def plain(w: Tensor) -> Slope:
    return lambda t, y: torch.tanh(w @ y) * torch.cos(t)


def hamiltonian(w: Tensor) -> Slope:
    """A gradient within f: autograd is switched on for it, even in a forward pass without autograd."""

    def f(t: Tensor, y: Tensor) -> Tensor:
        with torch.enable_grad():
            z = y if y.requires_grad else y.detach().requires_grad_()
            energy = torch.cos(w @ z).sum() * torch.exp(-t)
            (slope,) = torch.autograd.grad(energy, z, create_graph=True)
        return torch.stack([slope[1], -slope[0]])

    return f


def written_into_a_new_tensor(w: Tensor) -> Slope:
    def f(t: Tensor, y: Tensor) -> Tensor:
        slope = torch.empty_like(y)
        slope[0] = w[0, 0] * y[1]
        slope[1] = -w[1].sum() * y[0]
        return slope

    return f


def checkpointed(w: Tensor) -> Slope:
    return lambda t, y: checkpoint(lambda y: torch.tanh(w @ y), y, use_reentrant=False)


def constant_slope(w: Tensor) -> Slope:
    return lambda t, y: w[0]


@pytest.mark.parametrize("make", [hamiltonian, written_into_a_new_tensor, checkpointed, constant_slope])
def test_slopes_made_in_unusual_ways(make: Callable[[Tensor], Slope], w: Tensor) -> None:
    y0 = torch.tensor([0.6, -0.4], dtype=F64, requires_grad=True)
    assert_agree(lambda gradient: weighted(solve(make(w), y0, gradient).y), [w, y0])


@pytest.mark.parametrize("gradient", ["direct", "discrete", "adjoint"])
def test_checkpoint_around_the_solve(gradient: str, w: Tensor) -> None:
    """And tensors saved for the backward pass elsewhere: they come back as other objects."""
    y0 = torch.tensor([0.6, -0.4], dtype=F64, requires_grad=True)
    f = plain(w)
    expected = gradients(weighted(solve(f, y0, gradient).y), [w, y0])
    y = checkpoint(lambda y0: solve(f, y0, gradient).y, y0, use_reentrant=False)
    found = [gradients(weighted(y), [w, y0])]
    with torch.autograd.graph.save_on_cpu():
        y = solve(f, y0, gradient).y
    found.append(gradients(weighted(y), [w, y0]))
    for grads in found:
        for a, b in zip(expected, grads):
            assert torch.allclose(a, b, rtol=1e-12)


@pytest.mark.parametrize("gradient", ["direct", "discrete", "adjoint"])
def test_twice_through_the_same_solve(gradient: str, w: Tensor) -> None:
    loss = weighted(solve(plain(w), gradient=gradient).y)
    (first,) = torch.autograd.grad(loss, w, retain_graph=True)
    (second,) = torch.autograd.grad(loss, w)
    assert torch.equal(first, second)


@pytest.mark.parametrize("method", ["tsit5", "rk4"])
def test_what_a_failed_solve_saved(method: str, w: Tensor) -> None:
    """It is differentiable like any other output."""
    times = torch.linspace(0, 3, 7, dtype=F64)
    y0 = torch.tensor([1.0, 0.5], dtype=F64, requires_grad=True)

    def loss(gradient: str) -> Tensor:
        sol = torchivp.solve(
            lambda t, y: (w[1, 0] + w[1, 1]) * y * y, y0, times, method=method, gradient=gradient, throw=False
        )
        assert not sol.success
        assert 2 <= len(sol.t) < 7
        return weighted(1 / sol.y)

    assert_agree(loss, [w, y0])


@pytest.mark.parametrize("gradient", ["direct", "discrete", "adjoint"])
def test_forward_mode(gradient: str, w: Tensor) -> None:
    """Goes through the loop, whatever the gradient is called."""
    direction = torch.ones_like(w)
    step = 1e-5
    with torch.no_grad():
        up, down = (solve(plain(w.detach() + s * direction)).y[-1] for s in (step, -step))
    expected = (up - down) / (2 * step)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(w.detach(), direction)
        tangent = forward_ad.unpack_dual(solve(plain(dual), gradient=gradient).y[-1]).tangent
    assert torch.allclose(tangent, expected, rtol=1e-4)


@pytest.mark.parametrize("method", ["rk4", "tsit5", "dopri8", "explicit_adams"])
def test_an_f_that_draws_random_numbers(method: str) -> None:
    """Dropout: the replay draws the numbers of the forward pass again, and leaves the generator where it was."""
    f = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 2)).double()
    found = {}
    for gradient in ("direct", "discrete", Discrete(every="sqrt"), Discrete(checkpoints=2)):
        torch.manual_seed(5)
        y = solve(lambda t, y: f(y), gradient=gradient, method=method, controller=torchivp.FixedSteps(dt=0.1)).y
        state = torch.get_rng_state()
        found[str(gradient)] = gradients(weighted(y), list(f.parameters()))
        assert torch.equal(torch.get_rng_state(), state)
    expected = found.pop("direct")
    for got in found.values():
        assert all(torch.allclose(a, b, rtol=1e-12, atol=1e-14) for a, b in zip(got, expected))


@pytest.mark.parametrize("when", [0.3, 0.8])
def test_numbers_that_cannot_be_drawn_again(when: float) -> None:
    """From a generator of the user's own: the replay sees that its steps end elsewhere, in whichever step it was."""
    w = torch.tensor(0.7, dtype=F64, requires_grad=True)
    own = torch.Generator().manual_seed(0)

    def f(t: Tensor, y: Tensor) -> Tensor:
        noise = torch.rand((), generator=own, dtype=F64) if when < t < when + 0.2 else 0.0
        return -w * y * (1 + noise)

    y = solve(f, method="rk4", dt=0.1).y
    with pytest.raises(torchivp.GradientError, match="direct"):
        y.sum().backward()


@pytest.mark.parametrize("gradient", ["direct", "discrete", "adjoint", "interpolated", "gauss", "forward"])
def test_running_statistics_move_as_in_one_forward_pass(gradient: str) -> None:
    torch.manual_seed(2)
    f = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 3)).double()
    y0 = torch.linspace(-1, 1, 15, dtype=F64).view(5, 3)
    with torch.no_grad():
        twin = copy.deepcopy(f)
        torchivp.solve(lambda t, y: twin(y), y0, (0.0, 0.2), method="rk4", dt=0.05)
    norm, expected = f[1], twin[1]
    y = torchivp.solve(lambda t, y: f(y), y0, (0.0, 0.2), method="rk4", dt=0.05, gradient=gradient).y
    y.sum().backward()
    extra = int(norm.num_batches_tracked - expected.num_batches_tracked)
    assert extra == (1 if gradient in ("interpolated", "gauss") else 0)  # the slope at the very end, for the polynomial
    if not extra:
        assert torch.equal(norm.running_mean, expected.running_mean)
        assert torch.equal(norm.running_var, expected.running_var)
    assert f[0].weight.grad is not None


def test_readout_and_levels_have_parameters_of_their_own() -> None:
    """What is saved through a function, and where an event is, depend on tensors that f has never seen."""
    read = torch.tensor([[0.3, 2.0]], dtype=F64, requires_grad=True)
    level = torch.tensor(0.5, dtype=F64, requires_grad=True)

    def loss(gradient: str) -> Tensor:
        y0 = torch.tensor([1.0, -0.4], dtype=F64)
        kw: dict[str, Any] = {
            "save": lambda t, y: torch.sin(read @ y) * t,
            "events": torchivp.Event(lambda t, y: y[0] - level),
        }
        sol = torchivp.solve(lambda t, y: -y, y0, (0.0, 0.3, 1.0), gradient=gradient, **kw)
        return weighted(sol.y, sol.t_events[0], sol.y_events[0])

    assert_agree(loss, [read, level])
