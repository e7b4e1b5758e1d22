"""How fast does an ODENet train? One forward and backward pass through its ODE Block.

    python -m benchmarks.odenet [--rounds 7]

The article's ODE function Linear(32, 124)-ReLU-Linear(124, 124)-ReLU-Linear(124, 32)-Tanh, batch 100, float32, on [0, 1],
dopri5, rtol 1e-7, atol 1e-9 (torchdiffeq's defaults); and the same with Softplus instead of ReLU, because the gradient of a
solution is hard to resolve where f has kinks.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any

import torch
import torchdiffeq
from torch import Tensor, nn

import torchivp

from .common import Bar, Report, Row, Table, error_bar, largest_error, main, timed

BATCH, WIDTH, HIDDEN = 100, 32, 124
RTOL, ATOL = 1e-7, 1e-9
OPTIONS = {"method": "dopri5", "rtol": RTOL, "atol": ATOL}
BACKPROP, ADJOINT, SEMINORM = (
    "torchdiffeq.odeint",
    "torchdiffeq.odeint_adjoint",
    "torchdiffeq.odeint_adjoint (seminorm)",
)
DISCRETE, DIRECT, OUR_ADJOINT = (
    "torchivp.solve(gradient='discrete')",
    "torchivp.odeint (direct)",
    "torchivp.odeint_adjoint",
)
DIFFRAX = "diffrax, jitted"
PAIRS = ((DISCRETE, ADJOINT), (DIRECT, BACKPROP), (OUR_ADJOINT, ADJOINT))
Solver = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""``(f, x, t) -> x(t[-1])``"""


class ODEFunction(nn.Module):
    """The article's (with ReLU), with a counter of its calls."""

    def __init__(self, activation: type[nn.Module]) -> None:
        super().__init__()
        inner = [nn.Linear(WIDTH, HIDDEN), activation(), nn.Linear(HIDDEN, HIDDEN), activation()]
        self.layers = nn.Sequential(*inner, nn.Linear(HIDDEN, WIDTH), nn.Tanh())
        self.calls = 0

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        self.calls += 1
        return self.layers(x)


SOLVERS: dict[str, Solver] = {
    BACKPROP: lambda f, x, t: torchdiffeq.odeint(f, x, t, **OPTIONS)[-1],
    ADJOINT: lambda f, x, t: torchdiffeq.odeint_adjoint(f, x, t, **OPTIONS)[-1],
    SEMINORM: lambda f, x, t: torchdiffeq.odeint_adjoint(f, x, t, adjoint_options={"norm": "seminorm"}, **OPTIONS)[-1],
    DISCRETE: lambda f, x, t: torchivp.solve(f, x, t, gradient="discrete", save="end", **OPTIONS).y[-1],
    DIRECT: lambda f, x, t: torchivp.odeint(f, x, t, **OPTIONS)[-1],
    OUR_ADJOINT: lambda f, x, t: torchivp.odeint_adjoint(f, x, t, **OPTIONS)[-1],
}


def train(solver: Solver, f: nn.Module, x: Tensor, t: Tensor) -> Tensor:
    """One pass; the gradients of the mean square of the output are left in ``f``."""
    f.zero_grad()
    end = solver(f, x, t)
    end.square().mean().backward()
    return end.detach()


def gradient_of(f: nn.Module) -> Tensor:
    return torch.cat([p.grad.reshape(-1) for p in f.parameters()]).clone()


def with_diffrax(f: ODEFunction, x: Tensor) -> tuple[Callable[[], Any], float]:
    """The compiled pass, and the seconds its compilation took. Its gradient: discrete, with checkpoints."""
    import diffrax
    import jax
    import jax.numpy as jnp

    parameters = [jnp.asarray(p.detach().numpy()) for p in f.parameters()]
    state = jnp.asarray(x.numpy())

    def field(t: Any, y: Any, p: Any) -> Any:
        y = jax.nn.relu(y @ p[0].T + p[1])
        y = jax.nn.relu(y @ p[2].T + p[3])
        return jnp.tanh(y @ p[4].T + p[5])

    def loss(p: Any) -> tuple[Any, Any]:
        end = diffrax.diffeqsolve(
            diffrax.ODETerm(field), diffrax.Dopri5(), 0.0, 1.0, None, state, p, max_steps=256,
            stepsize_controller=diffrax.PIDController(rtol=RTOL, atol=ATOL),
        ).ys[-1]  # fmt: skip
        return jnp.mean(end**2), end

    start = time.perf_counter()
    compiled = jax.jit(jax.grad(loss, has_aux=True)).lower(parameters).compile()
    return lambda: jax.block_until_ready(compiled(parameters)), time.perf_counter() - start


def reference(f: ODEFunction, x: Tensor) -> tuple[Tensor, Tensor]:
    """End state and gradient by torchdiffeq's backprop at 1e-12 in float64."""
    f = copy.deepcopy(f).double()
    options = {"method": "dopri5", "rtol": 1e-12, "atol": 1e-12}
    end = train(
        lambda f, x, t: torchdiffeq.odeint(f, x, t, **options)[-1], f, x.double(), torch.tensor([0.0, 1.0]).double()
    )
    return end, gradient_of(f)


def compare(activation: type[nn.Module], rounds: int, *, diffrax: bool) -> Table:
    torch.manual_seed(0)
    f, x, t = ODEFunction(activation), torch.randn(BATCH, WIDTH), torch.tensor([0.0, 1.0])
    end, gradient = reference(f, x)
    size = float(gradient.abs().max())
    rows, contenders = [], {}
    for name, solver in SOLVERS.items():
        f.calls = 0
        row = Row(name, ours=name.startswith("torchivp"), error=largest_error(train(solver, f, x, t), end))
        row.gradient_error = largest_error(gradient_of(f), gradient) / size
        row.evaluations = f.calls
        rows.append(row)
        contenders[name] = lambda solver=solver: train(solver, f, x, t)
    if diffrax:
        run, compile_seconds = with_diffrax(f, x)
        gradients, values = run()
        row = Row(DIFFRAX, ours=False, error=largest_error(values.tolist(), end), compile_seconds=compile_seconds)
        flat = torch.cat([torch.tensor(g.tolist()).reshape(-1) for g in gradients])
        row.gradient_error = largest_error(flat, gradient) / size
        rows.append(row)
        contenders[DIFFRAX] = run
    timed(rows, contenders, rounds)
    return Table(activation.__name__, rows)


def run(rounds: int) -> Report:
    kinks = compare(nn.ReLU, rounds, diffrax=True)
    smooth = compare(nn.Softplus, rounds, diffrax=False)
    bars = [
        Bar("ReLU, discrete (x faster than torchdiffeq's odeint_adjoint)", kinks.ratio(ADJOINT, DISCRETE), 30),
        Bar("ReLU, direct (x faster than torchdiffeq's backprop)", kinks.ratio(BACKPROP, DIRECT), 1),
    ]
    for table in (kinks, smooth):
        bars += [
            error_bar(f"{ours}, {table.title}", table.row(ours).error, table.row(peer).error) for ours, peer in PAIRS
        ]
    # A pair that differentiates in the same way; without kinks any pair.
    alike = [(kinks, DISCRETE, BACKPROP), (kinks, DIRECT, BACKPROP), (kinks, OUR_ADJOINT, SEMINORM)]
    for table, ours, peer in [*alike, *((smooth, *pair) for pair in PAIRS)]:
        what = f"the gradient, {ours}, {table.title}"
        bars.append(error_bar(what, table.row(ours).gradient_error, table.row(peer).gradient_error))
    return Report("odenet", QUESTION, [kinks, smooth], bars)


QUESTION = """\
One forward and backward pass of the ODE function 32-124-124-32, batch 100, on [0, 1]: float32, dopri5, rtol 1e-7, atol 1e-9.
Evaluations are those of both passes. Errors are the largest, that of the gradient over its largest entry, against
torchdiffeq's backprop through dopri5 at 1e-12 in float64.

With ReLU every trajectory crosses kinks of f, where the derivative of a solution jumps. Backprop through the steps, ours,
torchdiffeq's and diffrax's alike, resolves them no finer than the steps; the continuous adjoint puts steps of its own
there, which is what makes it slow. (The reference itself is good to about 1e-4 there.) A smooth activation shows no such
difference."""


if __name__ == "__main__":
    main(run)
