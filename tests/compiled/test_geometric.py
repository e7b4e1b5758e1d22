"""Geometric methods in compiled loops."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import torchivp
from compiled.pairs import assert_same, both, gradients, torch64
from torchivp import Event, Hamiltonian, Partitioned, SecondOrder
from torchivp.gradients import Discrete
from torchivp.methods import GEOMETRIC_METHODS
from torchivp.runners import cuda_graph
from torchivp.runners.compiled import march

pytestmark = pytest.mark.compiled

UNEVEN = torch.tensor([0.0, 0.13, 0.4, 0.77, 1.1, 1.5, 1.55, 2.2, 3.0], dtype=torch64)
INSIDE = torch.linspace(0.1, 2.9, 9, dtype=torch64)
ONE = torch.tensor([0.9, -0.2], dtype=torch64), torch.tensor([0.3, 0.5], dtype=torch64)
ROWS = tuple(x + torch.tensor([[0.0], [0.7], [-1.5]], dtype=torch64) for x in ONE)
CROSSING = Event(lambda t, y: y[0][..., 0])
END = Event(lambda t, y: t - 2.5 + 0.01 * y[0][..., 0], terminal=True)


class Push(nn.Module):
    """A force that depends on the time, with parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.size = nn.Parameter(torch.tensor([1.3, 0.4], dtype=torch64))

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        t = t.unsqueeze(-1) if x.dim() > 1 else t
        return -self.size * torch.sin(x + 0.2 * x.flip(-1)) + 0.3 * torch.cos(2 * t)


class Energy(nn.Module):
    """Of a particle in a potential that is a network and grows with the time."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1, bias=False)).double()
        self.mass = nn.Parameter(torch.tensor([1.3, 0.7], dtype=torch64))

    def forward(self, t: Tensor, q: Tensor, p: Tensor) -> Tensor:
        return (p * p * self.mass).sum(-1) / 2 + self.net(q).squeeze(-1) - torch.exp(-q * q).sum(-1) * (1 + t)


def apart(t: Tensor, x: Tensor) -> Tensor:
    """Column by column."""
    a, b = x.unbind(-1)
    return torch.stack((-a - 0.1 * b, -2 * b + a * a), -1)


SYSTEMS = {
    "second order": SecondOrder(Push()),
    "partitioned": Partitioned(lambda t, p: p + p**3 / 10, Push()),
    "hamiltonian": Hamiltonian(Energy()),
}
QUICK = (
    "leapfrog second order",
    "leapfrog hamiltonian",
    "yoshida4 partitioned",
    "yoshida6 second order",
    "rkn4 second order",
)
NAMES = [
    f"{method} {name}" for method in GEOMETRIC_METHODS for name in SYSTEMS if name == "second order" or method != "rkn4"
]
PAIRS = [
    pytest.param(
        SYSTEMS[name], method, id=f"{method} {name}", marks=[] if f"{method} {name}" in QUICK else pytest.mark.slow
    )
    for method, name in (pair.split(" ", 1) for pair in NAMES)
]
leaves = torch.utils._pytree.tree_leaves
pairs = pytest.mark.parametrize(("f", "method"), PAIRS)
methods = pytest.mark.parametrize("method", GEOMETRIC_METHODS)
SECOND = SYSTEMS["second order"]


def assert_same_gradient(f: nn.Module, y0: tuple[Tensor, ...], **settings: Any) -> None:
    """The same loss, gradients, and evaluations in both directions."""
    y0 = tuple(x.clone().requires_grad_() for x in y0)
    found, counts = [], []
    for runner in ("eager", "compiled"):
        sol = torchivp.solve(f, y0, UNEVEN, dt=0.1, runner=runner, **settings)
        parts = [x.nan_to_num(0.0).flatten() for x in sol.y]
        if settings.get("dense"):
            parts += [x.flatten() for x in sol(INSIDE)]
        if sol.t_events is not None:
            parts += [t.flatten() for t in sol.t_events]
        values = torch.cat(parts)
        loss = (values * torch.linspace(0.5, 1.5, len(values), dtype=torch64)).sum()
        found.append([loss.detach(), *gradients(lambda loss=loss: loss, [*y0, *f.parameters()])])  # type: ignore[misc]
        counts.append((sol.stats.nfe, sol.stats.replayed))
    torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=1e-10)
    assert torch.equal(*(torch.as_tensor(nfe) for nfe, _ in counts))
    least, replayed = counts[0][1], counts[1][1]
    again = isinstance(settings.get("gradient"), Discrete)  # whole calls of the loop are made again, not steps
    assert replayed == least or (again and least < replayed < 1.2 * least)


@pytest.mark.usefixtures("python_loops")
class TestWithoutCompiling:
    @pytest.mark.parametrize(
        "settings",
        [
            {},
            {"save": "steps"},
            {"jump_times": [-0.7], "stop_times": [-1.0, -0.55], "t": -UNEVEN},
            {"events": [END]},
            {"batch_dims": 1},
        ],
        ids=["inside", "steps", "jump", "end", "rows"],
    )
    @pairs
    def test_the_same_steps(self, f: nn.Module, method: str, settings: dict[str, Any]) -> None:
        y0 = ROWS if settings.get("batch_dims") else ONE
        assert_same(*both(f, y0, **{"t": UNEVEN, "method": method, "dt": 0.1, **settings}))

    @pytest.mark.parametrize("y0", [ONE, ROWS], ids=["one", "rows"])
    @pairs
    def test_dense_output_and_events(self, f: nn.Module, method: str, y0: tuple[Tensor, ...]) -> None:
        settings = {"dense": True, "events": [CROSSING], "batch_dims": y0[0].dim() - 1}
        eager, compiled = both(f, y0, (0.0, 3.0), method=method, dt=0.1, **settings)
        assert_same(eager, compiled)
        torch.testing.assert_close(compiled(INSIDE), eager(INSIDE), rtol=1e-10, atol=1e-10)
        found, expected = (leaves(sol.t_events) for sol in (compiled, eager))
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
        assert any(len(t) for t in expected)

    @methods
    def test_trees_in_single_precision(self, method: str) -> None:
        """The halves are trees of their own."""

        def pull(t: Tensor, x: Any) -> Any:
            return {"a": -x["a"] * x["b"].sum(), "b": [-x["b"].sin() * 2][0]}

        half = {"a": torch.tensor([0.3, 1.0]), "b": torch.tensor([[0.5], [0.4], [-0.3]])}
        other = {"a": torch.tensor([-0.3, 0.1]), "b": torch.tensor([[0.1], [0.2], [0.3]])}
        assert_same(*both(SecondOrder(pull), (half, other), (0.0, 1.0), method=method, dt=0.1), tol=1e-5)

    @methods
    def test_a_state_in_columns(self, method: str) -> None:
        """A half that is taken apart is more tensors of the loop than of the state."""
        how: dict[str, Any] = {"method": method, "dt": 0.1}
        systems = [SecondOrder(apart), Partitioned(lambda t, p: p * 1.0, apart)]
        systems += [Partitioned(lambda t, p: torch.stack((p[..., 1], p[..., 0] ** 3), -1), apart)]
        for f in systems if method != "rkn4" else systems[:1]:
            assert_same(*both(f, ROWS, UNEVEN[:5], batch_dims=1, **how))
            assert_same(*both(f, ONE, UNEVEN[:5], dense=True, **how))

    @methods
    def test_attempts_of_a_cuda_graph(self, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cuda_graph, "_KIND", cuda_graph.kind_of(4, captured=False))
        monkeypatch.setattr(cuda_graph, "on_a_gpu", lambda problem: None)
        with torch.no_grad():
            eager, graph = (
                torchivp.solve(SECOND, ONE, UNEVEN, method=method, dt=0.1, runner=r) for r in ("eager", "cuda_graph")
            )
        assert_same(eager, graph)

    @methods
    def test_a_solve_that_goes_on(self, method: str) -> None:
        how = {"method": method, "dt": 0.1}
        pair = both(SECOND, ONE, (0.0, 1.0), **how)
        assert_same(*(both(SECOND, None, 2.0, start=sol, **how)[i] for i, sol in enumerate(pair)))

    @methods
    def test_many_calls_of_the_loop(self, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """The second call begins with the half of a slope that the first one left."""
        monkeypatch.setattr(march, "_FIRST", 2)
        monkeypatch.setattr(march, "_LEAST", 3)
        monkeypatch.setattr(march, "_SECONDS", 0.0)
        assert_same(*both(SECOND, ONE, (0.0, 3.0), save="steps", method=method, dt=0.1))
        assert_same_gradient(SECOND, ONE, method=method, events=[CROSSING])

    @pytest.mark.parametrize("y0", [ONE, ROWS], ids=["one", "rows"])
    @methods
    def test_of_a_failure_the_same_is_said(self, method: str, y0: tuple[Tensor, ...]) -> None:
        how: dict[str, Any] = {"method": method, "dt": 0.1, "throw": False, "batch_dims": y0[0].dim() - 1}
        assert_same(*both(SECOND, y0, (0.0, 9.0), max_steps=7, **how))
        eager, compiled = both(SecondOrder(lambda t, x: x**3), tuple(5 * x for x in y0), (0.0, 9.0), **how)
        assert compiled.status == eager.status
        torch.testing.assert_close(compiled.t, eager.t, equal_nan=True)
        assert torch.isnan(eager.t).any() or eager.t[-1] < 9.0

    @pytest.mark.parametrize(
        "settings",
        [{}, {"dense": True}, {"jump_times": [0.7], "events": [CROSSING, END]}, {"save": "steps"}, {"batch_dims": 1}],
        ids=["times", "dense", "jump and events", "steps", "rows"],
    )
    @pairs
    def test_the_gradient(self, f: nn.Module, method: str, settings: dict[str, Any]) -> None:
        assert_same_gradient(f, ROWS if settings.get("batch_dims") else ONE, method=method, **settings)

    @pytest.mark.parametrize("gradient", ["reversible", Discrete(every="sqrt")], ids=["back", "again"])
    @pytest.mark.parametrize("y0", [ONE, ROWS], ids=["one", "rows"])
    @pytest.mark.parametrize("method", [name for name in GEOMETRIC_METHODS if name != "rkn4"])
    def test_steps_taken_back_or_again(self, method: str, y0: tuple[Tensor, ...], gradient: Any) -> None:
        assert_same_gradient(SECOND, y0, method=method, gradient=gradient, batch_dims=y0[0].dim() - 1)

    @pytest.mark.parametrize("method", ["leapfrog", "yoshida6"])
    def test_steps_taken_back_over_a_jump(self, method: str) -> None:
        settings = {"jump_times": [0.7], "save": "steps"}
        assert_same_gradient(SECOND, ONE, method=method, gradient="reversible", **settings)


def test_leapfrog_with_its_gradient() -> None:
    assert_same_gradient(SECOND, ONE, method="leapfrog")


def test_rows_of_yoshida4() -> None:
    assert_same(*both(SECOND, ROWS, UNEVEN, method="yoshida4", dt=0.1, batch_dims=1))


@pytest.mark.slow
@pytest.mark.parametrize(("f", "method"), [pair for pair in PAIRS if pair.id in QUICK])
def test_compiled(f: nn.Module, method: str) -> None:
    assert_same_gradient(f, ONE, method=method, jump_times=[0.7])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["leapfrog", "rkn4", "bosh3"])
def test_compiled_columns(method: str) -> None:
    dt = None if method == "bosh3" else 0.1
    assert_same(*both(SecondOrder(apart), ROWS, UNEVEN, method=method, dt=dt, batch_dims=1))


@pytest.mark.slow
def test_compiled_rows_of_a_hamiltonian() -> None:
    assert_same_gradient(SYSTEMS["hamiltonian"], ROWS, method="leapfrog", batch_dims=1)


def test_a_system_that_is_made_anew_for_every_solve() -> None:
    """It is compiled once."""

    def spring(strength: float) -> Any:
        k = torch.tensor(strength)
        return torchivp.solve(
            SecondOrder(lambda t, x: -k * x), (torch.ones(1), torch.zeros(1)), (0.0, 1.0), method="leapfrog", dt=0.1,
            runner="compiled",
        )  # fmt: skip

    first, before = spring(1.0), len(torchivp.compilations())
    second = spring(4.0)
    assert len(torchivp.compilations()) == before
    torch.testing.assert_close(first.y[0][-1], torch.ones(1).cos(), atol=1e-3, rtol=0)
    torch.testing.assert_close(second.y[0][-1], (2 * torch.ones(1)).cos(), atol=1e-2, rtol=0)
