"""What does ``method="auto"`` cost, against an explicit method and an implicit one?

    python -m benchmarks.switching

Evaluations of f (those of Jacobians included) and errors at the end in units of the tolerance, on problems of DETEST that are
not stiff and on stiff ones. Nothing is timed; the tables are those of docs/stiff.md.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
from tests.stiff_problems import STIFF
from torch import Tensor

import torchivp


class Problem(NamedTuple):
    """On (0, t1); ``end`` is the solution there."""

    f: Callable[[Tensor, Tensor], Tensor]
    y0: Tensor
    t1: float
    atol: Callable[[float], float]
    end: Tensor
    counted: list[int] | slice = slice(None)


def volterra(t: Tensor, y: Tensor) -> Tensor:
    a, b = y.unbind()
    return torch.stack([2 * (a - a * b), -(b - a * b)])


def reaction(t: Tensor, y: Tensor) -> Tensor:
    a, b, c = y.unbind()
    return torch.stack([-a + b, a - 2 * b + c, b - c])


def rigid_body(t: Tensor, y: Tensor) -> Tensor:
    a, b, c = y.unbind()
    return torch.stack([b * c, -a * c, -0.51 * a * b])


def radioactive_chain(t: Tensor, y: Tensor) -> Tensor:
    rates = torch.arange(1, 10, dtype=y.dtype)
    flow = rates * y[:-1]
    nothing = flow.new_zeros(1)
    return torch.cat([nothing, flow]) - torch.cat([flow, nothing])


def orbit(t: Tensor, y: Tensor) -> Tensor:
    q, v = y[:2], y[2:]
    return torch.cat([v, -q / torch.linalg.vector_norm(q) ** 3])


def oscillator(t: Tensor, y: Tensor) -> Tensor:
    a, b = y.unbind()
    return torch.stack([b, (1 - a**2) * b - a])


def eccentric(e: float) -> list[float]:
    return [1 - e, 0.0, 0.0, math.sqrt((1 + e) / (1 - e))]


DETEST = {
    "B1": (volterra, [1.0, 3.0]),
    "B2": (reaction, [2.0, 0.0, 1.0]),
    "B5": (rigid_body, [0.0, 1.0, 1.0]),
    "C2": (radioactive_chain, [1.0, *[0.0] * 9]),
    "D1": (orbit, eccentric(0.1)),
    "D5": (orbit, eccentric(0.9)),
    "E2": (oscillator, [2.0, 0.0]),
}


def problems() -> dict[str, Problem]:
    found = {}
    for name, (f, start) in DETEST.items():
        y0 = torch.tensor(start, dtype=torch.float64)
        end = torchivp.solve(f, y0, (0.0, 20.0), method="vern9", rtol=1e-13, atol=1e-14).y[-1]
        found[name] = Problem(f, y0, 20.0, lambda rtol: rtol, end)
    for name, p in STIFF.items():
        end = torch.tensor(p.y1, dtype=torch.float64)
        found[name] = Problem(p.f, p.start, p.t1, p.atol, end, p.counted or slice(None))
    return found


@torch.no_grad()
def cell(problem: Problem, method: str, rtol: float) -> str:
    """Evaluations and the error, as the table has them."""
    atol = problem.atol(rtol)
    times = (0.0, problem.t1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torchivp.StiffnessWarning)
        sol = torchivp.solve(
            problem.f, problem.y0, times, method=method, rtol=rtol, atol=atol, save="end", max_steps=3_000, throw=False
        )
    if not sol.success:
        return "-"
    error = (sol.y[-1] - problem.end).abs() / (atol + rtol * problem.end.abs())
    switches = f", {sol.stats.switches}" if sol.stats.switches else ""
    return f"{sol.stats.nfe} ({float(error[problem.counted].max()):.2g}{switches})"


def main() -> None:
    methods = ("auto", "tsit5", "vern7", "rodas5p", "kvaerno5")
    print("| | rtol | " + " | ".join(f"`{m}`" for m in methods) + " |\n|---|---|" + "---|" * len(methods))
    for name, problem in problems().items():
        for rtol in (1e-4, 1e-6, 1e-8):
            cells = [cell(problem, method, rtol) for method in methods]
            print(f"| {name} | {rtol:g} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
