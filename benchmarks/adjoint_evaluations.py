"""What do more output times cost in the backward pass of the continuous adjoint?

    python -m benchmarks.adjoint_evaluations

Evaluations of f in the backward pass of odeint_adjoint with 2, 11 and 101 outputs. Nothing is timed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torchdiffeq
from torch import Tensor, nn

import torchivp

from .common import Bar, Report, Row, Table, error_bar, largest_error, main

OUTPUTS = (2, 11, 101)
PEER, OURS = "torchdiffeq.odeint_adjoint", "torchivp.odeint_adjoint"


class Spiral(nn.Module):
    """dy/dt = y^3 A."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[-0.1, 2.0], [-2.0, -0.1]]))
        self.calls = 0

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        self.calls += 1
        return y**3 @ self.weight


class Tanh(nn.Module):
    """dy/dt = tanh(y W)."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4, generator=torch.Generator().manual_seed(0)) / 2)
        self.calls = 0

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        self.calls += 1
        return torch.tanh(y @ self.weight)


@dataclass(frozen=True)
class Case:
    """A problem; ``options`` for odeint_adjoint."""

    name: str
    f: Callable[[], nn.Module]
    y0: Tensor
    end: float
    options: dict[str, Any]


CASES = (
    Case("spiral on [0, 25], 1e-4/1e-6", Spiral, torch.tensor([[2.0, 0.0]]), 25.0, {"rtol": 1e-4, "atol": 1e-6}),
    Case("tanh on [0, 1], the defaults (1e-7/1e-9)", Tanh, torch.linspace(-1, 1, 4)[None], 1.0, {}),
)


def backward(
    odeint: Callable[..., Tensor], f: nn.Module, y0: Tensor, t: Tensor, **options: Any
) -> tuple[Tensor, Tensor, int]:
    """Values, gradient of the parameters of the mean square, and evaluations of the backward pass."""
    y = odeint(f, y0, t, **options)
    f.calls = 0
    y.square().mean().backward()
    return y.detach(), torch.cat([p.grad.reshape(-1) for p in f.parameters()]), f.calls


def count(case: Case, outputs: int, odeint: Callable[..., Tensor], name: str) -> Row:
    t = torch.linspace(0, case.end, outputs, dtype=torch.float64)
    exact = {"rtol": 1e-12, "atol": 1e-12}
    y, gradient, _ = backward(torchdiffeq.odeint, case.f().double(), case.y0.double(), t, **exact)
    values, ours, calls = backward(odeint, case.f().double(), case.y0.double(), t, **case.options)
    row = Row(name, ours=odeint is torchivp.odeint_adjoint, evaluations=calls)
    row.error = largest_error(values, y)
    row.gradient_error = largest_error(ours, gradient) / float(gradient.abs().max())
    return row


def run(rounds: int) -> Report:
    tables, bars = [], []
    for case in CASES:
        rows = []
        for n in OUTPUTS:
            rows += [count(case, n, torchdiffeq.odeint_adjoint, f"{PEER}, {n} outputs")]
            rows += [count(case, n, torchivp.odeint_adjoint, f"{OURS}, {n} outputs")]
        tables.append(Table(case.name, rows))
    spiral, tanh = ({row.name: row for row in table.rows} for table in tables)
    two, many = spiral[f"{OURS}, 2 outputs"].evaluations, spiral[f"{OURS}, 101 outputs"].evaluations
    bars.append(Bar("spiral: evaluations with 101 outputs over those with 2", many / two, 1.3, at_most=True))
    per_interval = (tanh[f"{OURS}, 101 outputs"].evaluations - 10) / 100
    bars.append(Bar("tanh, 101 outputs: evaluations for each interval, beside 10", per_interval, 7, at_most=True))
    for table in tables:
        for n in OUTPUTS:
            ours, peer = table.row(f"{OURS}, {n} outputs"), table.row(f"{PEER}, {n} outputs")
            bars.append(error_bar(f"{table.title}, {n} outputs", ours.error, peer.error))
    question = (
        "Evaluations of f in the backward pass of odeint_adjoint, dopri5, float64; the errors are the largest, that of the "
        "gradient of the parameters over its largest entry, against torchdiffeq's backprop at 1e-12."
    )
    return Report("adjoint_evaluations", question, tables, bars)


if __name__ == "__main__":
    main(run)
