"""A planet on a long orbit, as a second-order equation: mclachlan4 keeps its energy, dopri5 at the same cost loses it.

python examples/kepler.py --output-dir examples-output
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from picture import plt, read_output_dir, save
from torch import Tensor

import torchivp

PERIODS, ECCENTRICITY = 20, 0.6


def attraction(t: Tensor, x: Tensor) -> Tensor:
    """The acceleration towards the sun, which is all one has to write."""
    return -x / torch.linalg.vector_norm(x) ** 3


def energy(x: Tensor, v: Tensor) -> Tensor:
    return (v * v).sum(-1) / 2 - 1 / torch.linalg.vector_norm(x, dim=-1)


def orbit(**how: Any) -> tuple[Tensor, Tensor, Tensor, int]:
    """Periods, positions, relative errors of the energy, and evaluations."""
    x = torch.tensor([1 - ECCENTRICITY, 0.0], dtype=torch.float64)
    v = torch.tensor([0.0, math.sqrt((1 + ECCENTRICITY) / (1 - ECCENTRICITY))], dtype=torch.float64)
    sol = torchivp.solve(torchivp.SecondOrder(attraction), (x, v), 2 * math.pi * PERIODS, save="steps", **how)
    energies = energy(*sol.y)
    return sol.t / (2 * math.pi), sol.y[0], (energies / energies[0] - 1).abs(), sol.stats.nfe


def run(output_dir: Path) -> tuple[Path, dict[str, float]]:
    """Solves, draws, and returns the picture's path and the error of the energy in the last period of each method."""
    solved = {
        "mclachlan4": orbit(method="mclachlan4", dt=2 * math.pi / 30),
        "dopri5": orbit(method="dopri5", rtol=1e-4, atol=1e-6),
    }
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
    for name, (t, x, error, evaluations) in solved.items():
        left.plot(x[:, 0], x[:, 1], lw=0.7, label=name)
        right.semilogy(t[1:], error[1:], lw=0.7, label=f"{name}, {evaluations} evaluations")
    left.plot(0, 0, "o", color="gold", ms=10)
    left.set(title=f"{PERIODS} periods, e = {ECCENTRICITY}", aspect="equal")
    right.set_ylim(bottom=1e-6)
    right.set(title="relative error of the energy", xlabel="period")
    for axes in (left, right):
        axes.legend(loc="lower right")
        axes.grid(alpha=0.3)
    last = {name: float(error[t > PERIODS - 1].max()) for name, (t, _, error, _) in solved.items()}
    return save(figure, output_dir / "kepler.png"), last


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    path, last = run(read_output_dir(arguments, __doc__))
    errors = ", ".join(f"{name} {error:.1e}" for name, error in last.items())
    print(f"Energy in period {PERIODS}, relative error: {errors}. Wrote {path}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
