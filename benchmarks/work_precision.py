"""Work-precision diagrams: error at the end against evaluations and against time, for non-stiff and stiff problems.

    python -m benchmarks.work_precision [--rounds 3] [--set nonstiff|stiff] [--compiled]

Draws docs/assets/work-precision-*.png and writes benchmarks/results/work_precision-*.json. SciPy evaluates NumPy, torchivp
PyTorch (eager; with ``--compiled`` also in compiled loops where the method has them), diffrax JAX, jitted.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import matplotlib
import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

import torchivp

from .common import RESULTS, ROOT
from .stiff import hires, robertson

matplotlib.use("Agg")
from matplotlib import pyplot as plt

Run = Callable[
    [float], tuple[Any, int | None]
]  # of a relative tolerance: the end, and evaluations where they are counted
MU = 0.012277471


@dataclass(frozen=True)
class Problem:
    """On (0, t1); ``f(y, stack)`` for NumPy, PyTorch and JAX. Small numbers need an ``atol`` of this part of ``rtol``."""

    name: str
    f: Callable[[Any, Callable[..., Any]], Any]
    y0: tuple[float, ...]
    t1: float
    atol: float = 1.0
    first_step: float | None = None  # of diffrax, which finds none that small


@dataclass
class Curve:
    """One solver on one problem, a point for every tolerance."""

    problem: str
    solver: str
    errors: list[float]
    seconds: list[float]
    evaluations: list[int | None]


def arenstorf(y: Any, stack: Callable[..., Any]) -> Any:
    x, z, vx, vz = y
    far, near = ((x + MU) ** 2 + z * z) ** 1.5, ((x - 1 + MU) ** 2 + z * z) ** 1.5
    ax = x + 2 * vz - (1 - MU) * (x + MU) / far - MU * (x - 1 + MU) / near
    return stack((vx, vz, ax, z - 2 * vx - (1 - MU) * z / far - MU * z / near))


def two_bodies(y: Any, stack: Callable[..., Any]) -> Any:
    x, z, vx, vz = y
    cubed = (x * x + z * z) ** 1.5
    return stack((vx, vz, -x / cubed, -z / cubed))


def rigid_body(y: Any, stack: Callable[..., Any]) -> Any:
    a, b, c = y
    return stack((b * c, -a * c, -0.51 * a * b))


def van_der_pol(y: Any, stack: Callable[..., Any]) -> Any:
    a, b = y
    return stack((b, 1000 * (1 - a * a) * b - a))


SETS = {
    "nonstiff": (
        Problem("Arenstorf orbit", arenstorf, (0.994, 0, 0, -2.00158510637908252), 17.0652165601579626),
        Problem("two bodies, e = 0.5 (DETEST D3)", two_bodies, (0.5, 0, 0, math.sqrt(3)), 20),
        Problem("rigid body (DETEST B5)", rigid_body, (0, 1, 1), 20),
    ),
    "stiff": (
        Problem("van der Pol, 1000", van_der_pol, (2, 0), 2000, 1e-3, 1e-6),
        Problem("HIRES", hires, (1, 0, 0, 0, 0, 0, 0, 0.0057), 321.8122, 1e-4, 1e-6),
        Problem("Robertson", robertson, (1, 0, 0), 1e11, 1e-6, 1e-6),
    ),
}
TOLERANCES = {"nonstiff": (1e-4, 1e-6, 1e-8, 1e-10), "stiff": (1e-3, 1e-5, 1e-7)}
OURS = {"nonstiff": ("tsit5", "dopri5", "vern7", "vern9", "dop853"), "stiff": ("rodas5p", "kvaerno5", "radau5")}
SCIPY = {"nonstiff": ("DOP853", "RK45", "LSODA"), "stiff": ("Radau", "BDF", "LSODA")}
DIFFRAX = {"nonstiff": ("Tsit5", "Dopri8"), "stiff": ("Kvaerno5",)}
COMPILED = {"nonstiff": OURS["nonstiff"], "stiff": ("rodas5p",)}


def ours(problem: Problem, method: str, runner: str) -> Run:
    y0 = torch.tensor(problem.y0, dtype=torch.float64)

    def f(t: Tensor, y: Tensor) -> Tensor:
        return problem.f(y.unbind(-1), partial(torch.stack, dim=-1))

    def run(rtol: float) -> tuple[Any, int | None]:
        how: dict[str, Any] = {"method": method, "runner": runner, "save": "end", "max_steps": 10**6}
        with torch.no_grad():
            sol = torchivp.solve(f, y0, (0.0, float(problem.t1)), rtol=rtol, atol=problem.atol * rtol, **how)
        return sol.y[-1], int(sol.stats.nfe)

    return run


def scipy(problem: Problem, method: str) -> Run:
    def run(rtol: float) -> tuple[Any, int | None]:
        how: dict[str, Any] = {"method": method, "rtol": rtol, "atol": problem.atol * rtol}
        sol = solve_ivp(lambda t, y: problem.f(y, np.array), (0, problem.t1), problem.y0, **how)
        return sol.y[:, -1], sol.nfev

    return run


def diffrax(problem: Problem, method: str) -> Run:
    """Evaluations are not counted by it."""
    import diffrax
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    term = diffrax.ODETerm(lambda t, y, _: problem.f(y, jnp.array))
    solver = getattr(diffrax, method)()

    @jax.jit
    def solve(y: Any, rtol: Any) -> Any:
        control = diffrax.PIDController(rtol=rtol, atol=problem.atol * rtol)
        return diffrax.diffeqsolve(
            term, solver, 0.0, float(problem.t1), problem.first_step, y, stepsize_controller=control,
            max_steps=100_000, throw=False,
        ).ys[-1]  # fmt: skip

    y0 = jnp.array(problem.y0, dtype=float)
    return lambda rtol: (jax.block_until_ready(solve(y0, rtol)), None)


def exact(problem: Problem, kind: str) -> np.ndarray:
    how: dict[str, Any] = {
        "method": "Radau" if kind == "stiff" else "DOP853",
        "rtol": 3e-14 if kind != "stiff" else 1e-11,
    }
    sol = solve_ivp(
        lambda t, y: problem.f(y, np.array), (0, problem.t1), problem.y0, atol=how["rtol"] * problem.atol, **how
    )
    return sol.y[:, -1]


def curve(problem: Problem, solver: str, run: Run, end: np.ndarray, kind: str, rounds: int) -> Curve:
    """The error is relative: the norm of the difference over that of the end, number by number where the problem is stiff."""
    found = Curve(problem.name, solver, [], [], [])
    scale = np.abs(end) if kind == "stiff" else np.full_like(end, np.linalg.norm(end) / math.sqrt(len(end)))
    for rtol in TOLERANCES[kind]:
        y, evaluations = run(rtol)
        seconds = []
        for _ in range(rounds):
            start = time.perf_counter()
            run(rtol)
            seconds.append(time.perf_counter() - start)
        off = (np.asarray(y.tolist()) - end) / scale
        found.errors.append(float(np.sqrt(np.mean(off**2))))
        found.seconds.append(min(seconds))
        found.evaluations.append(evaluations)
    return found


def measured(kind: str, rounds: int, compiled: bool) -> list[Curve]:
    found = []
    for problem in SETS[kind]:
        end = exact(problem, kind)
        runs = {m: ours(problem, m, "eager") for m in OURS[kind]}
        runs |= {f"{m}, compiled": ours(problem, m, "compiled") for m in COMPILED[kind] if compiled}
        runs |= {f"SciPy {m}": scipy(problem, m) for m in SCIPY[kind]}
        runs |= {f"diffrax {m}": diffrax(problem, m) for m in DIFFRAX[kind]}
        for name, run in runs.items():
            found.append(curve(problem, name, run, end, kind, rounds))
            print(found[-1], flush=True)
    return found


def draw(kind: str, found: list[Curve]) -> None:
    """A column for every problem: error against evaluations, and against time."""
    figure, axes = plt.subplots(2, len(SETS[kind]), figsize=(15, 8.5), layout="constrained")
    names = list(dict.fromkeys(c.solver for c in found))
    for column, problem in zip(axes.T, SETS[kind]):
        for c in (c for c in found if c.problem == problem.name):
            dash = "--" if c.solver.startswith("SciPy") else ":" if c.solver.startswith("diffrax") else "-"
            style = {"color": f"C{names.index(c.solver) % 10}", "ls": dash, "marker": "o", "ms": 3, "label": c.solver}
            if None not in c.evaluations:
                column[0].loglog(c.evaluations, c.errors, **style)
            column[1].loglog(c.seconds, c.errors, **style)
        column[0].set(title=problem.name, xlabel="evaluations of f")
        column[1].set(xlabel="time, s")
        for ax in column:
            ax.set_ylabel("relative error at the end")
            ax.grid(alpha=0.3)
    figure.legend(*axes[1, 0].get_legend_handles_labels(), loc="outside right upper", fontsize="small")
    figure.savefig(ROOT / "docs" / "assets" / f"work-precision-{kind}.png", dpi=100)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="timed runs of each point; the fastest counts")
    parser.add_argument("--set", choices=SETS, help="both without it")
    parser.add_argument("--compiled", action="store_true", help="also compiled loops")
    given = parser.parse_args()
    for kind in [given.set] if given.set else SETS:
        found = measured(kind, given.rounds, given.compiled)
        draw(kind, found)
        (RESULTS / f"work_precision-{kind}.json").write_text(json.dumps([asdict(c) for c in found], indent=1) + "\n")


if __name__ == "__main__":
    main()
