"""Geometric methods in compiled loops, and functions that take derivatives themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import torchivp
from compiled.pairs import assert_same, both, gradients, torch64
from torchivp import Event, Hamiltonian, Partitioned, SecondOrder
from torchivp.gradients import Discrete
from torchivp.methods import GEOMETRIC_METHODS
from torchivp.runners import cuda_graph
from torchivp.runners.compiled import backward, gradient, march, program

pytestmark = pytest.mark.compiled

UNEVEN = torch.tensor([0.0, 0.13, 0.4, 0.77, 1.1, 1.5, 1.55, 2.2, 3.0], dtype=torch64)
METHODS = list(GEOMETRIC_METHODS)
SYMPLECTIC = [name for name in METHODS if name != "rkn4"]
HALF = torch.tensor([0.9, -0.2], dtype=torch64), torch.tensor([0.3, 0.5], dtype=torch64)
ROWS = torch.tensor([[0.9, -0.2], [0.1, 1.4], [-2.0, 0.3]], dtype=torch64), torch.tensor([[0.3, 0.5], [1.0, 0.0], [0.2, 2.0]], dtype=torch64)
CROSSING = Event(lambda t, y: y[0][..., 0])
END = Event(lambda t, y: t - 2.5 + 0.01 * y[0][..., 0], terminal=True)


class Push(nn.Module):
    """A force with a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.size = nn.Parameter(torch.tensor([1.3, 0.4], dtype=torch64))

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        t = t.unsqueeze(-1) if x.dim() > 1 else t
        return -self.size * torch.sin(x + 0.2 * x.flip(-1)) + 0.3 * torch.cos(2 * t)
