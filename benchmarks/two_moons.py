"""A continuous normalizing flow, trained on two moons: the benchmarks that need one take it from here.

python -m benchmarks.two_moons            trains it again, in about a minute, and writes data/two_moons.pt
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import torchivp

WEIGHTS = Path(__file__).parent / "data" / "two_moons.pt"
STEPS = 1_000
ENERGY = 0.2


class Flow(nn.Module):
    """The state and the change of its log density, by the exact trace; with a counter of its calls."""

    def __init__(self, *widths: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for a, b in zip(widths, widths[1:]):
            layers += [nn.Linear(a, b), nn.Tanh()]
        self.layers = nn.Sequential(*layers[:-1])
        self.calls = 0

    def forward(self, t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        self.calls += 1
        z = state[0]
        with torch.enable_grad():
            z = z if z.requires_grad else z.detach().requires_grad_()
            slope = self.layers(z)
            trace: Any = 0.0
            for i in range(z.shape[1]):
                trace = trace + torch.autograd.grad(slope[:, i].sum(), z, create_graph=True)[0][:, i : i + 1]
        return slope, -trace


def new_flow() -> Flow:
    return Flow(2, 64, 64, 2)


def trained_flow() -> Flow:
    flow = new_flow()
    flow.load_state_dict(torch.load(WEIGHTS, weights_only=True))
    return flow


def two_moons(n: int) -> Tensor:
    """Samples ``[n, 2]``."""
    angle = math.pi * torch.rand(n)
    upper = torch.arange(n) % 2 == 0
    moons = torch.stack(
        [torch.where(upper, angle.cos(), 1 - angle.cos()), torch.where(upper, angle.sin(), 0.5 - angle.sin())]
    )
    return moons.T + 0.05 * torch.randn(n, 2)


def minus_log_likelihood(end: Any) -> Tensor:
    """Under the flow, whose end is normal."""
    z, change = end
    return (0.5 * (z**2).sum(1) + math.log(2 * math.pi) + change[:, 0]).mean()


def train() -> Flow:
    """With a penalty on the kinetic energy, which keeps the flow smooth, and its inverse as good as itself."""
    torch.manual_seed(0)
    flow = new_flow()

    def with_energy(t: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        slope, change = flow(t, (state[0], state[1]))
        return slope, change, slope.square().sum(1, keepdim=True)

    optimizer = torch.optim.Adam(flow.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for step in range(STEPS):
        start = (two_moons(256), torch.zeros(256, 1), torch.zeros(256, 1))
        sol = torchivp.solve(with_energy, start, (0.0, 1.0), rtol=1e-3, atol=1e-3, gradient="direct", save="end")
        *end, energy = (x[-1] for x in sol.y)
        likelihood = minus_log_likelihood(end)
        optimizer.zero_grad()
        (likelihood + ENERGY * energy.mean()).backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(
                f"step {step}: minus log likelihood {likelihood.item():.3f}, energy {energy.mean().item():.3f}",
                flush=True,
            )
    return flow


if __name__ == "__main__":
    WEIGHTS.parent.mkdir(exist_ok=True)
    torch.save(train().state_dict(), WEIGHTS)
