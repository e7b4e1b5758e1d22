"""What are the stiff solvers worth? Robertson's problem and HIRES compiled, a thousand Robertson problems, and a
reaction-diffusion equation with a band, side by side with SciPy and diffrax.

    python -m benchmarks.stiff [--rounds 7]
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

import torchivp

from .common import Bar, Report, Row, Table, largest_error, main, timed

OURS, DIFFRAX = "torchivp, rodas5p, compiled", "diffrax Kvaerno5, jitted"
AS_EXACT = "diffrax Kvaerno5, as exact as rodas5p"
RADAU, BDF = "SciPy Radau", "SciPy BDF"
RATES = (0.04, 1e4, 3e7)
CELLS, MANY, SAMPLE = 1_000, 1_000, 10
RTOLS = [10 ** (-k / 4) for k in range(12, 41)]  # among these diffrax finds the one at which it is as exact


def robertson(y: Any, stack: Callable[..., Any], k: Any = RATES) -> Any:
    a, b, c = y
    r1, r2, r3 = k[0] * a, k[1] * b * c, k[2] * b * b
    return stack((r2 - r1, r1 - r2 - r3, r3))


def hires(y: Any, stack: Callable[..., Any]) -> Any:
    y1, y2, y3, y4, y5, y6, y7, y8 = y
    r = 280 * y6 * y8
    return stack(
        (
            -1.71 * y1 + 0.43 * y2 + 8.32 * y3 + 0.0007,
            1.71 * y1 - 8.75 * y2,
            -10.03 * y3 + 0.43 * y4 + 0.035 * y5,
            8.32 * y2 + 1.71 * y3 - 1.12 * y4,
            -1.745 * y5 + 0.43 * (y6 + y7),
            -r + 0.69 * y4 + 1.71 * y5 - 0.43 * y6 + 0.69 * y7,
            r - 1.81 * y7,
            -r + 1.81 * y7,
        )
    )


PROBLEMS: dict[str, tuple[Callable[..., Any], list[float], float, float]] = {
    "Robertson to 1e11": (robertson, [1.0, 0.0, 0.0], 1e11, 1e-12),
    "HIRES to 321.8122": (hires, [1.0, 0, 0, 0, 0, 0, 0, 0.0057], 321.8122, 1e-10),
}


def of_one(title: str, rounds: int) -> Table:
    """One problem at rtol 1e-6; errors against SciPy's Radau at 1e-12."""
    f, start, end, atol = PROBLEMS[title]
    y0 = torch.tensor(start, dtype=torch.float64)
    tight = solve_ivp(lambda t, y: f(y, np.array), (0, end), start, method="Radau", rtol=1e-12, atol=atol * 1e-4)
    exact = torch.from_numpy(tight.y[:, -1])

    def ours() -> Tensor:
        f_of_ours = {"Robertson to 1e11": in_columns_robertson, "HIRES to 321.8122": in_columns_hires}[title]
        how = {"method": "rodas5p", "save": "end", "rtol": 1e-6, "atol": atol}
        with torch.no_grad():
            return torchivp.solve(f_of_ours, y0, (0.0, end), runner="compiled", **how).y[-1]

    def scipy(method: str) -> Callable[[], Any]:
        return lambda: solve_ivp(
            lambda t, y: f(y, np.array), (0, end), start, method=method, rtol=1e-6, atol=atol
        ).y[:, -1]  # fmt: skip

    def error(y: Any) -> float:
        return largest_error(torch.tensor(y.tolist(), dtype=torch.float64), exact)

    at_rtol, wanted = in_jax(f, start, end), error(ours())
    loosest = [r for r in RTOLS if error(at_rtol(r, atol * r / 1e-6)) <= wanted]
    as_exact = max(loosest, default=RTOLS[-1])
    ways = {
        OURS: ours,
        RADAU: scipy("Radau"),
        BDF: scipy("BDF"),
        DIFFRAX: lambda: at_rtol(1e-6, atol),
        AS_EXACT: lambda: at_rtol(as_exact, atol * as_exact / 1e-6),
    }
    table = measured(title, ways, lambda y: {"error": error(y)}, rounds)
    table.row(AS_EXACT).note = f"rtol {as_exact:.0e}: the loosest as exact"
    return table


def in_columns_robertson(t: Tensor, y: Tensor) -> Tensor:
    a, b, c = y.unbind(-1)
    r1, r2, r3 = RATES[0] * a, RATES[1] * b * c, RATES[2] * b * b
    return torch.stack((r2 - r1, r1 - r2 - r3, r3), -1)


def in_columns_hires(t: Tensor, y: Tensor) -> Tensor:
    return hires(y.unbind(-1), lambda parts: torch.stack(parts, -1))


def in_jax(f: Callable[..., Any], start: list[float], end: float) -> Callable[[float, float], Any]:
    """``solve(rtol, atol)``, compiled once."""
    import diffrax
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)

    def solve(y: Any, rtol: Any, atol: Any) -> Any:
        control = diffrax.PIDController(rtol=rtol, atol=atol)
        return diffrax.diffeqsolve(
            diffrax.ODETerm(lambda t, y, _: f(y, jnp.array)), diffrax.Kvaerno5(), 0.0, end, 1e-6, y,
            stepsize_controller=control, max_steps=100_000,
        ).ys[-1]  # fmt: skip

    jitted, y0 = jax.jit(solve), jnp.array(start)
    return lambda rtol, atol: jax.block_until_ready(jitted(y0, rtol, atol))


def measured(title: str, ways: dict[str, Any], errors: Callable[[Any], dict[str, float]], rounds: int) -> Table:
    rows: list[Row] = []
    for name, run in ways.items():
        first = time.perf_counter()
        outcome = run()
        first, again = time.perf_counter() - first, time.perf_counter()
        run()
        rows.append(Row(name, ours=name.startswith("torchivp"), **errors(outcome)))
        if name in (OURS, DIFFRAX):
            rows[-1].compile_seconds = first - (time.perf_counter() - again)
    timed(rows, ways, rounds)
    return Table(title, rows)


def of_many(rounds: int) -> Table:
    """A thousand Robertson problems with rates of their own, to 1e5; SciPy solves a few of them, and its time is scaled."""
    factors = torch.exp(0.2 * torch.randn(MANY, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    k = factors * torch.tensor(RATES, dtype=torch.float64)
    y0 = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64).expand(MANY, 3).contiguous()

    def f(t: Tensor, y: Tensor, k: Tensor) -> Tensor:
        return robertson(y.unbind(-1), lambda parts: torch.stack(parts, -1), k.unbind(-1))

    def ours() -> Tensor:
        how = {"method": "rodas5p", "save": "end", "rtol": 1e-6, "atol": 1e-12, "batch_dims": 1}
        with torch.no_grad():
            return torchivp.solve(f, y0, (0.0, 1e5), k, runner="compiled", **how).y[:, -1]

    def scipy() -> Tensor:
        ends = [
            solve_ivp(
                lambda t, y, k: robertson(y, np.array, k), (0, 1e5), [1.0, 0, 0], method="BDF", rtol=1e-6, atol=1e-12,
                args=(row,),
            ).y[:, -1]
            for row in k[:SAMPLE].tolist()
        ]  # fmt: skip
        return torch.tensor(np.array(ends))

    exact = torch.tensor(
        np.array(
            [
                solve_ivp(
                    lambda t, y, k: robertson(y, np.array, k), (0, 1e5), [1.0, 0, 0], method="Radau", rtol=1e-11,
                    atol=1e-16, args=(row,),
                ).y[:, -1]
                for row in k[:SAMPLE].tolist()
            ]
        )
    )  # fmt: skip
    ways = {OURS: ours, BDF: scipy}
    table = measured(
        f"{MANY:,} Robertson problems", ways, lambda y: {"error": largest_error(y[:SAMPLE], exact)}, rounds
    )
    row = table.row(BDF)
    row.seconds = [s * MANY / SAMPLE for s in row.seconds]
    row.cpu_seconds = [s * MANY / SAMPLE for s in row.cpu_seconds]
    row.note = f"{SAMPLE} problems, scaled"
    return table


def of_band(rounds: int) -> Table:
    """Fisher's equation u_t = u_xx / 400 + u (1 - u) on 1,000 cells, to 4; both solvers know that the Jacobian is tridiagonal."""
    dx = 1.0 / CELLS
    x = torch.linspace(0, 1, CELLS, dtype=torch.float64)
    u0 = torch.exp(-100 * x * x)
    factor = 1 / (400 * dx * dx)

    def f(t: Tensor, u: Tensor) -> Tensor:
        flow = torch.nn.functional.pad(torch.diff(u), (1, 1))
        return factor * torch.diff(flow) + u * (1 - u)

    def f_numpy(t: float, u: np.ndarray) -> np.ndarray:
        return factor * np.diff(np.pad(np.diff(u), 1)) + u * (1 - u)

    from scipy.sparse import diags

    pattern = diags([np.ones(CELLS - 1), np.ones(CELLS), np.ones(CELLS - 1)], [-1, 0, 1])
    exact = torch.from_numpy(
        solve_ivp(f_numpy, (0, 4), u0.numpy(), method="Radau", rtol=1e-10, atol=1e-12, jac_sparsity=pattern).y[:, -1]
    )
    how = {"rtol": 1e-6, "atol": 1e-8, "save": "end", "jac_sparsity": (1, 1)}

    def ours(method: str, runner: str) -> Callable[[], Tensor]:
        def run() -> Tensor:
            with torch.no_grad():
                return torchivp.solve(f, u0, (0.0, 4.0), method=method, runner=runner, **how).y[-1]

        return run

    def scipy() -> Tensor:
        return torch.from_numpy(
            solve_ivp(f_numpy, (0, 4), u0.numpy(), method="BDF", rtol=1e-6, atol=1e-8, jac_sparsity=pattern).y[:, -1]
        )

    ways = {OURS: ours("rodas5p", "compiled"), "torchivp, rodas5p": ours("rodas5p", "eager"), BDF: scipy}
    return measured("Fisher's equation, 1,000 cells", ways, lambda y: {"error": largest_error(y, exact)}, rounds)


def run(rounds: int) -> Report:
    one = {title: of_one(title, rounds) for title in PROBLEMS}
    many, band = of_many(min(rounds, 3)), of_band(min(rounds, 5))
    bars = []
    for title, table in one.items():
        bars += [
            Bar(f"{title} (x faster than {peer})", table.ratio(peer, OURS), least)
            for peer, least in ((RADAU, 3), (BDF, 3), (AS_EXACT, 1))
        ]
    bars.append(Bar(f"{MANY:,} Robertson problems (x faster than a loop of SciPy)", many.ratio(BDF, OURS), 20))
    best = max(band.ratio(BDF, row.name) for row in band.rows if row.ours)
    bars.append(Bar("Fisher's equation, banded (x faster than SciPy BDF)", best, 1))
    return Report("stiff", QUESTION, [*one.values(), many, band], bars)


QUESTION = """\
Stiff problems in float64 at rtol 1e-6, one thread. Compile times stand beside, never inside; errors are against Radau at tight
tolerances. `f` of SciPy is NumPy, that of diffrax JAX."""


if __name__ == "__main__":
    main(run)
