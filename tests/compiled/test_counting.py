"""Evaluations are counted as plain PyTorch makes them, also where a step hands on the slope that its interpolant asked for."""

from __future__ import annotations

import pytest
import torch

import torchivp
from compiled.pairs import TIMES, Y0, assert_same, both
from torchivp.methods import METHODS
from torchivp.methods.explicit_rk import ExplicitRungeKutta

ADAPTIVE = [
    name for name, kind in METHODS.items() if issubclass(kind, ExplicitRungeKutta) and kind().error_order is not None
]


@pytest.mark.parametrize("method", ADAPTIVE)
@pytest.mark.parametrize("how", ["events", "dense", "times"])
def test_whoever_looks_inside(how: str, method: str, python_loops: None) -> None:
    def f(t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.stack([y[1], -y[0] - 0.1 * y[1]])

    event = torchivp.Event(lambda t, y: y[0])
    more = {"events": {"events": event}, "dense": {"dense": True}, "times": {}}[how]
    times = TIMES if how == "times" else (0.0, 3.0)
    assert_same(*both(f, Y0, times, method=method, rtol=1e-4, atol=1e-6, **more))
