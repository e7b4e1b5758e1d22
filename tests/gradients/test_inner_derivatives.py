"""An f that differentiates inside: energies, Hamiltonians, traces of Jacobians; with torch.autograd and with torch.func."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, func, nn

import torchivp
from torchivp.gradients import GRADIENTS

F64 = torch.float64
WAYS = sorted(GRADIENTS.keys() - {"implicit"})  # that one is of steady states


def settings(gradient: str) -> dict[str, Any]:
    method = torchivp.methods.Reversible("tsit5") if gradient == "reversible" else "tsit5"
    return {"rtol": 1e-9, "atol": 1e-9, "gradient": gradient, "method": method}


class Energy(nn.Module):
    """H(q, p) of a nonlinear chain, with parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([0.9, 0.4], dtype=F64))

    def forward(self, y: Tensor) -> Tensor:
        q, p = y[..., :2], y[..., 2:]
        return (0.5 * p**2 + self.w[0] * (1 - torch.cos(q))).sum() + 0.5 * self.w[1] * (
            q[..., 0] - q[..., 1]
        ).square().sum()


def turned(gradient: Tensor) -> Tensor:
    return torch.cat([gradient[..., 2:], -gradient[..., :2]], dim=-1)


class Written(Energy):
    """The slope written down by hand: the reference."""

    def slope(self, t: Tensor, y: Tensor) -> Tensor:
        q, p = y[..., :2], y[..., 2:]
        pull = self.w[1] * (q[..., :1] - q[..., 1:])
        return torch.cat([p, -self.w[0] * torch.sin(q) - torch.cat([pull, -pull], dim=-1)], dim=-1)


class ByAutograd(Energy):
    def slope(self, t: Tensor, y: Tensor) -> Tensor:
        with torch.enable_grad():
            y = y.requires_grad_()
            (gradient,) = torch.autograd.grad(self(y), y, create_graph=True)
        return turned(gradient)


class ByFunc(Energy):
    def slope(self, t: Tensor, y: Tensor) -> Tensor:
        return turned(func.grad(self)(y))


class ByJacrev(Energy):
    def slope(self, t: Tensor, y: Tensor) -> Tensor:
        return turned(func.jacrev(lambda y: self(y).reshape(1))(y).reshape(y.shape))


class ByForwardMode(Energy):
    def slope(self, t: Tensor, y: Tensor) -> Tensor:
        return turned(func.jacfwd(self)(y))


Y0 = torch.tensor([0.6, -0.2, 0.1, 0.8], dtype=F64)


def gradients(cls: type[Energy], gradient: str, y0: Tensor) -> list[Tensor]:
    energy = cls()
    y0 = y0.clone().requires_grad_()
    y = torchivp.solve(energy.slope, y0, (0.0, 0.5, 1.2), **settings(gradient)).y
    return [y.detach(), *torch.autograd.grad(torch.sin(y[1:]).sum(), [y0, energy.w])]


@pytest.mark.parametrize("cls", [ByAutograd, ByFunc, ByJacrev, ByForwardMode])
@pytest.mark.parametrize("gradient", WAYS)
def test_hamiltonian(gradient: str, cls: type[Energy]) -> None:
    for found, expected in zip(gradients(cls, gradient, Y0), gradients(Written, "direct", Y0)):
        assert torch.allclose(found, expected, rtol=1e-6, atol=1e-8)


class ManyByFunc(Energy):
    """A batch, row by row with vmap."""

    def slope(self, t: Tensor, y: Tensor) -> Tensor:
        return turned(func.vmap(func.grad(self))(y))


@pytest.mark.parametrize("gradient", WAYS)
def test_batch_of_hamiltonians(gradient: str) -> None:
    y0 = torch.stack([Y0, -0.5 * Y0, Y0.flip(0)])
    for found, expected in zip(gradients(ManyByFunc, gradient, y0), gradients(Written, "direct", y0)):
        assert torch.allclose(found, expected, rtol=1e-6, atol=1e-8)


class Flow(nn.Module):
    """A continuous normalising flow y' = tanh(A y + b), with d log p / dt = - tr(df/dy)."""

    def __init__(self, trace: Callable[[Flow, Tensor], tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.trace = trace
        self.a = nn.Parameter(torch.tensor([[0.5, -1.2], [0.8, 0.3]], dtype=F64))
        self.b = nn.Parameter(torch.tensor([0.1, -0.4], dtype=F64))

    def velocity(self, y: Tensor) -> Tensor:
        return torch.tanh(y @ self.a.T + self.b)

    def forward(self, t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        dy, trace = self.trace(self, state[0])
        return dy, -trace


def written(flow: Flow, y: Tensor) -> tuple[Tensor, Tensor]:
    dy = flow.velocity(y)
    return dy, ((1 - dy**2) * flow.a.diagonal()).sum(-1)


def row_by_row(flow: Flow, y: Tensor) -> tuple[Tensor, Tensor]:
    """As torchdiffeq's example does it."""
    with torch.enable_grad():
        y = y.requires_grad_()
        dy = flow.velocity(y)
        trace = sum(torch.autograd.grad(dy[:, i].sum(), y, create_graph=True)[0][:, i] for i in range(y.shape[1]))
    return dy, trace  # type: ignore[return-value]


def by_func(flow: Flow, y: Tensor) -> tuple[Tensor, Tensor]:
    return flow.velocity(y), func.vmap(func.jacrev(flow.velocity))(y).diagonal(dim1=1, dim2=2).sum(-1)


@pytest.mark.parametrize("trace", [row_by_row, by_func])
@pytest.mark.parametrize("gradient", WAYS)
def test_normalising_flow(gradient: str, trace: Callable[[Flow, Tensor], tuple[Tensor, Tensor]]) -> None:
    def likelihood(gradient: str, trace: Callable[[Flow, Tensor], tuple[Tensor, Tensor]]) -> list[Tensor]:
        flow, y0 = Flow(trace), torch.tensor([[0.3, 0.8], [-1.0, 0.2], [0.4, -0.9]], dtype=F64, requires_grad=True)
        y, log_p = torchivp.solve(flow, (y0, torch.zeros(3, dtype=F64)), (1.0, 0.0), **settings(gradient)).y
        value = (log_p[-1] - 0.5 * y[-1].square().sum(-1)).sum()
        return [value.detach(), *torch.autograd.grad(value, [y0, flow.a, flow.b])]

    for found, expected in zip(likelihood(gradient, trace), likelihood("direct", written)):
        assert torch.allclose(found, expected, rtol=1e-6, atol=1e-8)
