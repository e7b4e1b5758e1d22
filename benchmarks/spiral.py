"""How fast is an eager solve of a small system? The cubic spiral, without gradients.

    python -m benchmarks.spiral [--rounds 7]

dy/dt = y^3 A, |y(0)| = 2, on [0, 25], float32, rtol 1e-7, atol 1e-9, dopri5, at 1000 output times and at 2. At this tolerance
the rounding of float32 decides, and the error of a single run is luck (0.3 to 30 times the peer's): errors are over twelve
starts on the circle.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
import torchdiffeq
from torch import Tensor

import torchivp

from .common import Bar, Counted, Report, Row, Table, error_bar, largest_error, main, timed

A = torch.tensor([[-0.1, 2.0], [-2.0, -0.1]])
Y0 = torch.tensor([[2.0, 0.0]])
STARTS = [torch.tensor([[2 * math.cos(k / 2), 2 * math.sin(k / 2)]]) for k in range(12)]
END, RTOL, ATOL = 25.0, 1e-7, 1e-9
PEER, OURS, OURS_SOLVE = "torchdiffeq.odeint", "torchivp.odeint", "torchivp.solve(method='dopri5')"
OURS_DEFAULT, DIFFRAX = "torchivp.solve (tsit5)", "diffrax, jitted"
Solver = Callable[[Callable[..., Tensor], Tensor, Tensor], Any]


def spiral(t: Tensor, y: Tensor) -> Tensor:
    return (y**3) @ A


def with_torchdiffeq(f: Callable[..., Tensor], y0: Tensor, t: Tensor) -> Tensor:
    return torchdiffeq.odeint(f, y0, t, method="dopri5", rtol=RTOL, atol=ATOL)


def with_odeint(f: Callable[..., Tensor], y0: Tensor, t: Tensor) -> Tensor:
    return torchivp.odeint(f, y0, t, method="dopri5", rtol=RTOL, atol=ATOL)


def with_solve(f: Callable[..., Tensor], y0: Tensor, t: Tensor) -> Tensor:
    return torchivp.solve(f, y0, t, method="dopri5", rtol=RTOL, atol=ATOL).y


def with_default(f: Callable[..., Tensor], y0: Tensor, t: Tensor) -> Tensor:
    return torchivp.solve(f, y0, t, rtol=RTOL, atol=ATOL).y


def with_torchode(f: Callable[..., Tensor], y0: Tensor, t: Tensor) -> Tensor:
    import torchode

    term = torchode.ODETerm(f)
    control = torchode.IntegralController(atol=ATOL, rtol=RTOL, term=term)
    solver = torchode.AutoDiffAdjoint(torchode.Dopri5(term=term), control)
    return solver.solve(torchode.InitialValueProblem(y0=y0, t_eval=t[None])).ys[0]


TORCH: dict[str, Solver] = {
    PEER: with_torchdiffeq,
    OURS: with_odeint,
    OURS_SOLVE: with_solve,
    OURS_DEFAULT: with_default,
    "torchode": with_torchode,
}


def with_diffrax(t: Tensor) -> tuple[Callable[[Tensor], Any], float, int]:
    """The compiled solve from any start, the seconds its compilation took, and its evaluations."""
    import diffrax
    import jax
    import jax.numpy as jnp

    def solve(y0: Any, a: Any) -> Any:
        return diffrax.diffeqsolve(
            diffrax.ODETerm(lambda t, y, a: (y**3) @ a), diffrax.Dopri5(), 0.0, END, None, y0, a,
            saveat=diffrax.SaveAt(ts=jnp.asarray(t.numpy())), max_steps=4096,
            stepsize_controller=diffrax.PIDController(rtol=RTOL, atol=ATOL),
        )  # fmt: skip

    y0, a = jnp.asarray(Y0.numpy()), jnp.asarray(A.numpy())
    steps = int(solve(y0, a).stats["num_steps"])
    start = time.perf_counter()
    compiled = jax.jit(lambda y0, a: solve(y0, a).ys).lower(y0, a).compile()
    seconds = time.perf_counter() - start
    return lambda start: compiled(jnp.asarray(start.numpy()), a).block_until_ready(), seconds, 6 * steps + 2


def error(values_from: Callable[[Tensor], Any], references: list[Tensor]) -> float:
    """Root mean square, over the starts, of the largest error."""
    errors = [largest_error(values_from(y0), reference) for y0, reference in zip(STARTS, references)]
    return math.sqrt(sum(e * e for e in errors) / len(errors))


def compare(outputs: int, rounds: int) -> Table:
    t = torch.linspace(0, END, outputs)
    tight = {"method": "dopri5", "rtol": 1e-12, "atol": 1e-12}
    references = [
        torchdiffeq.odeint(lambda t, y: (y**3) @ A.double(), y0.double(), t.double(), **tight) for y0 in STARTS
    ]
    rows, contenders = [], {}
    for name, solver in TORCH.items():
        f = Counted(spiral)
        solver(f, Y0, t)
        row = Row(name, ours=name.startswith("torchivp"), evaluations=f.calls)
        row.error = error(lambda y0, solver=solver: solver(spiral, y0, t), references)
        rows.append(row)
        contenders[name] = lambda solver=solver: solver(spiral, Y0, t)
    run, compile_seconds, evaluations = with_diffrax(t)
    rows.append(Row(DIFFRAX, ours=False, evaluations=evaluations, compile_seconds=compile_seconds))
    rows[-1].error = error(lambda y0: run(y0).tolist(), references)
    contenders[DIFFRAX] = lambda: run(Y0)
    timed(rows, contenders, rounds)
    return Table(f"{outputs} outputs", rows)


@torch.no_grad()
def run(rounds: int) -> Report:
    many, two = compare(1000, rounds), compare(2, rounds)
    bars = [
        Bar("torchivp.odeint, 1000 outputs (x faster than torchdiffeq)", many.ratio(PEER, OURS), 4),
        Bar("torchivp.solve, 1000 outputs (x faster than torchdiffeq)", many.ratio(PEER, OURS_SOLVE), 4),
    ]
    for table in (many, two):
        bars += [
            error_bar(f"{name}, {table.title}", table.row(name).error, table.row(PEER).error)
            for name in (OURS, OURS_SOLVE)
        ]
    question = (
        "The cubic spiral dy/dt = y^3 A on [0, 25], without gradients: float32, rtol 1e-7, atol 1e-9, dopri5. The error is the "
        "largest at the outputs, against torchdiffeq's dopri5 at 1e-12 in float64; root mean square over twelve starts, because "
        "at this tolerance the error of one run in float32 is luck."
    )
    return Report("spiral", question, [many, two], bars)


if __name__ == "__main__":
    main(run)
