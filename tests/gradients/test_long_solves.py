"""Many steps: a graph of all of them at once is deeper than the stack that takes it down (the interpreter would crash)."""

from __future__ import annotations

import torch

import torchivp


def test_thousands_of_small_steps() -> None:
    y0 = torch.ones(2, dtype=torch.float64, requires_grad=True)
    sol = torchivp.solve(lambda t, y: -torch.sin(torch.tanh(-y + t) - y), y0, (0.0, 1.0), method="rk4", dt=1 / 3_000)
    sol.y[-1].sum().backward()
    assert y0.grad is not None
    assert bool(torch.isfinite(y0.grad).all())
