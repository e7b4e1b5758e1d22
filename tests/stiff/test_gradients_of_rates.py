"""Gradients by the rates of Robertson's problem and of HIRES, against finite differences of tight solves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

import torchivp


def robertson(t: Tensor, y: Tensor, k: Tensor) -> Tensor:
    a, b, c = y.unbind(-1)
    k1, k2, k3 = k.unbind(-1)
    slow, middle, fast = k1 * a, k2 * b * c, k3 * b * b
    return torch.stack([middle - slow, slow - middle - fast, fast], -1)


def hires(t: Tensor, y: Tensor, k: Tensor) -> Tensor:
    y1, y2, y3, y4, y5, y6, y7, y8 = y.unbind(-1)
    k1, k2, k3, k4, k5, k6, ks, bind, out = k.unbind(-1)
    bound = bind * y6 * y8
    return torch.stack(
        [
            -k1 * y1 + k2 * y2 + k6 * y3 + ks,
            k1 * y1 - (k2 + k3) * y2,
            -(k6 + k1) * y3 + k2 * y4 + k5 * y5,
            k3 * y2 + k1 * y3 - (k4 + k2) * y4,
            -(k1 + k5) * y5 + k2 * (y6 + y7),
            -bound + k4 * y4 + k1 * y5 - k2 * y6 + k4 * y7,
            bound - out * y7,
            -bound + out * y7,
        ],
        -1,
    )


@dataclass(frozen=True)
class Case:
    """A problem with rates; ``weights`` make one number of the end."""

    f: Callable[[Tensor, Tensor, Tensor], Tensor]
    y0: tuple[float, ...]
    t1: float
    rates: tuple[float, ...]
    weights: tuple[float, ...]
    atol: float

    def loss(self, logs: Tensor, rtol: float, method: str, **more: Any) -> Tensor:
        """By the logarithms of the rates, ``[P]``, or rows of them."""
        y0, weights = (torch.tensor(x, dtype=torch.float64) for x in (self.y0, self.weights))
        how: dict[str, Any] = {"method": method, "rtol": rtol, "atol": self.atol * rtol, "save": "end", **more}
        start = y0.expand(*logs.shape[:-1], len(y0)).contiguous()
        sol = torchivp.solve(self.f, start, (0.0, self.t1), args=logs.exp(), **how)
        end = sol.y[:, -1] if logs.ndim > 1 else sol.y[-1]
        return (end * weights).sum(-1)


CASES = {
    "Robertson": Case(robertson, (1, 0, 0), 40.0, (0.04, 1e4, 3e7), (1, 1e4, 0.3), 1e-6),
    "HIRES": Case(
        hires, (1, 0, 0, 0, 0, 0, 0, 0.0057), 20.0, (1.71, 0.43, 8.32, 0.69, 0.035, 8.32, 0.0007, 280, 1.81),
        (1, 2, 3, 1, 0.5, 0.3, 10, -10), 1e-3,
    ),
}  # fmt: skip
STEP = 1e-3


def by_differences(case: Case, logs: Tensor) -> Tensor:
    """Of fourth order, of tight solves, all of them rows of one."""
    along = STEP * torch.eye(len(logs), dtype=torch.float64)
    rows = torch.cat([logs + m * along for m in (1, -1, 2, -2)])
    with torch.no_grad():
        up, down, far_up, far_down = case.loss(rows, 1e-11, "rodas5p", batch_dims=1).chunk(4)
    return (8 * (up - down) - (far_up - far_down)) / (12 * STEP)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["rodas5p", "kvaerno5"])
@pytest.mark.parametrize("name", CASES)
def test_gradients_of_rates(name: str, method: str) -> None:
    case = CASES[name]
    logs = torch.tensor(case.rates, dtype=torch.float64).log().requires_grad_()
    expected = by_differences(case, logs.detach())
    assert float(expected.abs().min()) > 1e-6 * float(expected.abs().max())  # every rate matters
    found = torch.autograd.grad(case.loss(logs, 1e-8, method), logs)[0]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
