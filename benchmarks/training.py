"""How fast does a neural ODE train? Forward and backward passes of four models, side by side with the peers.

    python -m benchmarks.training [--rounds 7]

The article's ODENet, a small network alone, a large one with a large batch, and a trained continuous normalizing flow with an
exact trace: float32, dopri5, rtol 1e-7, atol 1e-9 (torchdiffeq's defaults), the same output times for all.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torchdiffeq
from torch import Tensor, nn

import torchivp

from .common import Bar, Report, Row, Table, error_bar, largest_error, main, timed
from .two_moons import Flow, minus_log_likelihood, trained_flow, two_moons

RTOL, ATOL = 1e-7, 1e-9
OPTIONS = {"method": "dopri5", "rtol": RTOL, "atol": ATOL}
BACKPROP, ADJOINT, SEMINORM, TORCHODE, DIFFRAX = (
    "torchdiffeq.odeint",
    "torchdiffeq.odeint_adjoint",
    "torchdiffeq.odeint_adjoint (seminorm)",
    "torchode (AutoDiffAdjoint)",
    "diffrax, jitted",
)
DIRECT, OUR_ADJOINT, SOLVE_DIRECT, DISCRETE, SOLVE_ADJOINT = (
    "torchivp.odeint (direct)",
    "torchivp.odeint_adjoint",
    "torchivp.solve(gradient='direct')",
    "torchivp.solve(gradient='discrete')",
    "torchivp.solve(gradient='adjoint')",
)
PEERS = (BACKPROP, ADJOINT, SEMINORM, TORCHODE)
# Which peer's error ours is compared with. Where f has kinks, only ways alike resolve the gradient alike: see odenet.py.
OF_VALUES = (
    (DIRECT, BACKPROP),
    (SOLVE_DIRECT, BACKPROP),
    (DISCRETE, BACKPROP),
    (SOLVE_ADJOINT, ADJOINT),
    (OUR_ADJOINT, ADJOINT),
)
OF_GRADIENTS = OF_VALUES
OF_GRADIENTS_WITH_KINKS = (*OF_VALUES[:3], (SOLVE_ADJOINT, SEMINORM), (OUR_ADJOINT, SEMINORM))
State = Tensor | tuple[Tensor, ...]
Solver = Callable[[nn.Module, State, Tensor], State]
"""``(f, x, t) -> x(t[-1])``"""


class Network(nn.Module):
    """An autonomous ODE function, with a counter of its calls.

    Args:
        widths: of input, hidden layers and output.
        inner: activation between the layers.
        last: activation of the output, if any.
    """

    def __init__(self, *widths: int, inner: type[nn.Module], last: type[nn.Module] | None = None) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for a, b in zip(widths, widths[1:]):
            layers += [nn.Linear(a, b), inner()]
        self.layers = nn.Sequential(*layers[:-1], *([] if last is None else [last()]))
        self.calls = 0

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        self.calls += 1
        return self.layers(y)


@dataclass(frozen=True)
class Case:
    """One model: its ODE function, input and loss of the end state.

    Attributes:
        kinks: whether ``f`` has some.
        end: of the interval, which begins at 0.
        rounds: at most so many.
    """

    title: str
    f: Network | Flow
    x: State
    loss: Callable[[State], Any]
    kinks: bool
    end: float = 1.0
    rounds: int = 1_000


def mean_square(end: Any) -> Any:
    return (end**2).mean()


def cases() -> Iterator[Case]:
    torch.manual_seed(0)
    f = Network(32, 124, 124, 32, inner=nn.ReLU, last=nn.Tanh)
    yield Case("ODENet: 32-124-124-32, ReLU, batch 100", f, torch.randn(100, 32), mean_square, kinks=True)
    f = Network(2, 50, 2, inner=nn.Tanh)
    yield Case(
        "small network: 2-50-2, tanh, batch 1, on [0, 25]", f, torch.randn(1, 2), mean_square, kinks=False, end=25.0
    )
    f = Network(64, 256, 256, 64, inner=nn.ReLU, last=nn.Tanh)
    yield Case(
        "large network: 64-256-256-64, ReLU, batch 512", f, torch.randn(512, 64), mean_square, kinks=True, rounds=5
    )
    start = (two_moons(256), torch.zeros(256, 1))
    title = "flow, trained: two moons, exact trace, 2-64-64-2, tanh, batch 256"
    yield Case(title, trained_flow(), start, minus_log_likelihood, kinks=False)


def last(y: State) -> State:
    return y[-1] if isinstance(y, Tensor) else tuple(x[-1] for x in y)


def with_torchode(f: nn.Module, x: State, t: Tensor) -> State:
    """Every row of the batch is a problem of its own; a state of two parts goes in as one."""
    import torchode

    parts = (x,) if isinstance(x, Tensor) else x
    sizes = [part.shape[1] for part in parts]

    def rows(t: Tensor, y: Tensor) -> Tensor:
        return f(t, y) if isinstance(x, Tensor) else torch.cat(f(t, y.split(sizes, dim=1)), dim=1)

    term = torchode.ODETerm(rows)
    control = torchode.IntegralController(atol=ATOL, rtol=RTOL, term=term)
    solver = torchode.AutoDiffAdjoint(torchode.Dopri5(term=term), control, backprop_through_step_size_control=False)
    y0 = torch.cat(parts, dim=1)
    end = solver.solve(torchode.InitialValueProblem(y0=y0, t_eval=t.expand(len(y0), -1))).ys[:, -1]
    return end if isinstance(x, Tensor) else end.split(sizes, dim=1)


def with_solve(gradient: str) -> Solver:
    return lambda f, x, t: last(torchivp.solve(f, x, t, gradient=gradient, save="end", **OPTIONS).y)


SOLVERS: dict[str, Solver] = {
    BACKPROP: lambda f, x, t: last(torchdiffeq.odeint(f, x, t, **OPTIONS)),
    ADJOINT: lambda f, x, t: last(torchdiffeq.odeint_adjoint(f, x, t, **OPTIONS)),
    SEMINORM: lambda f, x, t: last(
        torchdiffeq.odeint_adjoint(f, x, t, adjoint_options={"norm": "seminorm"}, **OPTIONS)
    ),
    TORCHODE: with_torchode,
    DIRECT: lambda f, x, t: last(torchivp.odeint(f, x, t, **OPTIONS)),
    OUR_ADJOINT: lambda f, x, t: last(torchivp.odeint_adjoint(f, x, t, **OPTIONS)),
    SOLVE_DIRECT: with_solve("direct"),
    DISCRETE: with_solve("discrete"),
    SOLVE_ADJOINT: with_solve("adjoint"),
}


def train(case: Case, f: nn.Module, solver: Solver, dtype: torch.dtype = torch.float32) -> Tensor:
    """One pass; the gradients of the loss are left in ``f``. Returns the end state, flat."""
    f.zero_grad()
    x = case.x.to(dtype) if isinstance(case.x, Tensor) else tuple(part.to(dtype) for part in case.x)
    end = solver(f, x, torch.tensor([0.0, case.end], dtype=dtype))
    case.loss(end).backward()
    return flat([end] if isinstance(end, Tensor) else end)


def flat(tensors: Any) -> Tensor:
    return torch.cat([torch.as_tensor(x).detach().reshape(-1) for x in tensors])


def gradient_of(f: nn.Module) -> Tensor:
    return flat([p.grad for p in f.parameters()]).clone()


def reference(case: Case) -> tuple[Tensor, Tensor]:
    """End state and gradient by torchdiffeq's backprop at 1e-12 in float64."""
    f = copy.deepcopy(case.f).double()
    options = {"method": "dopri5", "rtol": 1e-12, "atol": 1e-12}
    end = train(case, f, lambda f, x, t: last(torchdiffeq.odeint(f, x, t, **options)), torch.float64)
    return end, gradient_of(f)


def with_diffrax(case: Case) -> tuple[Callable[[], Any], float]:
    """The compiled pass, and the seconds its compilation took. Its gradient: discrete, with checkpoints."""
    import diffrax
    import jax
    import jax.numpy as jnp

    parameters = [jnp.asarray(p.detach().numpy()) for p in case.f.parameters()]
    state = jax.tree.map(lambda x: jnp.asarray(x.numpy()), case.x)
    functions = {nn.ReLU: jax.nn.relu, nn.Tanh: jnp.tanh}

    def network(y: Any, p: Any) -> Any:
        rest = iter(p)
        for layer in case.f.layers:
            y = y @ next(rest).T + next(rest) if isinstance(layer, nn.Linear) else functions[type(layer)](y)
        return y

    def field(t: Any, y: Any, p: Any) -> Any:
        if not isinstance(y, tuple):
            return network(y, p)
        jacobian = jax.vmap(jax.jacfwd(network), in_axes=(0, None))(y[0], p)
        return network(y[0], p), -jnp.trace(jacobian, axis1=1, axis2=2)[:, None]

    def loss(p: Any) -> tuple[Any, Any]:
        ends = diffrax.diffeqsolve(
            diffrax.ODETerm(field), diffrax.Dopri5(), 0.0, case.end, None, state, p, max_steps=256,
            stepsize_controller=diffrax.PIDController(rtol=RTOL, atol=ATOL),
        ).ys  # fmt: skip
        end = jax.tree.map(lambda y: y[-1], ends)
        return case.loss(end), end

    start = time.perf_counter()
    compiled = jax.jit(jax.grad(loss, has_aux=True)).lower(parameters).compile()
    return lambda: jax.block_until_ready(compiled(parameters)), time.perf_counter() - start


def compare(case: Case, rounds: int) -> Table:
    end, gradient = reference(case)
    size = float(gradient.abs().max())
    rows, contenders = [], {}
    for name, solver in SOLVERS.items():
        case.f.calls = 0
        row = Row(name, ours=name.startswith("torchivp"), error=largest_error(train(case, case.f, solver), end))
        row.gradient_error = largest_error(gradient_of(case.f), gradient) / size
        row.evaluations = case.f.calls
        rows.append(row)
        contenders[name] = lambda solver=solver: train(case, case.f, solver)
    try:
        run, row = diffrax_row(case, end, gradient)
    except ImportError:
        pass
    else:
        rows.append(row)
        contenders[DIFFRAX] = run
    timed(rows, contenders, min(rounds, case.rounds))
    return Table(case.title, rows)


def diffrax_row(case: Case, end: Tensor, gradient: Tensor) -> tuple[Callable[[], Any], Row]:
    run, compile_seconds = with_diffrax(case)
    gradients, values = run()
    values = flat(torch.tensor(x.tolist()) for x in (values if isinstance(values, tuple) else (values,)))
    row = Row(DIFFRAX, ours=False, error=largest_error(values, end), compile_seconds=compile_seconds)
    gradients = flat(torch.tensor(g.tolist()) for g in gradients)
    row.gradient_error = largest_error(gradients, gradient) / float(gradient.abs().max())
    return run, row


def bars_of(case: Case, table: Table) -> Iterator[Bar]:
    name = case.title.partition(":")[0]
    best = min(PEERS, key=lambda peer: table.row(peer).median)
    for ours in (DIRECT, SOLVE_DIRECT):
        yield Bar(f"{name}, {ours} (x faster than the best peer, {best})", table.ratio(best, ours), 1)
    yield Bar(f"{name}, discrete (x the time of direct)", table.ratio(DISCRETE, SOLVE_DIRECT), 1.45, at_most=True)
    yield Bar(f"{name}, {SOLVE_ADJOINT} (x faster than {ADJOINT})", table.ratio(ADJOINT, SOLVE_ADJOINT), 5)
    yield Bar(f"{name}, {OUR_ADJOINT} (x faster than {ADJOINT})", table.ratio(ADJOINT, OUR_ADJOINT), 3)
    for ours, peer in OF_VALUES:
        yield error_bar(f"{name}, {ours}", table.row(ours).error, table.row(peer).error)
    for ours, peer in OF_GRADIENTS_WITH_KINKS if case.kinks else OF_GRADIENTS:
        what = f"{name}, the gradient, {ours}"
        yield error_bar(what, table.row(ours).gradient_error, table.row(peer).gradient_error)


def run(rounds: int) -> Report:
    tables, bars = [], []
    for case in cases():
        table = compare(case, rounds)
        tables.append(table)
        bars += bars_of(case, table)
    return Report("training", QUESTION, tables, bars)


QUESTION = """\
One forward and backward pass, on [0, 1] unless said: float32, dopri5, rtol 1e-7, atol 1e-9. Evaluations are those of both
passes. Errors are the largest, that of the gradient over its largest entry, against torchdiffeq's backprop through dopri5 at
1e-12 in float64. torchode takes steps of its own for every row of the batch, and so accepts other ones.

With ReLU the gradient of a solution is hard to resolve: see odenet.md. Gradients are compared there between ways alike."""


if __name__ == "__main__":
    main(run)
