"""The same numbers on a GPU. Skipped where there is none."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import torchivp
from torchivp.methods import METHODS
from torchivp.nn import ODEBlock

pytestmark = pytest.mark.cuda


def pendulum(t: Tensor, y: Tensor) -> Tensor:
    return torch.stack([y[..., 1], -torch.sin(y[..., 0]) + 0.1 * torch.cos(t)], dim=-1)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_equal_the_cpu(name: str, dtype: torch.dtype) -> None:
    dt = None if METHODS[name]().adaptive else 0.05
    y0 = torch.tensor([[1.0, 0.0], [2.0, 0.5]], dtype=dtype)
    t = torch.linspace(0, 2, 7)
    there, here = (
        torchivp.solve(pendulum, y0.to(device), t.to(device), method=name, dt=dt, rtol=1e-4, atol=1e-6)
        for device in ("cuda", "cpu")
    )
    assert there.y.device.type == "cuda"
    assert there.y.dtype == dtype
    torch.testing.assert_close(there.y.cpu(), here.y, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("gradient", ["direct", "discrete", "adjoint"])
def test_gradients_equal_the_cpu(gradient: str) -> None:
    func = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 4)).double()
    x = torch.randn(8, 4, dtype=torch.float64)
    found = []
    for device in ("cpu", "cuda"):
        block = ODEBlock(copy.deepcopy(func), rtol=1e-8, atol=1e-8, gradient=gradient).to(device)
        block(x.to(device)).square().sum().backward()
        found.append([p.grad.cpu() for p in block.parameters()])
    for here, there in zip(*found):
        torch.testing.assert_close(there, here, rtol=1e-6, atol=1e-8)


def test_times_that_require_grad_may_live_on_either_device() -> None:
    y0 = torch.tensor([1.0, 0.0], dtype=torch.float64, device="cuda")
    for device in ("cpu", "cuda"):
        t = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64, device=device, requires_grad=True)
        torchivp.solve(pendulum, y0, t).y.sum().backward()
        assert t.grad is not None
        assert t.grad.device.type == device
        assert bool(torch.isfinite(t.grad).all())


def test_events_and_dense_output() -> None:
    y0 = torch.tensor([1.0, 0.0], dtype=torch.float64, device="cuda")
    event = torchivp.Event(lambda t, y: y[0], terminal=True)
    sol = torchivp.solve(pendulum, y0, (0.0, 5.0), events=event, dense=True)
    assert sol.t_events is not None
    assert float(sol(sol.t_events[0])[0, 0].abs()) < 1e-10


def test_fixed_steps_never_wait_for_the_device() -> None:
    """CUDA's own count: any synchronisation inside raises."""
    y0 = torch.tensor([1.0, 0.0], device="cuda")
    few, many = (_synchronisations(y0, dt) for dt in (0.1, 0.01))
    assert few == many


def _synchronisations(y0: Tensor, dt: float) -> int:
    import warnings

    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught, torch.no_grad():
            warnings.simplefilter("always")
            torchivp.solve(pendulum, y0, (0.0, 1.0), method="rk4", dt=dt)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(w.message) for w in caught)
