"""Initial value problems that several tests share: definitions, starting values, exact solutions where there are any.

The right-hand sides are written for any array library: they use operators, indexing, and what ``Arrays`` offers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

REFERENCES = Path(__file__).parent / "verification" / "data" / "reference_values.json"


@dataclass(frozen=True)
class Arrays:
    """The few functions in which NumPy, torch and JAX differ.

    Attributes:
        stack: a vector from its entries.
        constant: an array of the library from a NumPy array.
        cos, sin, sqrt: of a scalar array.
    """

    stack: Callable[[Sequence[Any]], Any]
    constant: Callable[[np.ndarray], Any]
    cos: Callable[[Any], Any]
    sin: Callable[[Any], Any]
    sqrt: Callable[[Any], Any]


TORCH = Arrays(torch.stack, lambda x: torch.from_numpy(x), torch.cos, torch.sin, torch.sqrt)
NUMPY = Arrays(np.stack, lambda x: x, np.cos, np.sin, np.sqrt)

Slope = Callable[[Any, Any], Any]


@dataclass(frozen=True)
class Reference:
    """A problem with published reference values.

    Attributes:
        make: the slope ``f(t, y)`` for an array library.
        y0: state at ``t0``.
        t0, t1: the interval.
        end: the published state at ``t1``.
    """

    make: Callable[[Arrays], Slope]
    y0: tuple[float, ...]
    t0: float
    t1: float
    end: np.ndarray

    def error(self, y1: Any, tol: float) -> float:
        """Largest error at ``t1`` in units of ``tol * (1 + |y|)``."""
        return float(np.max(np.abs(np.asarray(y1) - self.end) / (tol * (1 + np.abs(self.end)))))


# ---- DETEST, non-stiff (Hull, Enright, Fellen, Sedgwick 1972, doi:10.1137/0709052), and Arenstorf's orbit


def entries(slopes: Callable[[Arrays, Any, Any], Sequence[Any]]) -> Callable[[Arrays], Slope]:
    """A slope from a function that returns its entries."""
    return lambda xp: lambda t, y: xp.stack(slopes(xp, t, y))


def linear(matrix: np.ndarray) -> Callable[[Arrays], Slope]:
    def make(xp: Arrays) -> Slope:
        m = xp.constant(matrix)
        return lambda t, y: m @ y

    return make


def _torus(xp: Arrays, t: Any, y: Any) -> Sequence[Any]:
    r = xp.sqrt(y[0] ** 2 + y[1] ** 2)
    return -y[1] - y[0] * y[2] / r, y[0] - y[1] * y[2] / r, y[0] / r


def _kepler(xp: Arrays, t: Any, y: Any) -> Sequence[Any]:
    r3 = (y[0] * y[0] + y[1] * y[1]) ** 1.5
    return y[2], y[3], -y[0] / r3, -y[1] / r3


def _arenstorf(xp: Arrays, t: Any, y: Any) -> Sequence[Any]:
    mu = 0.012277471
    nu = 1 - mu
    d1 = ((y[0] + mu) ** 2 + y[1] ** 2) ** 1.5
    d2 = ((y[0] - nu) ** 2 + y[1] ** 2) ** 1.5
    x = y[0] + 2 * y[3] - nu * (y[0] + mu) / d1 - mu * (y[0] - nu) / d2
    return y[2], y[3], x, y[1] - 2 * y[2] - nu * y[1] / d1 - mu * y[1] / d2


def _chain(rates: Sequence[float]) -> np.ndarray:
    """Radioactive decay: entry i decays into entry i + 1, the last one is stable."""
    n = len(rates) + 1
    matrix = np.zeros((n, n))
    for i, rate in enumerate(rates):
        matrix[i, i], matrix[i + 1, i] = -rate, rate
    return matrix


def _heat(n: int) -> np.ndarray:
    return np.diag(np.full(n, -2.0)) + np.diag(np.ones(n - 1), 1) + np.diag(np.ones(n - 1), -1)


def _first(n: int) -> tuple[float, ...]:
    return (1.0, *(0.0,) * (n - 1))


def _orbit(e: float) -> tuple[float, ...]:
    return (1 - e, 0.0, 0.0, math.sqrt((1 + e) / (1 - e)))


_ARENSTORF_Y0 = (0.994, 0.0, 0.0, -2.00158510637908252240537862224)
_DEFINITIONS: dict[str, tuple[Callable[[Arrays], Slope], tuple[float, ...]]] = {
    "A1": (entries(lambda xp, t, y: [-y[0]]), (1.0,)),
    "A2": (entries(lambda xp, t, y: [-(y[0] ** 3) / 2]), (1.0,)),
    "A3": (entries(lambda xp, t, y: [y[0] * xp.cos(t)]), (1.0,)),
    "A4": (entries(lambda xp, t, y: [y[0] / 4 * (1 - y[0] / 20)]), (1.0,)),
    "A5": (entries(lambda xp, t, y: [(y[0] - t) / (y[0] + t)]), (4.0,)),
    "B1": (entries(lambda xp, t, y: [2 * (y[0] - y[0] * y[1]), -(y[1] - y[0] * y[1])]), (1.0, 3.0)),
    "B2": (linear(np.array([[-1.0, 1.0, 0.0], [1.0, -2.0, 1.0], [0.0, 1.0, -1.0]])), (2.0, 0.0, 1.0)),
    "B3": (entries(lambda xp, t, y: [-y[0], y[0] - y[1] ** 2, y[1] ** 2]), (1.0, 0.0, 0.0)),
    "B4": (entries(_torus), (3.0, 0.0, 0.0)),
    "B5": (entries(lambda xp, t, y: [y[1] * y[2], -y[0] * y[2], -0.51 * y[0] * y[1]]), (0.0, 1.0, 1.0)),
    "C1": (linear(_chain([1.0] * 9)), _first(10)),
    "C2": (linear(_chain([float(i) for i in range(1, 10)])), _first(10)),
    "C3": (linear(_heat(10)), _first(10)),
    "C4": (linear(_heat(51)), _first(51)),
    **{f"D{i}": (entries(_kepler), _orbit(0.2 * i - 0.1)) for i in range(1, 6)},
    "arenstorf": (entries(_arenstorf), _ARENSTORF_Y0),
}


def references() -> dict[str, Reference]:
    """Every non-stiff problem with published values, by name."""
    stored = json.loads(REFERENCES.read_text())
    problems = {}
    for name, (make, y0) in _DEFINITIONS.items():
        entry = stored[name]
        t0, t1 = (float(t) for t in entry["t"])
        problems[name] = Reference(make, y0, t0, t1, np.array([float(x) for x in entry["ref"]]))
    return problems


# ---- with exact solutions, for the order of convergence: not autonomous, in float64


@dataclass(frozen=True)
class Exact:
    """A problem whose solution is known.

    Attributes:
        f: the slope. What depends on the time alone is computed with plain numbers: it is cheaper by far.
        solution: the state ``[..., D]`` at times ``[...]``.
    """

    f: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    solution: Callable[[torch.Tensor], torch.Tensor]


def _nonlinear(t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """y = tan(sin(6 t) / 6 + 0.4)."""
    return math.cos(6 * float(t)) * (1 + y * y)


def _nonlinear_solution(t: torch.Tensor) -> torch.Tensor:
    return torch.tan(torch.sin(6 * t) / 6 + 0.4).unsqueeze(-1)


def _system(t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """A slow spiral around a point that moves fast: y = p + (cos s, sin s) / (1 + t / 4), s = t / 4 + t^2 / 8."""
    s = float(t)
    rate, decay = (1 + s) / 4, -1 / (4 + s)
    px, pz = math.sin(6 * s), math.cos(5 * s)
    matrix = y.new_tensor([[decay, -rate], [rate, decay]])
    rest = [6 * math.cos(6 * s) - decay * px + rate * pz, -5 * math.sin(5 * s) - rate * px - decay * pz]
    return torch.addmv(y.new_tensor(rest), matrix, y)


def _system_solution(t: torch.Tensor) -> torch.Tensor:
    s = t / 4 + t * t / 8
    point = torch.stack([torch.sin(6 * t), torch.cos(5 * t)])
    return (point + torch.stack([torch.cos(s), torch.sin(s)]) / (1 + t / 4)).movedim(0, -1)


def _forced(t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """A forcing that is fast, strong and grows: y = sin(7 t) exp(t / 4) + 1 / (1 + t)."""
    s = float(t)
    g, h = math.sin(7 * s) * math.exp(s / 4), 1 / (1 + s)
    dg = (7 * math.cos(7 * s) + math.sin(7 * s) / 4) * math.exp(s / 4)
    away = y - (g + h)
    return away * (away - s) / 4 + (dg - h * h)


def _forced_solution(t: torch.Tensor) -> torch.Tensor:
    return (torch.sin(7 * t) * torch.exp(t / 4) + 1 / (1 + t)).unsqueeze(-1)


EXACT = {
    "nonlinear": Exact(_nonlinear, _nonlinear_solution),
    "system": Exact(_system, _system_solution),
    "forced": Exact(_forced, _forced_solution),
}
"""Three non-autonomous problems on [0, 4]: a nonlinear scalar one, a system, and one with strong time dependence."""
