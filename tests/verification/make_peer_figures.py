"""Solve the reference problems with SciPy and diffrax, and write down their errors and evaluations of ``f``.

Run it in the development environment: ``python tests/verification/make_peer_figures.py``. The figures go to
``data/peer_figures.json`` beside it, with the versions they come from. diffrax compiles each problem for some seconds, so
that the tests read the file; SciPy is fast enough to run within them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import scipy
from scipy.integrate import solve_ivp

sys.path.insert(0, str(Path(__file__).parents[1]))
from problems import NUMPY, Arrays, Reference, references

FILE = Path(__file__).parent / "data" / "peer_figures.json"
TOLERANCES = (1e-4, 1e-6, 1e-8)
JAX = Arrays(jnp.stack, jnp.asarray, jnp.cos, jnp.sin, jnp.sqrt)
PAIRS = {"dopri5": diffrax.Dopri5, "tsit5": diffrax.Tsit5, "dopri8": diffrax.Dopri8}


def first_step(problem: Reference, tol: float, order: int) -> float:
    """Hairer's first step, as diffrax defines it. diffrax 0.7 itself starts with 0.01 whatever the problem: it asks whether its
    terms are an ``ODETerm`` after it has wrapped them. Given here, so that both take the same first step."""
    f, y = problem.make(NUMPY), np.array(problem.y0)
    scale = tol + tol * np.abs(y)

    def norm(x: np.ndarray) -> float:
        return float(np.sqrt(np.mean((x / scale) ** 2)))

    slope = f(problem.t0, y)
    d0, d1 = norm(y), norm(slope)
    h0 = 0.01 * d0 / d1 if d0 >= 1e-5 and d1 >= 1e-5 else 1e-6
    d2 = norm(f(problem.t0 + h0, y + h0 * slope) - slope) / h0
    return min(100 * h0, (0.01 / max(d1, d2)) ** (1 / order))


def by_scipy(problem: Reference, tol: float) -> dict[str, Any]:
    """Dormand and Prince's 5(4) pair with the authors' error weights."""
    span, y0 = (problem.t0, problem.t1), np.array(problem.y0)
    sol = solve_ivp(problem.make(NUMPY), span, y0, method="RK45", rtol=tol, atol=tol)
    return {"error": problem.error(sol.y[:, -1], tol), "nfe": int(sol.nfev)}


class Diffrax:
    """One problem and pair, compiled once for all tolerances."""

    def __init__(self, problem: Reference, pair: type[diffrax.AbstractSolver]):
        self.problem = problem
        self.solver = pair()
        slope = problem.make(JAX)
        term = diffrax.ODETerm(lambda t, y, args: slope(t, y))

        def solve(tol: jax.Array, dt: jax.Array) -> diffrax.Solution:
            return diffrax.diffeqsolve(
                term,
                self.solver,
                problem.t0,
                problem.t1,
                dt,
                jnp.array(problem.y0),
                stepsize_controller=diffrax.PIDController(rtol=tol, atol=tol),
                max_steps=None,
            )

        self.solve = jax.jit(solve)

    def __call__(self, tol: float, dt: float) -> dict[str, Any]:
        """All pairs here are FSAL: an attempted step costs one evaluation less than it has stages; the slope at the start
        and the probe of the first step are two more."""
        sol = self.solve(jnp.array(tol), jnp.array(dt))
        nfe = int(sol.stats["num_steps"]) * (len(self.solver.tableau.b_sol) - 1) + 2
        return {"error": self.problem.error(sol.ys[-1], tol), "nfe": nfe}


def rounded(figures: dict[str, Any]) -> dict[str, Any]:
    return {"error": float(f"{figures['error']:.4g}"), "nfe": figures["nfe"]}


def main() -> None:
    jax.config.update("jax_enable_x64", True)
    rows = []
    for name, problem in references().items():
        peers = {"scipy RK45": lambda tol, problem=problem: by_scipy(problem, tol)}
        for method, pair in PAIRS.items():
            order = pair().order(None)
            solve = Diffrax(problem, pair)
            peers[f"diffrax {method}"] = lambda tol, s=solve, p=problem, o=order: s(tol, first_step(p, tol, o))
            peers[f"diffrax {method}, first step 0.01"] = lambda tol, s=solve: s(tol, 0.01)
        for peer, run in peers.items():
            rows += [{"problem": name, "peer": peer, "tol": tol, **rounded(run(tol))} for tol in TOLERANCES]
        print(name, flush=True)
    versions = {"scipy": scipy.__version__, "diffrax": diffrax.__version__, "jax": jax.__version__}
    lines = ",\n  ".join(json.dumps(row) for row in rows)
    FILE.write_text(f'{{"versions": {json.dumps(versions)},\n "figures": [\n  {lines}\n ]}}\n')


if __name__ == "__main__":
    main()
