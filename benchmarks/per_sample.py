"""How fast are steps of its own for every row of a batch? Ensembles and a flow, side by side with the peers.

    python -m benchmarks.per_sample [--rounds 7]

Lorenz systems, van der Pol oscillators from mild to stiff, a normalizing flow there and back, and oscillators whose numbers of
steps differ a hundredfold: float64, dopri5, end state only, without gradients, two threads.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torchdiffeq
from torch import Tensor, nn

import torchivp

from .common import Bar, Report, Row, Table, error_bar, largest_error, main, timed
from .two_moons import trained_flow, two_moons

RTOL, ATOL, THREADS = 1e-6, 1e-9, 2
OURS, OURS_COMPACT = "torchivp.solve(batch_dims=1)", "torchivp.solve(batch_dims=1, compact=True)"
OURS_COMPILED = "torchivp.solve(batch_dims=1, runner='compiled')"
OURS_JOINT, TORCHDIFFEQ = "torchivp.solve, one step for all", "torchdiffeq.odeint, one step for all"
TORCHODE, DIFFRAX = "torchode", "diffrax, vmap, jitted"
Span = tuple[float, float]


@dataclass(frozen=True)
class Case:
    """A batch of initial value problems.

    Attributes:
        f: ``f(t, y, data)`` for all rows, or ``f(t, y)`` without data.
        in_jax: ``(jax.numpy, y, data)`` to the slope of one row.
        y0: ``[B, D]``.
        data: ``[B]``, or None.
        spans: solved one after the other, each from where the one before ended.
        reference: what should come out at the end, ``[B, D]``.
    """

    title: str
    f: Callable[..., Tensor]
    in_jax: Callable[[Any, Any, Any], Any]
    y0: Tensor
    data: Tensor | None
    spans: tuple[Span, ...]
    reference: Tensor
    rtol: float = RTOL
    atol: float = ATOL

    @property
    def options(self) -> dict[str, Any]:
        return {"method": "dopri5", "rtol": self.rtol, "atol": self.atol}


class CountedRows:
    """``f`` with counters of its calls, and of the rows it was given."""

    def __init__(self, f: Callable[..., Tensor]):
        self.f = f
        self.calls = self.rows = 0

    def __call__(self, t: Tensor, y: Tensor, *data: Any) -> Tensor:
        self.calls += 1
        self.rows += len(y)
        return self.f(t, y, *data)


Leg = Callable[[Callable[..., Tensor], Case, Tensor, Span], tuple[Tensor, Any]]
"""``(f, case, y0, span)`` to the end state, and the attempted steps: of every row, of all together (an int), or unknown"""


def bound(f: Callable[..., Tensor], data: Tensor | None) -> Callable[[Tensor, Tensor], Tensor]:
    """``f(t, y)``."""
    return f if data is None else lambda t, y: f(t, y, data)


def with_solve(**how: Any) -> Leg:
    def leg(f: Callable[..., Tensor], case: Case, y0: Tensor, span: Span) -> tuple[Tensor, Any]:
        sol = torchivp.solve(f, y0, span, case.data, save="end", **case.options, **how)
        return (sol.y[:, -1] if "batch_dims" in how else sol.y[-1]), sol.stats.attempted

    return leg


def with_torchdiffeq(f: Callable[..., Tensor], case: Case, y0: Tensor, span: Span) -> tuple[Tensor, Any]:
    return torchdiffeq.odeint(bound(f, case.data), y0, y0.new_tensor(span), **case.options)[-1], None


def with_torchode(f: Callable[..., Tensor], case: Case, y0: Tensor, span: Span) -> tuple[Tensor, Any]:
    import torchode

    term = torchode.ODETerm(bound(f, case.data))
    control = torchode.IntegralController(atol=case.atol, rtol=case.rtol, term=term)
    solver = torchode.AutoDiffAdjoint(torchode.Dopri5(term=term), control)
    start, end = (y0.new_full((len(y0),), t) for t in span)
    sol = solver.solve(torchode.InitialValueProblem(y0=y0, t_start=start, t_end=end))
    return sol.ys[:, -1], sol.stats["n_steps"]


LEGS: dict[str, Leg] = {
    OURS: with_solve(batch_dims=1),
    OURS_COMPACT: with_solve(batch_dims=1, compact=True),
    OURS_COMPILED: with_solve(batch_dims=1, runner="compiled"),
    OURS_JOINT: with_solve(),
    TORCHODE: with_torchode,
    TORCHDIFFEQ: with_torchdiffeq,
}


def there(leg: Leg, f: Callable[..., Tensor], case: Case) -> tuple[Tensor, Any]:
    """Through all spans: the end state, and the attempted steps."""
    y, total = case.y0, None
    for span in case.spans:
        y, attempted = leg(f, case, y, span)
        total = attempted if total is None else total + attempted
    return y, total


def with_diffrax(case: Case) -> tuple[Callable[[], Any], float]:
    """The compiled solve of all rows, and the seconds its compilation took."""
    import diffrax
    import jax
    import jax.numpy as jnp

    y0 = jnp.asarray(case.y0.numpy())
    data = None if case.data is None else jnp.asarray(case.data.numpy())
    term = diffrax.ODETerm(lambda t, y, data: case.in_jax(jnp, y, data))
    control = diffrax.PIDController(rtol=case.rtol, atol=case.atol)

    def one(y: Any, data: Any) -> tuple[Any, Any]:
        steps = 0
        for a, b in case.spans:
            sol = diffrax.diffeqsolve(
                term, diffrax.Dopri5(), a, b, None, y, data, max_steps=4096, stepsize_controller=control
            )
            y, steps = sol.ys[-1], steps + sol.stats["num_steps"]
        return y, steps

    start = time.perf_counter()
    compiled = jax.jit(jax.vmap(one)).lower(y0, data).compile()
    return lambda: jax.block_until_ready(compiled(y0, data)), time.perf_counter() - start


def of_steps(row: Row, case: Case, attempted: Any) -> None:
    """What the row says about steps, which are of every row of the batch (a tensor) or of all together (an int)."""
    every = attempted if isinstance(attempted, Tensor) else torch.full((len(case.y0),), attempted)
    row.attempted, row.longest = int(every.sum()), int(every.max())


def compare(case: Case, names: tuple[str, ...], rounds: int) -> Table:
    rows, contenders = [], {}
    for name in names:
        leg, f = LEGS[name], CountedRows(case.f)
        end, attempted = there(leg, f if name != OURS_COMPILED else case.f, case)
        row = Row(name, ours=name.startswith("torchivp"), error=largest_error(end, case.reference))
        if f.calls:  # a compiled loop does not call f again
            row.evaluations, row.note = f.calls, f"{f.rows:,} rows through f"
        # torchdiffeq counts no steps: two evaluations at the start, then six for each
        of_steps(row, case, (f.calls - 2 * len(case.spans)) // 6 if attempted is None else attempted)
        rows.append(row)
        contenders[name] = lambda leg=leg: there(leg, case.f, case)
    try:
        run, compile_seconds = with_diffrax(case)
    except ImportError:
        pass
    else:
        end, attempted = (torch.from_numpy(np.array(x)) for x in run())
        row = Row(DIFFRAX, ours=False, error=largest_error(end, case.reference), compile_seconds=compile_seconds)
        of_steps(row, case, attempted)
        rows.append(row)
        contenders[DIFFRAX] = run
    timed(rows, contenders, rounds)
    return Table(case.title, rows)


@contextmanager
def conditions() -> Iterator[None]:
    """No gradients, two threads (jax takes what it wants), float64 in jax; afterwards as before."""
    threads = torch.get_num_threads()
    try:
        from jax import config
    except ImportError:
        config = None
    wide = config and config.jax_enable_x64
    torch.set_num_threads(THREADS)
    try:
        if config:
            config.update("jax_enable_x64", True)
        with torch.no_grad():
            yield
    finally:
        torch.set_num_threads(threads)
        if config:
            config.update("jax_enable_x64", wide)


def tight(f: Callable[..., Tensor], y0: Tensor, data: Tensor, span: Span) -> Tensor:
    """The end state by torchdiffeq's dopri8 at 1e-12."""
    return torchdiffeq.odeint(bound(f, data), y0, y0.new_tensor(span), method="dopri8", rtol=1e-12, atol=1e-12)[-1]


def repeated(y: list[float], n: int) -> Tensor:
    return torch.tensor(y, dtype=torch.float64).repeat(n, 1)


def lorenz(t: Tensor, y: Tensor, rho: Tensor) -> Tensor:
    x, v, z = y.unbind(-1)
    return torch.stack((10 * (v - x), x * (rho - z) - v, x * v - 8 / 3 * z), -1)


def lorenz_in_jax(jnp: Any, y: Any, rho: Any) -> Any:
    x, v, z = y
    return jnp.stack((10 * (v - x), x * (rho - z) - v, x * v - 8 / 3 * z))


@conditions()
def of_lorenz(n: int, rounds: int) -> tuple[Table, list[Bar]]:
    """``rho`` from 0 to 21: rows that need about as many steps, in a small, a middling and a large batch."""
    y0, rho, span = repeated([1.0, 0.0, 0.0], n), torch.linspace(0, 21, n, dtype=torch.float64), (0.0, 1.0)
    title = f"Lorenz, {n:,} rows"
    case = Case(title, lorenz, lorenz_in_jax, y0, rho, (span,), tight(lorenz, y0, rho, span))
    table = compare(case, (OURS, OURS_JOINT, TORCHODE, TORCHDIFFEQ), rounds)
    required = 1.5 if n < 10_000 else 1.2
    return table, [
        Bar(f"{title} (x faster than torchode)", table.ratio(TORCHODE, OURS), required),
        error_bar(title, table.row(OURS).error, table.row(TORCHODE).error),
    ]


def van_der_pol(t: Tensor, y: Tensor, mu: Tensor) -> Tensor:
    x, v = y.unbind(-1)
    return torch.stack((v, mu * (1 - x * x) * v - x), -1)


def van_der_pol_in_jax(jnp: Any, y: Any, mu: Any) -> Any:
    x, v = y
    return jnp.stack((v, mu * (1 - x * x) * v - x))


@conditions()
def of_van_der_pol(rounds: int, n: int = 256) -> tuple[Table, list[Bar]]:
    """``mu`` from 1 to 100: from mild to stiff, which is where the steps are small."""
    y0, mu, span = repeated([2.0, 0.0], n), torch.linspace(1, 100, n, dtype=torch.float64), (0.0, 20.0)
    title = f"van der Pol, {n:,} rows"
    case = Case(title, van_der_pol, van_der_pol_in_jax, y0, mu, (span,), tight(van_der_pol, y0, mu, span))
    table = compare(case, (OURS, OURS_COMPILED, OURS_COMPACT, OURS_JOINT, TORCHODE, TORCHDIFFEQ), rounds)
    steps = table.row(OURS).attempted / (n * table.row(TORCHODE).longest)
    return table, [
        Bar(f"{title}, attempted steps (x torchode's rows times its longest)", steps, 0.6, at_most=True),
        Bar(f"{title} (x faster than torchode)", table.ratio(TORCHODE, OURS), 1.4),
        Bar(f"{title}, compiled (x faster than torchode)", table.ratio(TORCHODE, OURS_COMPILED), 1.4),
        Bar(f"{title}, compiled (x faster than torchdiffeq)", table.ratio(TORCHDIFFEQ, OURS_COMPILED), 3),
    ]


@conditions()
def of_flow(rounds: int, n: int = 256, start: str = "normal") -> tuple[Table, list[Bar]]:
    """From the normal distribution to the data and back, or from the data, to where it began.

    The flow gathers on its way to the data and spreads on its way back: of what is lost first, more is seen from ``'normal'``.
    """
    layers = trained_flow().double().layers
    # what jax needs of the layers
    recipe = [(x.weight.detach().numpy(), x.bias.detach().numpy()) for x in layers if isinstance(x, nn.Linear)]

    def in_jax(jnp: Any, y: Any, data: Any) -> Any:
        *inner, (weight, bias) = recipe
        for w, b in inner:
            y = jnp.tanh(w @ y + b)
        return weight @ y + bias

    torch.manual_seed(0)
    z = torch.randn(n, 2, dtype=torch.float64) if start == "normal" else two_moons(n).double()
    to_data, to_normal = (1.0, 0.0), (0.0, 1.0)
    spans = (to_data, to_normal) if start == "normal" else (to_normal, to_data)
    title, tolerance = f"flow, from {start} and back, {n:,} samples", 1e-6
    case = Case(title, lambda t, z: layers(z), in_jax, z, None, spans, z, rtol=tolerance, atol=tolerance)
    table = compare(case, (OURS, OURS_JOINT, TORCHODE, TORCHDIFFEQ), rounds)
    worst = table.row(OURS).error
    return table, [
        Bar(f"{title}, the worst (x the tolerance)", worst / tolerance, 30, at_most=True),
        Bar(f"{title}, the worst (x that of one step for all)", worst / table.row(OURS_JOINT).error, 1, at_most=True),
    ]


def oscillator(t: Tensor, y: Tensor, frequency: Tensor) -> Tensor:
    x, v = y.unbind(-1)
    return torch.stack((frequency * v, -frequency * x), -1)


def oscillator_in_jax(jnp: Any, y: Any, frequency: Any) -> Any:
    x, v = y
    return jnp.stack((frequency * v, -frequency * x))


@conditions()
def of_compaction(rounds: int, n: int = 256) -> tuple[Table, list[Bar]]:
    """Frequencies from 1.5 to 180 in equal ratios: about 10 to 1,000 steps."""
    frequency = 1.5 * 120 ** torch.linspace(0, 1, n, dtype=torch.float64)
    exact = torch.stack((frequency.cos(), -frequency.sin()), -1)
    title = f"oscillators, {n:,} rows of about 10 to 1,000 steps"
    case = Case(title, oscillator, oscillator_in_jax, repeated([1.0, 0.0], n), frequency, ((0.0, 1.0),), exact)
    table = compare(case, (OURS, OURS_COMPACT, TORCHODE), rounds)
    return table, [Bar(f"{title}, compact=True (x faster than without)", table.ratio(OURS, OURS_COMPACT), 1)]


def run(rounds: int) -> Report:
    parts = [
        *(of_lorenz(n, rounds) for n in (64, 2048, 16384)),
        of_van_der_pol(rounds),
        of_flow(rounds),
        (of_flow(rounds, start="data")[0], []),  # for comparison
        of_compaction(rounds),
    ]
    return Report(
        "per_sample", QUESTION, [table for table, _ in parts], [b for _, bars in parts for b in bars], THREADS
    )


QUESTION = """\
Batches whose rows take steps of their own, and the same with one step for all: float64, dopri5, rtol 1e-6, atol 1e-9, end
state only, without gradients, with two threads for PyTorch (jax takes what it wants).

Lorenz: sigma 10, beta 8/3, rho from 0 to 21, y(0) = (1, 0, 0), t in [0, 1]. Van der Pol: x'' = mu (1 - x^2) x' - x, mu from 1
to 100, x(0) = 2, x'(0) = 0, t in [0, 20]. The flow, trained on two moons, without its log density: from normal samples to the
data and back, and from the data, at rtol = atol = 1e-6. Oscillators: x' = w v, v' = -w x, w from 1.5 to 180 in equal ratios, t
in [0, 1].

Attempted steps are of all rows together, beside those of the longest row; evaluations are calls of f. The error is the largest
of all rows and entries: against torchdiffeq's dopri8 at 1e-12; of the flow, how far from its start a sample comes back; of the
oscillators, against their exact solution."""


if __name__ == "__main__":
    main(run)
