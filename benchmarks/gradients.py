"""Which gradient? Memory, time and accuracy of every `gradient=`.

    python -m benchmarks.gradients [--rounds 7]

Peak memory of 1,000 fixed steps of a state of 100,000 numbers; time, evaluations, memory and accuracy on the article's ODENet
and on a spiral with 101 outputs; and how the memory of the reversible gradient grows with the number of steps.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import torchivp
from torchivp.gradients import Discrete, Interpolated
from torchivp.methods import Reversible

from .common import Bar, Report, Row, Table, largest_error, main, timed
from .memory import Meter, checked
from .odenet import BATCH, WIDTH, ODEFunction

SIZE, STEPS = 100_000, 1_000
DIRECT, DISCRETE, SQRT, CHECKPOINTS = "direct", "discrete", "Discrete(every='sqrt')", "Discrete(checkpoints=20)"
INTERPOLATED, INTERPOLATED_SQRT, GAUSS, ADJOINT = "interpolated", "Interpolated(every='sqrt')", "gauss", "adjoint"
REVERSIBLE, FORWARD = "reversible", "forward"
GRADIENTS: dict[str, Any] = {
    DIRECT: "direct",
    DISCRETE: "discrete",
    SQRT: Discrete(every="sqrt"),
    CHECKPOINTS: Discrete(checkpoints=20),
    INTERPOLATED: "interpolated",
    INTERPOLATED_SQRT: Interpolated(every="sqrt"),
    GAUSS: "gauss",
    ADJOINT: "adjoint",
    REVERSIBLE: "reversible",
}


class Cheap(nn.Module):
    """A slope that costs little and keeps little: dy/dt = a cos(b t) tanh(y). Periodic, so it can be solved backwards."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.5, 6.0]))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.weight[0] * torch.cos(self.weight[1] * t) * torch.tanh(y)


class Spiral(nn.Module):
    """dy/dt = y^3 A."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[-0.1, 2.0], [-2.0, -0.1]]))
        self.calls = 0

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        self.calls += 1
        return y**3 @ self.weight


def with_gradient(name: str, method: str) -> dict[str, Any]:
    """The arguments of ``solve`` for a gradient with this method, or its reversible form."""
    return {"gradient": GRADIENTS.get(name, name), "method": Reversible("tsit5") if name == REVERSIBLE else method}


def peak(f: nn.Module, y0: Tensor, t: Any, **options: Any) -> tuple[int, torchivp.Solution]:
    """Bytes of tensors in one forward and backward pass, at most."""
    f.zero_grad()
    with Meter() as meter:
        sol = torchivp.solve(f, y0, t, **options)
        (sol.y**2).mean().backward()
    return meter.peak, sol


def of_large_states(method: str, gradients: Iterable[str]) -> Table:
    """Peak memory of gradients over many steps of a large state."""
    f, y0, dt = Cheap(), torch.linspace(0.5, 1.5, SIZE), 0.01
    rows = []
    for name in gradients:
        fixed = {"save": "end", "controller": torchivp.FixedSteps(dt=dt)}
        size, sol = peak(f, y0, (0.0, STEPS * dt), **fixed, **with_gradient(name, method))
        rows.append(Row(name, ours=True, peak_bytes=size, note=f"{size / (4 * SIZE):.0f} states"))
        if sol.stats.accepted != STEPS:
            raise RuntimeError(f"{sol.stats.accepted} steps were taken instead of {STEPS}.")
    return Table(f"{STEPS:,} fixed steps of {SIZE:,} numbers, {method}, float32", rows)


@dataclass(frozen=True)
class Growth:
    """A solve with about 100 and with about 1,000 steps."""

    name: str
    few: dict[str, Any]
    many: dict[str, Any]


GROWTHS = (
    Growth(
        "fixed steps",
        {"controller": torchivp.FixedSteps(dt=0.115)},
        {"controller": torchivp.FixedSteps(dt=0.0115)},
    ),
    Growth("adaptive steps", {"rtol": 1e-7, "atol": 1e-7}, {"rtol": 1e-12, "atol": 1e-12}),
)


def of_reversible() -> tuple[Table, list[Bar]]:
    """Memory with 10 outputs, by the number of steps."""
    f, y0 = Cheap().double(), torch.linspace(0.5, 1.5, SIZE, dtype=torch.float64)
    t = torch.linspace(1, 11.5, 10, dtype=torch.float64)
    rows, bars = [], []
    for growth in GROWTHS:
        sizes = []
        for options in (growth.few, growth.many):
            size, sol = peak(f, y0, [0.0, *t.tolist()], **options, **with_gradient(REVERSIBLE, "tsit5"))
            sizes.append(size)
            rows.append(Row(f"{growth.name}: {sol.stats.accepted}", ours=True, peak_bytes=size))
        grown = sizes[1] / sizes[0] - 1
        bars.append(
            Bar(f"reversible, {growth.name}: growth of memory from 100 to 1,000 steps", grown, 0.05, at_most=True)
        )
    return Table(f"reversible, {SIZE:,} numbers, 10 outputs, float64: by the number of steps", rows), bars


@dataclass(frozen=True)
class Case:
    """A problem for the table of time and accuracy."""

    title: str
    f: nn.Module
    y0: Tensor
    t: list[float]
    gradients: tuple[str, ...]


def cases() -> Iterator[Case]:
    torch.manual_seed(0)
    few = (*GRADIENTS, FORWARD)
    times = torch.linspace(0, 25, 101).tolist()
    x = torch.randn(BATCH, WIDTH)
    yield Case("ODENet: 32-124-124-32, ReLU, batch 100", ODEFunction(nn.ReLU), x, [0.0, 1.0], tuple(GRADIENTS))
    yield Case("the same with Softplus", ODEFunction(nn.Softplus), x, [0.0, 1.0], tuple(GRADIENTS))
    yield Case("spiral, 101 outputs on [0, 25]", Spiral(), torch.tensor([[2.0, 0.0]]), times, few)


def gradient(f: nn.Module, y0: Tensor, t: list[float], **options: Any) -> tuple[Tensor, int]:
    """Of the mean square of the outputs, in the parameters; and the calls of ``f`` in the forward pass."""
    f.zero_grad()
    f.calls = 0
    sol = torchivp.solve(f, y0, t, **options)
    forward = f.calls
    (sol.y**2).mean().backward()
    return torch.cat([p.grad.reshape(-1) for p in f.parameters()]).clone(), forward


def compare(case: Case, rounds: int) -> Table:
    f, y0, exact = case.f, case.y0, copy.deepcopy(case.f).double()
    reference, _ = gradient(exact, y0.double(), case.t, gradient="direct", method="dopri5", rtol=1e-12, atol=1e-12)
    scale = float(reference.abs().max())
    rows = []
    contenders: dict[str, Callable[[], Any]] = {}
    for name in case.gradients:
        options = with_gradient(name, "tsit5")
        size, _ = peak(f, y0, case.t, **options)
        _, forward = gradient(f, y0, case.t, **options)
        row = Row(name, ours=True, evaluations=f.calls, backward_evaluations=f.calls - forward, peak_bytes=size)
        row.gradient_error = largest_error(gradient(exact, y0.double(), case.t, **options)[0], reference) / scale
        rows.append(row)
        contenders[name] = lambda options=options: gradient(f, y0, case.t, **options)
    timed(rows, contenders, rounds)
    return Table(case.title, rows)


def run(rounds: int) -> Report:
    large = [
        of_large_states("tsit5", GRADIENTS),
        of_large_states("rk4", (DIRECT, DISCRETE, SQRT, CHECKPOINTS, ADJOINT)),
    ]
    bars = [Bar("the meter on a known case, from below", checked(), 1), Bar("from above", checked(), 1, at_most=True)]
    for table, method in zip(large, ("tsit5", "rk4")):
        sizes = {row.name: row.peak_bytes or 0 for row in table.rows}
        bars += [
            Bar(
                f"{method}: memory of direct over that of discrete with sqrt(n) states", sizes[DIRECT] / sizes[SQRT], 25
            ),
            Bar(f"{method}: memory of discrete with all states over that", sizes[DISCRETE] / sizes[SQRT], 8),
        ]
    grown, growth_bars = of_reversible()
    tables = [compare(case, rounds) for case in cases()]
    return Report("gradients", QUESTION, [*tables, *large, grown], bars + growth_bars)


QUESTION = """\
One forward and backward pass with every gradient. Time, evaluations and memory: float32, tsit5 (with `reversible`, its
reversible form, which asks for twice the evaluations), rtol 1e-5, atol 1e-7. The error of the gradient is the largest over the
gradient's largest entry, of the same solve in float64, against `direct` with dopri5 at 1e-12. Memory is the peak of the bytes
of tensors made in the two passes, counted exactly, at every operation."""


if __name__ == "__main__":
    main(run)
