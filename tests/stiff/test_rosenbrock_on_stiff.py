"""Rosenbrock methods on stiff problems with published solutions, their invariants, and rows of such problems."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import torchivp
from stiff_problems import STIFF, Stiff
from torchivp import Solution

METHODS = ("rosenbrock23", "rodas4", "rodas5p")
QUICK = {
    *((m, 1e-4) for m in METHODS),
    ("rodas5p", 1e-6),
}  # and what has no fast phases; the others take some seconds each
CASES = [
    pytest.param(
        problem, method, rtol, id=f"{name}-{method}-{rtol:g}",
        marks=[] if (method, rtol) in QUICK and not (name.startswith("van") and method != "rodas4") else pytest.mark.slow,
    )
    for name, problem in STIFF.items()
    for rtol in (1e-4, 1e-6, 1e-8)
    for method in METHODS
]  # fmt: skip


def solved(problem: Stiff, method: str, rtol: float, **more: Any) -> Solution:
    with torch.no_grad():
        return torchivp.solve(
            problem.f,
            problem.start,
            (0.0, float(problem.t1)),
            method=method,
            rtol=rtol,
            atol=problem.atol(rtol),
            **more,
        )


@pytest.mark.parametrize(("problem", "method", "rtol"), CASES)
def test_errors_at_the_end(problem: Stiff, method: str, rtol: float) -> None:
    sol = solved(problem, method, rtol, save="end")
    assert problem.error(sol.y[-1], rtol) < 100
    assert sol.stats.nlu == sol.stats.attempted
    assert sol.stats.njev == sol.stats.accepted


@pytest.mark.parametrize("method", METHODS)
def test_the_sum_of_robertsons_concentrations(method: str) -> None:
    """Rosenbrock methods keep linear invariants."""
    sol = solved(STIFF["Robertson"], method, 1e-4, save="steps")
    assert float((sol.y.sum(1) - 1).abs().max()) < 1e-12
    assert float(sol.y.min()) > -1e-10


@pytest.mark.parametrize("method", ["rodas4", "rodas5p"])
def test_rows_go_their_own_ways(method: str) -> None:
    """Van der Pol's equation from two starts, with another stiffness each, alone and together."""

    def f(t: Tensor, y: Tensor, mu: Tensor) -> Tensor:
        a, b = y.unbind(-1)
        return torch.stack([b, mu * ((1 - a**2) * b - a)], -1)

    y0 = torch.tensor([[2.0, 0.0], [1.5, -1.0]], dtype=torch.float64)
    mu = torch.tensor([10.0, 1e3], dtype=torch.float64)
    kw: dict[str, Any] = {"method": method, "rtol": 1e-6, "atol": 1e-8}
    with torch.no_grad():
        together = torchivp.solve(f, y0, (0.0, 0.3), args=mu, batch_dims=1, save="end", **kw)
        for b in range(2):
            alone = torchivp.solve(f, y0[b], (0.0, 0.3), args=mu[b], **kw)
            torch.testing.assert_close(together.y[b, -1], alone.y[-1], rtol=1e-9, atol=1e-9)
            assert int(together.stats.accepted[b]) == alone.stats.accepted


def test_the_gradient_of_a_stiff_solve() -> None:
    """By the rate that Robertson's slow reaction has: exact for the computed solution, near to that of a finer one."""

    def f(t: Tensor, y: Tensor, rate: Tensor) -> Tensor:
        a, b, c = y.unbind(-1)
        slow, middle, fast = rate * a, 1e4 * b * c, 3e7 * b * b
        return torch.stack([middle - slow, slow - middle - fast, fast], -1)

    def at_end(rate: Tensor, method: str, rtol: float, **more: Any) -> Tensor:
        y0 = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
        kw: dict[str, Any] = {"method": method, "rtol": rtol, "atol": 1e-6 * rtol}
        return torchivp.solve(f, y0, (0.0, 4.0), args=rate, **kw, **more).y[-1, 0]

    rate = torch.tensor(0.04, dtype=torch.float64, requires_grad=True)
    found = {
        gradient: torch.autograd.grad(at_end(rate, "rodas5p", 1e-6, gradient=gradient), rate)[0]
        for gradient in ("direct", "discrete", "interpolated", "gauss")
    }
    torch.testing.assert_close(found["discrete"], found["direct"], rtol=1e-9, atol=0)
    size = 1e-5
    with torch.no_grad():
        ends = [at_end(rate + s * size, "rodas5p", 1e-9) for s in (1, -1)]
    for gradient in found.values():
        torch.testing.assert_close(gradient, (ends[0] - ends[1]) / (2 * size), rtol=1e-4, atol=0)
