"""Functions that take derivatives themselves, or record none: what is compiled of them, and its gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import torchivp
from compiled.pairs import TIMES, Y0, assert_same, both, gradients, torch64
from torchivp import Hamiltonian

pytestmark = [pytest.mark.compiled, pytest.mark.usefixtures("python_loops")]


class Net(nn.Module):
    """A function of a small network, in some way or other."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 2, bias=False)).double()

    def energy(self, y: Tensor) -> Tensor:
        return (self.net(y).exp() * y).sum()


class Gradient(Net):
    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return -torch.func.grad(self.energy)(y) - y


class Laplacian(Net):
    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return y * torch.func.jacrev(torch.func.grad(self.energy))(y).trace() / 10 - y


class Curvature(Net):
    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return torch.func.hessian(self.energy)(y).sum(0) / 10 - y


class Tangent(Net):
    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return torch.func.jvp(self.net, (y,), (torch.cos(t) + y,))[1]


class Points(Net):
    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return torch.func.vmap(torch.func.grad(self.energy))(torch.stack((y, 2 * y, y + 1))).mean(0) / 10 - y


class Number(Net):
    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return -torch.func.grad(lambda y: self.energy(y) * torch.tensor(0.5, dtype=torch64))(y)


class Detached(Net):
    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return -torch.func.grad(lambda y: self.energy(y) * y.detach().cos().sum() / 10)(y)


class NotRecorded(Net):
    """In a derivative, and outside."""

    def energy(self, y: Tensor) -> Tensor:
        with torch.no_grad():
            size = self.net(y).sum()
        return super().energy(y) * size

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            a, b = (y * y).unbind()
        return -torch.func.grad(self.energy)(y) / 10 - y * (a + b)


FUNCTIONS = [Gradient, Laplacian, Curvature, Tangent, Points, Number, Detached, NotRecorded]


@pytest.mark.parametrize("kind", FUNCTIONS, ids=lambda kind: kind.__name__)
def test_values_and_gradients(kind: type[Net]) -> None:
    f, y0, found = kind(), Y0.clone().requires_grad_(), []
    for runner in ("eager", "compiled"):
        y = torchivp.solve(f, y0, TIMES, method="bosh3", runner=runner).y
        loss = (y.T @ torch.linspace(0.5, 1.5, len(y), dtype=torch64)).sum()
        found.append([y.detach(), *gradients(lambda loss=loss: loss, [y0, *f.parameters()])])  # type: ignore[misc]
    torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=1e-10)


class Stiff(nn.Module):
    """A function part of which is not differentiated."""

    def __init__(self, cut: bool) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.tensor([3.0, 0.4], dtype=torch64))
        self.cut = cut

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        slow = (y * self.rate).cos()
        if self.cut:
            slow = slow.detach()
        else:
            with torch.no_grad():
                slow = (y * self.rate).cos()
        return -self.rate * y * slow


@pytest.mark.parametrize("cut", [True, False], ids=["detached", "no_grad"])
@pytest.mark.parametrize("method", ["bosh3", "rodas4", "kvaerno3"])
def test_what_is_not_differentiated(method: str, cut: bool) -> None:
    """Neither in the slopes nor in the Jacobians of steps."""
    f, y0, found = Stiff(cut), Y0.clone().requires_grad_(), []
    for runner in ("eager", "compiled"):
        y = torchivp.solve(f, y0, TIMES, method=method, rtol=1e-4, runner=runner).y
        found.append([y.detach(), *gradients(lambda y=y: y.sum(), [y0, f.rate])])  # type: ignore[misc]
    torch.testing.assert_close(found[1], found[0], rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("order", [(1, 2, 5, 3), (2, 5, 1), (3, 2, 4)], ids=str)
def test_batches_of_other_sizes(order: tuple[int, ...]) -> None:
    """A batch may be as large as a state."""
    f = Hamiltonian(lambda t, q, p: (p * p).sum(-1) / 2 + (q**4).sum(-1) + q[..., 0] * q[..., 1])
    how: dict[str, Any] = {"batch_dims": 1, "method": "leapfrog", "dt": 0.1}
    for rows in order:
        q = torch.linspace(-1.0, 1.0, 2 * rows, dtype=torch64).reshape(rows, 2)
        assert_same(*both(f, (q, q.flip(0)), (0.0, 1.0), **how))
        assert_same(*both(f, (q, q.flip(0)), (0.0, 1.0), method="bosh3"))


@pytest.mark.parametrize("order", [(1, 2, 5, 3), (2, 5, 1)], ids=str)
def test_jacobians_for_batches_of_other_sizes(order: tuple[int, ...]) -> None:
    f = lambda t, y: -torch.stack((3 * y[..., 0] * y[..., 1] ** 2, y.sum(-1) + y[..., 1]), -1)
    for rows in order:
        y0 = torch.linspace(0.5, 1.0, 2 * rows, dtype=torch64).reshape(rows, 2)
        assert_same(*both(f, y0, (0.0, 1.0), batch_dims=1, method="rodas4"), nfe=False)


def test_columns_of_one_tensor_are_those_of_another() -> None:
    """The slope of one tensor is put together from columns of the other."""

    def turned(t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        (a, b), (c, d) = (x.unbind(-1) for x in state)
        return torch.stack((d, -c), -1), torch.stack((-b, a * b), -1)

    assert_same(*both(turned, (Y0, Y0.flip(0)), TIMES, method="bosh3"))
