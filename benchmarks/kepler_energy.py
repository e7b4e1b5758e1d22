"""The energy of a Kepler orbit (e = 0.6) over 1,000 periods: symplectic methods beside dopri5, at the same cost.

    python -m benchmarks.kepler_energy [--periods 1000]

Draws docs/assets/kepler-energy.png, and writes what it measured to benchmarks/results/kepler_energy.json.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from typing import Any

import matplotlib
import torch
from torch import Tensor

import torchivp

from .common import RESULTS, ROOT

matplotlib.use("Agg")
from matplotlib import pyplot as plt

ECCENTRICITY, EVALUATIONS = 0.6, 400  # of the acceleration, in a period
STAGES = {"leapfrog": 1, "yoshida4": 3, "mclachlan4": 5, "yoshida6": 7}
ADAPTIVE = {"rtol": 1e-7, "atol": 1e-9}  # about as many evaluations
AT_ONCE = 25  # periods solved before their states are dropped


def attraction(t: Tensor, x: Tensor) -> Tensor:
    return -x / torch.linalg.vector_norm(x) ** 3


def energy(x: Tensor, v: Tensor) -> Tensor:
    return (v * v).sum(-1) / 2 - 1 / torch.linalg.vector_norm(x, dim=-1)


def errors(method: str, periods: int) -> dict[str, Any]:
    """The largest relative error of the energy in every period, after all steps."""
    x = torch.tensor([1 - ECCENTRICITY, 0.0], dtype=torch.float64)
    v = torch.tensor([0.0, math.sqrt((1 + ECCENTRICITY) / (1 - ECCENTRICITY))], dtype=torch.float64)
    first, f = energy(x, v), torchivp.SecondOrder(attraction)
    how = ADAPTIVE if method not in STAGES else {"dt": 2 * math.pi / (EVALUATIONS // STAGES[method])}
    largest, evaluations, began, sol = [], 0, time.perf_counter(), None
    for part in range(0, periods, AT_ONCE):
        times = torch.arange(part, part + AT_ONCE + 1, dtype=torch.float64) * 2 * math.pi
        start = {"y0": (x, v)} if sol is None else {"y0": None, "start": sol}
        t = times if sol is None else times[1:]
        with torch.no_grad():
            sol = torchivp.solve(f, t=t, method=method, save="steps", max_steps=10**6, **start, **how)
        off = ((energy(*sol.y) - first) / first).abs()
        period = torch.bucketize(sol.t, times[1:-1] + 1e-6)
        largest += [float(off[period == n].max()) for n in range(AT_ONCE)]
        evaluations += sol.stats.nfe
    return {
        "method": method, "largest": largest, "evaluations_a_period": evaluations / periods,
        "first_ten": max(largest[:10]), "last_ten": max(largest[-10:]), "seconds": time.perf_counter() - began,
    }  # fmt: skip


def draw(found: list[dict[str, Any]]) -> None:
    figure, axes = plt.subplots(figsize=(7.5, 4.5), layout="constrained")
    for entry in found:
        style = {"color": "k", "lw": 2} if entry["method"] not in STAGES else {"lw": 1}
        axes.loglog(range(1, len(entry["largest"]) + 1), entry["largest"], label=entry["method"], **style)
    axes.set(
        xlabel="period",
        ylabel="largest relative error of the energy in it",
        title=f"Kepler orbit, e = {ECCENTRICITY}, about {EVALUATIONS} evaluations of the acceleration in a period",
    )
    axes.grid(alpha=0.3)
    axes.legend(ncol=2)
    figure.savefig(ROOT / "docs" / "assets" / "kepler-energy.png", dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--periods", type=int, default=1000, help=f"a multiple of {AT_ONCE}; default 1000")
    periods = parser.parse_args().periods
    torch.set_num_threads(1)
    found = []
    for method in (*STAGES, "dopri5"):
        entry = errors(method, periods)
        found.append(entry)
        print(
            f"{method:>10}: {entry['evaluations_a_period']:6.1f} evaluations a period; largest error of the energy in the first "
            f"ten periods {entry['first_ten']:.2e}, in the last ten {entry['last_ten']:.2e}; {entry['seconds']:.0f} s",
            flush=True,
        )
    draw(found)
    (RESULTS / "kepler_energy.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
