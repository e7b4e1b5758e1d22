"""What is a compiled solve worth? ``runner="compiled"`` on five works, side by side with the peers, eager and compiled.

    python -m benchmarks.compiled [--rounds 7]

The cubic spiral (values, end, gradient), a small network and the article's ODENet (forward and backward), Lorenz ensembles (end
states and their gradient). Compile times stand beside, never inside.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
import torchdiffeq
from torch import Tensor, nn

import torchivp

from . import per_sample, spiral, training
from .common import Bar, Report, Row, Table, largest_error, main, timed

OURS, EAGER = "torchivp.solve(runner='compiled')", "torchivp.solve"
TORCHDIFFEQ, TORCHODE, DIFFRAX = "torchdiffeq.odeint", "torchode", "diffrax, jitted"


def contender(
    rows: list[Row],
    contenders: dict[str, Any],
    name: str,
    run: Callable[[], Any],
    errors: Callable[[Any], dict[str, float]],
) -> None:
    """Add one; what its first call takes longer than the second is its compilation.

    Args:
        errors: of what ``run`` gives, for the row.
    """
    start = time.perf_counter()
    outcome = run()
    first = time.perf_counter() - start
    start = time.perf_counter()
    run()
    rows.append(Row(name, ours=name.startswith("torchivp"), **errors(outcome)))
    if name in (OURS, DIFFRAX):
        rows[-1].compile_seconds = first - (time.perf_counter() - start)
    contenders[name] = run


@torch.no_grad()
def of_spiral(outputs: int, rounds: int) -> Table:
    """Values at many times, or at the end alone."""
    t = torch.linspace(0, spiral.END, outputs)
    how = {"method": "dopri5", "rtol": spiral.RTOL, "atol": spiral.ATOL}
    exact = torchdiffeq.odeint(
        lambda t, y: (y**3) @ spiral.A.double(), spiral.Y0.double(), t.double(), method="dopri5", rtol=1e-12, atol=1e-12
    )
    ways: dict[str, Callable[[], Any]] = {
        OURS: lambda: torchivp.solve(spiral.spiral, spiral.Y0, t, runner="compiled", **how).y,
        EAGER: lambda: torchivp.solve(spiral.spiral, spiral.Y0, t, **how).y,
        TORCHDIFFEQ: lambda: spiral.with_torchdiffeq(spiral.spiral, spiral.Y0, t),
    }
    run, _, _ = spiral.with_diffrax(t)
    ways[DIFFRAX] = lambda: run(spiral.Y0)
    rows: list[Row] = []
    contenders: dict[str, Any] = {}
    for name, way in ways.items():
        contender(rows, contenders, name, way, lambda y: {"error": largest_error(torch.tensor(y.tolist()), exact)})
    timed(rows, contenders, rounds)
    return Table(f"spiral, {outputs} outputs" if outputs > 2 else "spiral, the end", rows)


def of_spiral_gradient(rounds: int) -> Table:
    """Of the mean square of 1,000 outputs, by the matrix and the start."""
    t = torch.linspace(0, spiral.END, 1000)
    how = {"method": "dopri5", "rtol": spiral.RTOL, "atol": spiral.ATOL}
    a, y0 = spiral.A.clone().requires_grad_(), spiral.Y0.clone().requires_grad_()

    def f(t: Tensor, y: Tensor) -> Tensor:
        return (y**3) @ a

    def gradient(solve: Callable[[], Tensor]) -> Callable[[], Tensor]:
        def run() -> Tensor:
            a.grad = y0.grad = None
            (solve() ** 2).mean().backward()
            return torch.cat([a.grad.flatten(), y0.grad.flatten()])

        return run

    ways: dict[str, Callable[[], Any]] = {
        OURS: gradient(lambda: torchivp.solve(f, y0, t, runner="compiled", **how).y),
        EAGER: gradient(lambda: torchivp.solve(f, y0, t, **how).y),
        TORCHDIFFEQ: gradient(lambda: torchdiffeq.odeint(f, y0, t, **how)),
        DIFFRAX: spiral_gradient_in_jax(t),
    }
    exact = ways[EAGER]().double()

    def off(g: Any) -> dict[str, float]:
        return {"gradient_error": largest_error(torch.tensor(g.tolist()), exact) / float(exact.abs().max())}

    rows: list[Row] = []
    contenders: dict[str, Any] = {}
    for name, way in ways.items():
        contender(rows, contenders, name, way, off)
    timed(rows, contenders, min(rounds, 7))
    return Table("spiral, the gradient of 1000 outputs", rows)


def spiral_gradient_in_jax(t: Tensor) -> Callable[[], Any]:
    import diffrax
    import jax
    import jax.numpy as jnp

    def loss(a: Any, y0: Any) -> Any:
        ys = diffrax.diffeqsolve(
            diffrax.ODETerm(lambda t, y, a: (y**3) @ a), diffrax.Dopri5(), 0.0, spiral.END, None, y0, a,
            saveat=diffrax.SaveAt(ts=jnp.asarray(t.numpy())), max_steps=4096,
            stepsize_controller=diffrax.PIDController(rtol=spiral.RTOL, atol=spiral.ATOL),
        ).ys  # fmt: skip
        return (ys**2).mean()

    given = jnp.asarray(spiral.A.numpy()), jnp.asarray(spiral.Y0.numpy())
    jitted = jax.jit(jax.grad(loss, argnums=(0, 1)))
    return lambda: jnp.concatenate([g.ravel() for g in jax.block_until_ready(jitted(*given))])


class Layers(nn.Module):
    """The layers of a network, as an ODE function."""

    def __init__(self, layers: nn.Module):
        super().__init__()
        self.layers = layers

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.layers(y)


def of_network(case: training.Case, threads: int, rounds: int) -> Table:
    """Forward and backward through one of the networks of the training benchmark."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    end, gradient = training.reference(case)
    size = float(gradient.abs().max())
    f = Layers(case.f.layers)

    def off(values: Tensor) -> dict[str, float]:
        gradient_error = largest_error(training.gradient_of(case.f), gradient) / size
        return {"error": largest_error(values, end), "gradient_error": gradient_error}

    def ours(runner: str, gradient: str) -> training.Solver:
        how = {"save": "end", "runner": runner, "gradient": gradient, **training.OPTIONS}
        return lambda f, x, t: training.last(torchivp.solve(f, x, t, **how).y)

    solvers = {
        OURS: ours("compiled", "discrete"),
        f"{EAGER} (direct)": ours("eager", "direct"),
        TORCHDIFFEQ: training.SOLVERS[training.BACKPROP],
    }
    rows: list[Row] = []
    contenders: dict[str, Any] = {}
    for name, solver in solvers.items():
        contender(rows, contenders, name, lambda solver=solver: training.train(case, f, solver), off)
    run, row = training.diffrax_row(case, end, gradient)
    rows.append(row)
    contenders[row.name] = run
    timed(rows, contenders, rounds)
    torch.set_num_threads(before)
    return Table(case.title + (f", {threads} threads" if threads > 1 else ""), rows)


@per_sample.conditions()
def of_ensemble(n: int, gradient: bool, rounds: int) -> Table:
    """Lorenz systems with steps of their own; end states, or the gradient of the sum of their squares."""
    y0, rho = per_sample.repeated([1.0, 0.0, 0.0], n), torch.linspace(0, 21, n, dtype=torch.float64)
    span = (0.0, 1.0)
    case = per_sample.Case("", per_sample.lorenz, per_sample.lorenz_in_jax, y0, rho, (span,), y0)
    leaf = y0.clone().requires_grad_()

    def through(leg: per_sample.Leg) -> Callable[[], Tensor]:
        def run() -> Tensor:
            with torch.set_grad_enabled(gradient):
                leaf.grad = None
                end, _ = leg(case.f, case, leaf if gradient else y0, span)
                if not gradient:
                    return end
                (end**2).sum().backward()
                return leaf.grad

        return run

    ways: dict[str, Callable[[], Any]] = {
        OURS: through(per_sample.with_solve(batch_dims=1, runner="compiled")),
        f"{EAGER}(batch_dims=1)": through(per_sample.with_solve(batch_dims=1)),
        TORCHODE: through(per_sample.with_torchode),
        TORCHDIFFEQ: through(per_sample.with_torchdiffeq),
        DIFFRAX: ensemble_in_jax(case, gradient),
    }
    exact = per_sample.tight(case.f, y0, rho, span)

    def off(y: Any) -> dict[str, float]:
        return {} if gradient else {"error": largest_error(torch.tensor(y.tolist()), exact)}

    rows: list[Row] = []
    contenders: dict[str, Any] = {}
    for name, way in ways.items():
        contender(rows, contenders, name, way, off)
    timed(rows, contenders, min(rounds, 5) if gradient else rounds)
    return Table(f"Lorenz, {n:,} rows, 2 threads" + (", the gradient" if gradient else ""), rows)


def ensemble_in_jax(case: per_sample.Case, gradient: bool) -> Callable[[], Any]:
    import diffrax
    import jax
    import jax.numpy as jnp

    term = diffrax.ODETerm(lambda t, y, data: case.in_jax(jnp, y, data))
    control = diffrax.PIDController(rtol=case.rtol, atol=case.atol)

    def one(y: Any, data: Any) -> Any:
        return diffrax.diffeqsolve(
            term, diffrax.Dopri5(), *case.spans[0], None, y, data, max_steps=4096, stepsize_controller=control
        ).ys[-1]

    every = jax.vmap(one)
    jitted = jax.jit(jax.grad(lambda y, data: (every(y, data) ** 2).sum()) if gradient else every)
    y0, data = jnp.asarray(case.y0.numpy()), jnp.asarray(case.data.numpy())
    return lambda: jax.block_until_ready(jitted(y0, data))


def run(rounds: int) -> Report:
    many, end, gradient = of_spiral(1000, rounds), of_spiral(2, rounds), of_spiral_gradient(rounds)
    odenet, small = (case for case, _ in zip(training.cases(), range(2)))
    net, net2 = of_network(small, 1, rounds), of_network(odenet, 2, rounds)
    ensembles = {n: (of_ensemble(n, False, rounds), of_ensemble(n, True, rounds)) for n in (2_048, 16_384)}
    direct = f"{EAGER} (direct)"
    bars = [
        Bar("spiral, 1000 outputs (x faster than torchdiffeq)", many.ratio(TORCHDIFFEQ, OURS), 60),
        Bar("spiral, 1000 outputs (x the time of diffrax)", many.ratio(OURS, DIFFRAX), 12, at_most=True),
        Bar("spiral, the end (x faster than torchdiffeq)", end.ratio(TORCHDIFFEQ, OURS), 100),
        Bar("spiral, the gradient (x faster than torchdiffeq)", gradient.ratio(TORCHDIFFEQ, OURS), 40),
        Bar("spiral, the gradient (x the time of diffrax)", gradient.ratio(OURS, DIFFRAX), 3, at_most=True),
        Bar("small network (x faster than torchdiffeq)", net.ratio(TORCHDIFFEQ, OURS), 15),
        Bar("ODENet (x faster than diffrax)", net2.ratio(training.DIFFRAX, OURS), 1),
        Bar("ODENet (x faster than gradient='direct')", net2.ratio(direct, OURS), 1),
    ]
    for (n, (values, slopes)), least in zip(ensembles.items(), (3, 2.5)):
        bars += [
            Bar(f"Lorenz, {n:,} rows (x faster than diffrax)", values.ratio(DIFFRAX, OURS), least),
            Bar(f"Lorenz, {n:,} rows (x faster than torchode)", values.ratio(TORCHODE, OURS), 5),
            Bar(f"Lorenz, {n:,} rows, the gradient (x faster than diffrax)", slopes.ratio(DIFFRAX, OURS), 3),
        ]
    tables = [many, end, gradient, net, net2, *(table for pair in ensembles.values() for table in pair)]
    return Report("compiled", QUESTION, tables, bars)


QUESTION = """\
Whole solves as one program. The spiral and the networks in float32 at rtol 1e-7, atol 1e-9, one thread unless said; the
ensembles in float64 at 1e-6 and 1e-9, every row with steps of its own (torchdiffeq: one step for all); dopri5 everywhere. The
error of the spiral's gradient is the distance from the eager one."""


if __name__ == "__main__":
    main(run)
