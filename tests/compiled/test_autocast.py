"""Compiled solves in mixed precision: ``f`` as traced has the casts in it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import torchivp
from compiled.pairs import both

pytestmark = pytest.mark.compiled

BF16 = torch.bfloat16
Y0 = torch.tensor([[0.5, -0.2, 0.9], [0.1, 0.3, -0.7]])
RUNNERS = ("eager", "compiled")


class Net(nn.Module):
    """With ``inside`` it switches autocast on by itself."""

    def __init__(self, inside: bool = False):
        super().__init__()
        torch.manual_seed(1)
        self.net = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 3))
        self.inside = inside

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        if self.inside:
            with torch.autocast("cpu", BF16, cache_enabled=False):
                return self.net(y) + 0 * y
        return self.net(y)


def solved(runner: str, inside: bool = False, outside: bool = False, **settings: Any) -> list[Tensor]:
    f, y0 = Net(inside), Y0.clone().requires_grad_()
    settings = {"method": "bosh3", "dt": 0.1, "controller": torchivp.FixedSteps(0.1), **settings}
    del settings["dt"]
    with torch.autocast(
        "cpu", BF16, enabled=not inside, cache_enabled=False
    ):  # else gradients are summed up in bfloat16
        sol = torchivp.solve(f, y0, (0.0, 0.4, 1.0), runner=runner, **settings)
        loss = (sol.y * torch.linspace(0.5, 1.5, sol.y.numel()).view_as(sol.y)).sum()
        if outside:
            with torch.autocast("cpu", enabled=False):
                grads = torch.autograd.grad(loss, [y0, *f.parameters()])
        else:
            grads = torch.autograd.grad(loss, [y0, *f.parameters()])
    return [sol.y.detach(), *grads]


@pytest.mark.parametrize("settings", [{}, {"batch_dims": 1}, {"gradient": "adjoint"}], ids=["one", "rows", "adjoint"])
@pytest.mark.parametrize("inside", [False, True], ids=["around", "inside f"])
@pytest.mark.usefixtures("python_loops")
def test_the_same_numbers(inside: bool, settings: dict[str, Any]) -> None:
    eager, compiled = (solved(runner, inside, **settings) for runner in RUNNERS)
    exact = solved("compiled", outside=True, **settings)
    torch.testing.assert_close(compiled, eager, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(exact, solved("eager", outside=True, **settings), rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("python_loops")
def test_programs_with_and_without_it_are_kept_apart() -> None:
    f, last = Net(), torch.zeros(())
    with torch.no_grad():
        for on in (False, True, False, True):
            with torch.autocast("cpu", BF16, enabled=on):
                eager, compiled = (
                    torchivp.solve(f, Y0, (0.0, 1.0), method="rk4", dt=0.25, runner=runner).y for runner in RUNNERS
                )
            torch.testing.assert_close(compiled, eager, rtol=1e-6, atol=1e-6)
            if on:
                assert not torch.allclose(compiled, last, rtol=1e-5)
            last = compiled


@pytest.mark.usefixtures("python_loops")
def test_slopes_of_fewer_digits_than_the_state() -> None:
    eager, compiled = both(
        lambda t, y: -y.float(), torch.ones(2, dtype=torch.float64), (0.0, 1.0), method="rk4", dt=0.1
    )
    torch.testing.assert_close(compiled.y, eager.y, rtol=1e-12, atol=1e-12)


@pytest.mark.slow
def test_compiled() -> None:
    """Rounded after every operation, as in plain PyTorch."""
    eager, compiled = (solved(runner) for runner in RUNNERS)
    torch.testing.assert_close(compiled, eager, rtol=1e-5, atol=1e-6)
