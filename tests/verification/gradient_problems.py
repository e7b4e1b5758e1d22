"""The problems on which gradients are compared, in float64, and the comparisons.

A problem computes a loss in which every input counts: starting values, args, parameters, and for the event problem the
parameters of the event function; its steps can be frozen to those of an adaptive solve.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import torchivp
from gradients.comparison import weighted
from torchivp import Event, FixedSteps

F64 = torch.float64
Mesh = Sequence[float]


class Solves:
    """The solves of one loss, which may follow each other.

    Args:
        settings: of each of them.
        meshes: the steps of the first, second, ... one; None: adaptive steps.
    """

    def __init__(self, settings: dict[str, Any], meshes: Sequence[Mesh] | None = None):
        self.settings = settings
        self.frozen = None if meshes is None else iter(meshes)

    def __call__(self, f: Any, y0: Tensor, t: Any, args: Any, **kw: Any) -> torchivp.Solution:
        steps = {} if self.frozen is None else {"controller": FixedSteps(times=next(self.frozen))}
        return torchivp.solve(f, y0, t, args, **kw, **self.settings, **steps)


class Noted(Solves):
    """Adaptive solves that write their steps down, past a terminal event, too."""

    def __init__(self, settings: dict[str, Any]):
        super().__init__(settings)
        self.meshes: list[Mesh] = []

    def __call__(self, f: Any, y0: Tensor, t: Any, args: Any, **kw: Any) -> torchivp.Solution:
        self.meshes.append(torchivp.solve(f, y0, t, args, save="steps", **self.settings).t.tolist())
        return super().__call__(f, y0, t, args, **kw)


@dataclass(frozen=True)
class GradientProblem:
    """A loss and what it depends on.

    Attributes:
        inputs: makes the inputs, leaves that require grad.
        loss: from a way to solve and the inputs.
    """

    inputs: Callable[[], list[Tensor]]
    loss: Callable[[Solves, Sequence[Tensor]], Tensor]

    @torch.no_grad()
    def meshes(self, **settings: Any) -> list[Mesh]:
        """The steps of the adaptive solves of one loss."""
        solves = Noted(settings)
        self.loss(solves, self.inputs())
        return solves.meshes

    def gradient(self, meshes: Sequence[Mesh] | None = None, **settings: Any) -> Tensor:
        """The gradient of all inputs in one vector."""
        inputs = self.inputs()
        grads = torch.autograd.grad(self.loss(Solves(settings, meshes), inputs), inputs)
        return torch.cat([g.reshape(-1) for g in grads])

    @torch.no_grad()
    def slope(self, meshes: Sequence[Mesh], direction: Sequence[Tensor], step: float, **settings: Any) -> float:
        """The derivative in a direction, by central differences of fourth order, with the steps held."""
        inputs = self.inputs()

        def at(h: float) -> float:
            return float(self.loss(Solves(settings, meshes), [x + h * d for x, d in zip(inputs, direction)]))

        near, far = ((at(h) - at(-h)) / (2 * h) for h in (step, 2 * step))
        return (4 * near - far) / 3


def leaves(*values: Any) -> list[Tensor]:
    return [torch.as_tensor(v, dtype=F64).clone().requires_grad_() for v in values]


# ---- the article's network for ODE blocks, 32-124-124-32, on 10 rows


def network(activation: type[nn.Module], scale: float = 2.0) -> GradientProblem:
    """With weights ``scale`` times those it begins with: there, three steps are exact to 1e-10 and nothing is tested."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(32, 124), activation(), nn.Linear(124, 124), activation(), nn.Linear(124, 32)
    ).double()
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(scale if p.dim() == 2 else 1)
    names = [name for name, _ in net.named_parameters()]
    start = torch.randn(10, 32, dtype=F64)

    def f(t: Tensor, y: Tensor, params: list[Tensor]) -> Tensor:
        return torch.func.functional_call(net, dict(zip(names, params)), (y,))

    def loss(solve: Solves, inputs: Sequence[Tensor]) -> Tensor:
        y0, *params = inputs
        return weighted(solve(f, y0, (0.0, 1.0), list(params)).y[-1])

    return GradientProblem(lambda: leaves(start, *(p.detach() for p in net.parameters())), loss)


# ---- Chen's cubic spiral, 101 outputs


def _spiral(t: Tensor, y: Tensor, a: Tensor) -> Tensor:
    return y**3 @ a


def _spiral_loss(solve: Solves, inputs: Sequence[Tensor]) -> Tensor:
    y0, a = inputs
    return weighted(solve(_spiral, y0, torch.linspace(0, 5, 101, dtype=F64), a).y)


# ---- a ball with drag falls on an inclined floor, bounces, and falls again


def _ball(t: Tensor, y: Tensor, args: Sequence[Tensor]) -> Tensor:
    v = y[2:]
    return torch.cat([v, -args[0] * v * torch.linalg.vector_norm(v) - torch.stack([0 * args[1], args[1]])])


def _height(t: Tensor, y: Tensor, args: Sequence[Tensor]) -> Tensor:
    return y[1] - args[2] - args[3] * y[0]


def _ball_loss(solve: Solves, inputs: Sequence[Tensor]) -> Tensor:
    y0, *args = inputs
    floor = Event(_height, terminal=True, direction=-1)
    first = solve(_ball, y0, (0.0, 2.0), args, events=floor)
    hit, at_hit = first.t_events[0][0], first.y_events[0][0]
    after = at_hit * torch.tensor([1, 1, 1, -0.8], dtype=F64)
    second = solve(_ball, after, (0.0, 3.0), args, events=floor)
    return weighted(hit, second.t_events[0], second.y_events[0])


# ---- Kepler, ten periods; Lorenz; van der Pol


def _kepler(t: Tensor, y: Tensor, mass: Tensor) -> Tensor:
    return torch.cat([y[2:], -mass * y[:2] / torch.linalg.vector_norm(y[:2]) ** 3])


def _kepler_loss(solve: Solves, inputs: Sequence[Tensor]) -> Tensor:
    y0, mass = inputs
    return weighted(solve(_kepler, y0, (0.0, 20 * math.pi), mass).y[-1])


def _lorenz(t: Tensor, y: Tensor, args: Tensor) -> Tensor:
    a, b, c = y
    sigma, rho, beta = args
    return torch.stack([sigma * (b - a), a * (rho - c) - b, a * b - beta * c])


def _lorenz_loss(solve: Solves, inputs: Sequence[Tensor]) -> Tensor:
    y0, args = inputs
    return weighted(solve(_lorenz, y0, (0.0, 5.0), args).y[-1])


def _van_der_pol(t: Tensor, y: Tensor, mu: Tensor) -> Tensor:
    return torch.stack([y[1], mu * (1 - y[0] ** 2) * y[1] - y[0]])


def _van_der_pol_loss(solve: Solves, inputs: Sequence[Tensor]) -> Tensor:
    """From one slow branch through the jump to the other one."""
    y0, mu = inputs
    return weighted(solve(_van_der_pol, y0, (0.0, 6.0), mu).y[-1])


PROBLEMS: dict[str, GradientProblem] = {
    "network": network(nn.Softplus),
    "spiral": GradientProblem(lambda: leaves([2.0, 0.0], [[-0.1, 2.0], [-2.0, -0.1]]), _spiral_loss),
    "ball": GradientProblem(lambda: leaves([0.0, 2.0, 1.0, 0.5], 0.1, 9.81, 0.2, 0.05), _ball_loss),
    "kepler": GradientProblem(lambda: leaves([0.5, 0.0, 0.0, math.sqrt(3.0)], 1.0), _kepler_loss),
    "lorenz": GradientProblem(lambda: leaves([1.0, 2.0, 20.0], [10.0, 28.0, 8 / 3]), _lorenz_loss),
    "van der pol": GradientProblem(lambda: leaves([1.3, -0.06], 30.0), _van_der_pol_loss),
}
"""By name. All of them are smooth; the network with ReLU, which is not, stands beside them."""

RELU = network(nn.ReLU)


def distance(a: Tensor, b: Tensor) -> float:
    """Relative to the norm of the first."""
    return float(torch.linalg.vector_norm(a - b) / torch.linalg.vector_norm(a))
