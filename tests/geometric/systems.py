"""Systems in two parts that the tests of geometric methods share, with exact solutions where there are any; not autonomous."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

import torchivp

F64 = torch.float64
Curve = Callable[[Tensor], Tensor]
Wave = tuple[float, float, float, float]


class Waves:
    """A curve ``[D]`` of sums of ``amplitude * exp(growth * t) * sin(frequency * t + phase)``, with all its derivatives.

    Args:
        entries: for each of the D numbers its waves: amplitude, frequency, phase, growth.
    """

    def __init__(self, *entries: tuple[Wave, ...]):
        most = max(map(len, entries))
        table = torch.tensor([[*entry, *[(0.0, 1.0, 0.0, 0.0)] * (most - len(entry))] for entry in entries], dtype=F64)
        self.amplitude, self.frequency, self.phase, self.growth = table.unbind(-1)
        self.rate = torch.hypot(self.frequency, self.growth)
        self.lead = torch.atan2(self.frequency, self.growth)

    def __call__(self, t: Tensor, n: int = 0) -> Tensor:
        """The n-th derivative at ``t [...]``: ``[..., D]``."""
        t = t[..., None, None]
        size = self.amplitude * self.rate**n * torch.exp(self.growth * t)
        return (size * torch.sin(self.frequency * t + self.phase + n * self.lead)).sum(-1)


@dataclass(frozen=True)
class Known:
    """A system whose solution is known.

    Attributes:
        f: the system.
        q, p: the solution ``[..., D]`` at times ``[...]``.
        methods: names of those that can solve it; None: all.
    """

    f: torch.nn.Module
    q: Curve
    p: Curve
    methods: tuple[str, ...] | None = None

    def solution(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return self.q(t), self.p(t)


def along(x: Waves, pull: Callable[[Tensor, Tensor], Tensor]) -> Known:
    """x'' = a(t, x) with the solution ``x``: what moves it, and a force that vanishes there."""
    f = torchivp.SecondOrder(lambda t, y: x(t, 2) + pull(t, y) - pull(t, x(t)))
    return Known(f, x, lambda t: x(t, 1))


_CENTRE = Waves(((1.0, 1.3, 0.0, 0.0),), ((1.0, 0.7, math.pi / 2, 0.0),))
_AROUND = Waves(
    ((1.0, 1.3, 0.0, 0.0), (1.0, 1.0, math.pi / 2, 0.0)), ((1.0, 0.7, math.pi / 2, 0.0), (1.0, 1.0, 0.0, 0.0))
)


def _attraction(t: Tensor, x: Tensor) -> Tensor:
    away = x - _CENTRE(t)
    return -away / (away @ away) ** 1.5


def _partitioned(drift_sees_time: bool) -> Known:
    """q' = speed(t) sinh(p), p' = g(t, q)."""
    q = Waves(((1.0, 2.0, 0.0, 0.0), (0.5, 0.6, 0.0, 0.1)), ((0.7, 3.0, 1.0, 0.0),))

    def speed(t: Tensor) -> Tensor:
        return 2 + torch.cos(2 * t) if drift_sees_time else torch.ones_like(t)

    def sine(t: Tensor) -> Tensor:
        return q(t, 1) / speed(t)[..., None]

    def slope(t: Tensor) -> Tensor:
        changes = -2 * torch.sin(2 * t) if drift_sees_time else torch.zeros_like(t)
        return (q(t, 2) - sine(t) * changes) / speed(t) / torch.sqrt(1 + sine(t) ** 2)

    def g(t: Tensor, x: Tensor) -> Tensor:
        return slope(t) - torch.sin(x) + torch.sin(q(t)) - (1 + t) * (x - q(t))

    f = torchivp.Partitioned(lambda t, y: speed(t) * torch.sinh(y), g)
    return Known(f, q, lambda t: torch.asinh(sine(t)), ("leapfrog",) if drift_sees_time else SYMPLECTIC)


def _hamiltonian() -> Known:
    """H = sqrt(1 + p^2) + V(t, q): a relativistic particle that is pushed along."""
    q = Waves(((0.5, 1.0, 0.0, 0.0),), ((0.3, 1.5, 1.0, 0.0),))

    def p(t: Tensor) -> Tensor:
        u = q(t, 1)
        return u / torch.sqrt(1 - (u * u).sum(-1, keepdim=True))

    def push(t: Tensor) -> Tensor:
        u, du, at = q(t, 1), q(t, 2), q(t)
        rest = 1 - u @ u
        return du / rest.sqrt() + u * (u @ du) / rest**1.5 + torch.sin(at) * (1 + t)

    def energy(t: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return torch.sqrt(1 + y @ y) - (1 + t) * torch.cos(x).sum() - push(t) @ x

    return Known(torchivp.Hamiltonian(energy), q, p, SYMPLECTIC)


SYMPLECTIC = ("leapfrog", "yoshida4", "yoshida6", "mclachlan4")
SECOND_ORDER = ("pendulum", "coupled", "orbit")
KNOWN = {
    "pendulum": along(
        Waves(((1.0, 2.0, 0.0, 0.0), (0.5, 0.6, 0.0, 0.1))), lambda t, x: -(2 + torch.cos(3 * t)) * torch.sin(x)
    ),
    "coupled": along(
        Waves(((1.0, 2.5, 0.0, 0.25),), ((1.0, 2.0, 1.5, -0.2),)), lambda t, x: -(1 + t) * x.flip(0) - x**3 / 3
    ),
    "orbit": along(_AROUND, _attraction),
    "partitioned": _partitioned(False),
    "drift in time": _partitioned(True),
    "hamiltonian": _hamiltonian(),
}


# ---- without exact solutions


def chain(x: Tensor) -> Tensor:
    """Forces in a chain of springs that are not linear."""
    pull = torch.diff(x, prepend=x[..., :1] * 0, append=x[..., :1] * 0)
    return (pull + pull**3).diff()


def kepler(t: Tensor, x: Tensor) -> Tensor:
    return -x / (x * x).sum(-1, keepdim=True) ** 1.5


def kepler_start(e: float) -> tuple[Tensor, Tensor]:
    """The point of the orbit of eccentricity ``e`` and period 2 pi that is closest to the centre."""
    return torch.tensor([1 - e, 0.0], dtype=F64), torch.tensor([0.0, ((1 + e) / (1 - e)) ** 0.5], dtype=F64)


def kepler_energy(x: Tensor, v: Tensor) -> Tensor:
    return (v * v).sum(-1) / 2 - 1 / (x * x).sum(-1).sqrt()
