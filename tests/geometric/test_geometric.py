"""Geometric methods: what they keep, how they ask, and that they go with all the rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import torchivp
from geometric.systems import F64, KNOWN, SYMPLECTIC, chain, kepler, kepler_energy, kepler_start
from torchivp import Hamiltonian, InputError, Partitioned, SecondOrder, solve
from torchivp.field import Field
from torchivp.methods import GEOMETRIC_METHODS
from torchivp.methods.geometric import SplittingMethod
from torchivp.span import OneSpan
from torchivp.state import Layout

METHODS = list(GEOMETRIC_METHODS)
EVALUATIONS = {"leapfrog": 1, "yoshida4": 3, "yoshida6": 7, "mclachlan4": 5, "rkn4": 3}
PENDULUM = SecondOrder(lambda t, x: -torch.sin(x))
X0, V0 = torch.tensor([0.9, -0.2], dtype=F64), torch.tensor([0.3, 0.5], dtype=F64)

methods = pytest.mark.parametrize("method", METHODS)
symplectic = pytest.mark.parametrize("method", SYMPLECTIC)


# ---- what they keep


def step_map(method: str, f: nn.Module, dt: float) -> Callable[[Tensor], Tensor]:
    """One step from ``(q, p)`` in one vector."""

    def step(z: Tensor) -> Tensor:
        sol = solve(f, tuple(z.chunk(2)), (0.2, 0.2 + dt), method=method, dt=dt, gradient="direct")
        return torch.cat(sol.y, dim=-1)[-1]

    return step


def not_symplectic(method: str, f: nn.Module) -> float:
    """By how much a step changes areas, ``J^T Omega J - Omega``."""
    z = torch.tensor([0.4, -0.3, 0.7, 0.2, 0.5, -0.6], dtype=F64)
    jacobian = torch.func.jacrev(step_map(method, f, 0.4))(z)
    one, zero = torch.eye(3, dtype=F64), torch.zeros(3, 3, dtype=F64)
    omega = torch.cat([torch.cat([zero, one], 1), torch.cat([-one, zero], 1)])
    return float((jacobian.T @ omega @ jacobian - omega).abs().max())


FORCED = SecondOrder(lambda t, x: chain(x) * (1 + t))
RELATIVISTIC = Hamiltonian(lambda t, q, p: torch.sqrt(1 + p @ p) + (q[0] * q[1] ** 2 + q[2].cos() * q[0]) * (1 + t))
ODD = Partitioned(lambda t, p: p + p**3, lambda t, q: chain(q) * torch.cos(t))


@symplectic
@pytest.mark.parametrize("f", [FORCED, RELATIVISTIC, ODD], ids=["second order", "hamiltonian", "partitioned"])
def test_a_step_is_symplectic(method: str, f: nn.Module) -> None:
    assert not_symplectic(method, f) < 1e-12


@pytest.mark.parametrize("method", ["rkn4", "rk4"])
def test_others_are_not(method: str) -> None:
    assert not_symplectic(method, FORCED) > 1e-6


@symplectic
@pytest.mark.parametrize("f", [FORCED, RELATIVISTIC, ODD], ids=["second order", "hamiltonian", "partitioned"])
def test_symmetric_in_time(method: str, f: nn.Module) -> None:
    """A step back from the end, as a solve backwards, leads to the start, to rounding."""
    q, p = torch.tensor([0.4, -0.3, 0.7], dtype=F64), torch.tensor([0.2, 0.5, -0.6], dtype=F64)
    there = solve(f, (q, p), (0.1, 1.3), method=method, dt=0.3)
    back = solve(f, tuple(y[-1] for y in there.y), (1.3, 0.1), method=method, dt=0.3)
    off = max(float((y[-1] - y0).abs().max()) for y, y0 in zip(back.y, (q, p)))
    assert off < 1e-14
    assert max(float((y[-1] - y0).abs().max()) for y, y0 in zip(there.y, (q, p))) > 0.1


def test_rkn4_is_not_symmetric() -> None:
    there = solve(PENDULUM, (X0, V0), (0.1, 1.3), method="rkn4", dt=0.3)
    back = solve(PENDULUM, tuple(y[-1] for y in there.y), (1.3, 0.1), method="rkn4", dt=0.3)
    assert float((back.y[0][-1] - X0).abs().max()) > 1e-8


@symplectic
@pytest.mark.parametrize("direction", [1, -1])
def test_reverse_undoes_a_step(method: str, direction: int) -> None:
    known = KNOWN["partitioned"]
    chosen = GEOMETRIC_METHODS[method]()
    t = torch.zeros((), dtype=F64)
    y0 = (known.q(t), known.p(t))
    field, span = Field(known.f, Layout(y0), direction), OneSpan(0.1, 0.37, size=0.27)
    y = field.layout.ravel(y0)
    history = ((span.t, field.start_slope(span, y)),)
    first = chosen.step(field, span, y, history)
    then = OneSpan(0.37, 0.58, size=0.58 - 0.37)
    second = chosen.step(field, then, first.y1, first.history)
    y1, history1 = chosen.reverse(field, then, second.y1, second.history)
    back, _ = chosen.reverse(field, span, y1, history1)
    assert float((y1 - first.y1).abs().max()) < 1e-14
    assert float((history1[0][1] - first.history[0][1]).abs().max()) < 1e-13
    assert float((back - y).abs().max()) < 1e-14


def energy_errors(method: str, periods: int, per_period: int) -> Tensor:
    """Relative errors of the energy of the Kepler orbit of e = 0.6, after each step ``[periods, per_period]``."""
    start = kepler_start(0.6)
    dt = 2 * torch.pi / per_period
    with torch.no_grad():
        sol = solve(
            SecondOrder(kepler), start, (0.0, periods * 2 * torch.pi), method=method, save="steps",
            controller=torchivp.FixedSteps(dt=dt),
        )  # fmt: skip
    energy = kepler_energy(*sol.y)
    return ((energy[1:] - energy[0]) / energy[0]).abs()[: periods * per_period].view(periods, per_period)


LONG = {"leapfrog": 0.03, "yoshida4": 7e-4, "yoshida6": 1e-5, "mclachlan4": 1e-5}


@pytest.mark.parametrize(
    ("method", "periods", "per_period", "most"),
    [
        ("leapfrog", 10, 60, 0.1),
        ("yoshida4", 10, 60, 5e-3),
        ("yoshida6", 10, 50, 2e-4),
        ("mclachlan4", 10, 50, 2e-4),
        *(pytest.param(name, 100, 100, most, marks=pytest.mark.slow) for name, most in LONG.items()),
    ],
)
def test_energy_is_bounded(method: str, periods: int, per_period: int, most: float) -> None:
    """The later periods are no worse than the first ones."""
    worst = energy_errors(method, periods, per_period).amax(1)
    assert worst.max() < most
    assert worst[-periods // 5 :].max() < 1.1 * worst[: periods // 5].max()


@pytest.mark.parametrize("method", ["dopri5", "rkn4"])
def test_energy_of_others_drifts(method: str) -> None:
    """Seen where the periods end, close to the centre, and begin."""
    worst = energy_errors(method, 10, 50).amax(1)
    assert worst[-1] > 3 * worst[0]


# ---- how they ask


class Watched(nn.Module):
    """An acceleration that notes when it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        self.times.append(t.detach().item())
        return -torch.sin(x) * torch.cos(5 * t)


@methods
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("gradient", ["discrete", "reversible"])
@pytest.mark.parametrize("span", [(0.1, 0.7), (0.7, 0.1), (1000.1, 1000.7), (0.3, 0.6), (-0.7, 0.1)], ids=str)
def test_asked_inside_the_interval(method: str, dtype: torch.dtype, gradient: str, span: tuple[float, float]) -> None:
    """Forwards and backwards, with outputs inside and a jump, at both halves of a partitioned system."""
    if gradient == "reversible" and method == "rkn4":
        return
    a, b = Watched(), Watched()
    systems: list[tuple[nn.Module, tuple[Watched, ...]]] = [(SecondOrder(a), (a,))]
    if method != "rkn4":
        b_timeless = Watched()
        b_timeless.forward = lambda t, p: b_timeless.times.append(t.detach().item()) or p  # type: ignore[method-assign,func-returns-value]
        systems.append((Partitioned(b_timeless, b), (b, b_timeless)))
    low, high = min(span), max(span)
    middle = span[0] + 0.37 * (span[1] - span[0])
    for f, watched in systems:
        y0 = torch.ones(2, dtype=dtype, requires_grad=True)
        jumps = {"jump_times": [span[0] + 0.6 * (span[1] - span[0])]}
        sol = solve(
            f, (y0, y0 / 2), [span[0], middle, span[1]], method=method, controller=torchivp.FixedSteps(dt=0.07),
            gradient=gradient, **jumps,
        )  # fmt: skip
        sol.y[0].sum().backward()
        for w in watched:
            assert w.times
            assert low <= min(w.times)
            assert max(w.times) <= high
            w.times.clear()


@methods
def test_jumps_are_not_crossed(method: str) -> None:
    """Constant accelerations between the jumps: every method is exact."""
    f = SecondOrder(lambda t, x: torch.where(t < 0.3, 1.0, torch.where(t < 0.5, -2.0, 5.0)).to(x) * torch.ones_like(x))
    sol = solve(f, (X0, V0), (0.0, 1.0), method=method, dt=0.07, jump_times=[0.3, 0.5])
    assert torch.allclose(sol.y[1][-1] - V0, torch.full((2,), 0.3 - 0.4 + 2.5, dtype=F64), atol=1e-13)


@methods
def test_evaluations(method: str) -> None:
    counted = Watched()
    sol = solve(SecondOrder(counted), (X0, V0), (0.0, 1.0), method=method, controller=torchivp.FixedSteps(dt=0.05))
    start = 0 if method == "rkn4" else 1
    assert sol.stats.nfe == 20 * EVALUATIONS[method] + start == len(counted.times)


@symplectic
def test_dense_output_costs_what_the_card_says(method: str) -> None:
    nfe = [
        solve(
            PENDULUM, (X0, V0), (0.0, 1.0), method=method, controller=torchivp.FixedSteps(dt=0.05), dense=dense
        ).stats.nfe
        for dense in (False, True)
    ]
    assert nfe[1] - nfe[0] == 20 * {"leapfrog": 0, "yoshida4": 2, "yoshida6": 6, "mclachlan4": 0}[method]


# ---- with all the rest


class Net(nn.Module):
    """An acceleration with parameters."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.w = nn.Parameter(torch.randn(2, 2, generator=generator, dtype=F64))
        self.b = nn.Parameter(torch.randn(2, generator=generator, dtype=F64))

    def forward(self, t: Tensor, x: Tensor, scale: Tensor) -> Tensor:
        return torch.tanh(x @ self.w + self.b) * torch.cos(t) * scale


def second_order(net: Net) -> nn.Module:
    return SecondOrder(net)


def partitioned(net: Net) -> nn.Module:
    return Partitioned(lambda t, p, scale: p + p**3 * scale / 5, net)


def hamiltonian(net: Net) -> nn.Module:
    return Hamiltonian(lambda t, q, p, scale: (p * p).sum() / 2 + net(t, q, scale).square().sum())


def gradients(make: Callable[[Net], nn.Module], **how: Any) -> dict[str, Tensor]:
    """Of all inputs of a solve with outputs inside the steps and at their ends."""
    net = Net()
    inputs = {
        "x": X0.clone().requires_grad_(), "v": V0.clone().requires_grad_(),
        "t": torch.tensor([0.0, 0.33, 1.0], dtype=F64, requires_grad=True),
        "scale": torch.tensor(1.3, dtype=F64, requires_grad=True), **dict(net.named_parameters()),
    }  # fmt: skip
    sol = solve(make(net), (inputs["x"], inputs["v"]), inputs["t"], inputs["scale"], **how)
    (sol.y[0].square().sum() + torch.sin(sol.y[1]).sum()).backward()
    return {name: x.grad for name, x in inputs.items()}


@methods
@pytest.mark.parametrize("make", [second_order, partitioned, hamiltonian])
def test_gradients(method: str, make: Callable[[Net], nn.Module]) -> None:
    """Direct, discrete and reversible agree to rounding; and with those of an accurate solve, to the method's error."""
    if method == "rkn4" and make is not second_order:
        return
    found = {g: gradients(make, method=method, dt=0.02, gradient=g) for g in ("direct", "discrete")}
    if method in SYMPLECTIC:
        found["reversible"] = gradients(make, method=method, dt=0.02, gradient="reversible")
    accurate = gradients(make, method="dopri8", rtol=1e-11, atol=1e-11, gradient="direct")
    for name, expected in found["direct"].items():
        for other in found.values():
            assert torch.allclose(other[name], expected, rtol=1e-11, atol=1e-12), name
        assert torch.allclose(expected, accurate[name], rtol=1e-3, atol=1e-3 if method == "leapfrog" else 1e-6), name


@methods
def test_second_derivatives_and_transforms(method: str) -> None:
    def end(x: Tensor) -> Tensor:
        return solve(PENDULUM, (x, V0), (0.0, 0.5), method=method, dt=0.1).y[0][-1]

    jacobian = torch.func.jacrev(end)(X0)
    twice = torch.func.jacrev(torch.func.jacrev(end))(X0)
    for i in range(2):
        assert torch.allclose(twice[i], torch.autograd.functional.hessian(lambda x, i=i: end(x)[i], X0), atol=1e-12)
    rows = torch.stack([X0, X0 * 0.3, -X0])
    together = torch.func.vmap(end)(rows)
    assert torch.allclose(together, torch.stack([end(x) for x in rows]), atol=1e-14)
    assert torch.allclose(torch.func.vmap(torch.func.jacrev(end))(rows)[0], jacobian, atol=1e-13)


def per_row(t: Tensor, x: Tensor) -> Tensor:
    """Of one state at a time ``[]``, or of rows at times ``[B]``."""
    return -torch.sin(x) * (1 + 0.3 * torch.cos(t).unsqueeze(-1))


ROWS = {
    "second order": SecondOrder(per_row),
    "partitioned": Partitioned(lambda t, p: torch.sinh(p), per_row),
    "hamiltonian": Hamiltonian(lambda t, q, p: (torch.cosh(p) - torch.cos(q) * (1 + 0.3 * torch.cos(t).unsqueeze(-1))).sum()),
}  # fmt: skip


@methods
@pytest.mark.parametrize("system", ROWS)
def test_rows_are_what_they_are_alone(method: str, system: str) -> None:
    """With ends and directions of their own, outputs inside steps, and their gradients."""
    if method == "rkn4" and system != "second order":
        return
    generator = torch.Generator().manual_seed(1)
    start = torch.randn(2, 3, 2, generator=generator, dtype=F64)
    times = torch.tensor([[0.0, 0.33, 2.0], [0.5, 0.71, 1.2], [0.0, -0.5, -1.0]], dtype=F64)
    x, v = (s.clone().requires_grad_() for s in start)
    sol = solve(ROWS[system], (x, v), times, method=method, dt=0.1, batch_dims=1)
    sum(y.square().sum() for y in sol.y).backward()
    for i in range(3):
        x1, v1 = (s[i].clone().requires_grad_() for s in start)
        alone = solve(ROWS[system], (x1, v1), times[i], method=method, dt=0.1)
        sum(y.square().sum() for y in alone.y).backward()
        for ours, theirs in zip(sol.y, alone.y):
            assert torch.allclose(ours[i], theirs, rtol=0, atol=1e-13)
        assert torch.allclose(x.grad[i], x1.grad, atol=1e-12)
        assert torch.allclose(v.grad[i], v1.grad, atol=1e-12)


@methods
def test_compacted_rows(method: str) -> None:
    x = torch.linspace(0.1, 1.0, 8, dtype=F64).view(4, 2)
    ends = torch.tensor([[0.0, 0.2], [0.0, 0.3], [0.0, 0.4], [0.0, 3.0]], dtype=F64)
    kw: dict[str, Any] = {"method": method, "dt": 0.1, "batch_dims": 1, "gradient": "direct"}
    whole, compacted = (solve(ROWS["second order"], (x, x), ends, compact=c, **kw) for c in (False, True))
    assert torch.allclose(whole.y[0], compacted.y[0], atol=1e-14)


@methods
@torch.no_grad()
def test_events_outputs_and_continuation(method: str) -> None:
    crossing = torchivp.Event(lambda t, y: y[0][0])
    kw: dict[str, Any] = {"method": method, "controller": torchivp.FixedSteps(dt=0.05)}
    sol = solve(PENDULUM, (X0, V0), torch.linspace(0, 6, 7, dtype=F64), events=crossing, **kw)
    accurate = solve(PENDULUM, (X0, V0), (0.0, 6.0), method="dopri8", rtol=1e-11, atol=1e-11, events=crossing)
    assert len(sol.t_events[0]) == len(accurate.t_events[0]) > 0
    assert torch.allclose(sol.t_events[0], accurate.t_events[0], atol=2e-3 if method == "leapfrog" else 1e-5)
    half = solve(PENDULUM, (X0, V0), (0.0, 3.0), **kw)
    rest = solve(PENDULUM, None, 6.0, start=half, **kw)
    assert torch.allclose(rest.y[0][-1], sol.y[0][-1], atol=1e-12)
    assert rest.stats.nfe == 60 * EVALUATIONS[method]  # nothing is asked twice


@methods
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64, torch.complex128])
def test_other_dtypes(method: str, dtype: torch.dtype) -> None:
    x = torch.tensor([0.9, -0.2]).to(dtype)
    sol = solve(SecondOrder(lambda t, x: -x), (x, 0 * x), (0.0, 1.0), method=method, dt=0.1)
    assert sol.y[0].dtype == dtype
    assert torch.allclose(sol.y[0][-1], x * torch.cos(torch.ones(())).to(dtype), atol=0.02)


@methods
def test_trees_of_unequal_parts(method: str) -> None:
    """A state of dicts; and for partitioned systems, halves of different shapes."""

    def pull(t: Tensor, x: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"a": -x["a"], "b": -4 * x["b"]}

    x = {"a": torch.ones(2, dtype=F64), "b": torch.ones(3, 1, dtype=F64)}
    v = {name: torch.zeros_like(value) for name, value in x.items()}
    sol = solve(SecondOrder(pull), (x, v), (0.0, 1.0), method=method, dt=0.02)
    end = sol.y[0]
    assert torch.allclose(end["a"][-1], torch.cos(torch.ones(2, dtype=F64)), atol=1e-3)
    assert torch.allclose(end["b"][-1], torch.cos(2 * torch.ones(3, 1, dtype=F64)), atol=1e-3)
    if method in SYMPLECTIC:
        mix = torch.tensor([[1.0, 2.0, 0.0], [0.0, 1.0, -1.0]], dtype=F64)
        f = Partitioned(lambda t, p: mix @ p, lambda t, q: -q @ mix)
        start = (torch.ones(2, dtype=F64), torch.ones(3, dtype=F64))
        ends = [
            solve(f, start, (0.0, 1.0), **kw).y
            for kw in ({"method": method, "dt": 0.02}, {"method": "dopri8", "rtol": 1e-10})
        ]
        for ours, accurate in zip(*ends):
            assert torch.allclose(ours[-1], accurate[-1], atol=1e-3)


@pytest.mark.parametrize("system", ROWS)
@pytest.mark.parametrize("method", ["tsit5", "rk4", "explicit_adams", "reversible_heun"])
def test_systems_in_two_parts_go_with_any_method(method: str, system: str) -> None:
    kw = {"dt": 0.02} if method in ("rk4", "explicit_adams") else {"rtol": 1e-5, "atol": 1e-5}
    sol = solve(ROWS[system], (X0, V0), (0.0, 1.0), method=method, **kw)
    accurate = solve(ROWS[system], (X0, V0), (0.0, 1.0), method="dopri8", rtol=1e-10, atol=1e-10)
    assert torch.allclose(sol.y[0][-1], accurate.y[0][-1], atol=1e-3)


def test_an_acceleration_that_sees_the_velocity() -> None:
    damped = SecondOrder(lambda t, x, v: -x - 2 * v, velocity=True)
    sol = solve(damped, (X0, 0 * X0), (0.0, 1.0), rtol=1e-9, atol=1e-9)
    assert torch.allclose(sol.y[0][-1], X0 * 2 * torch.exp(torch.tensor(-1.0, dtype=F64)), atol=1e-7)
    with pytest.raises(InputError, match=r"velocity-dependent.*take a method for any f, such as 'tsit5'"):
        solve(damped, (X0, V0), (0.0, 1.0), method="leapfrog", dt=0.1)


@pytest.mark.compiled
def test_compiled() -> None:
    """Second-order systems are compiled like others; what a geometric method does is not."""
    kw: dict[str, Any] = {"method": "dopri5", "rtol": 1e-6, "atol": 1e-6}
    eager = solve(PENDULUM, (X0, V0), (0.0, 2.0), **kw)
    compiled = solve(PENDULUM, (X0, V0), (0.0, 2.0), runner="compiled", **kw)
    assert torch.allclose(eager.y[0], compiled.y[0], atol=1e-12)


@symplectic
def test_in_a_block(method: str) -> None:
    net = nn.Linear(2, 2, dtype=F64)
    block = torchivp.nn.ODEBlock(SecondOrder(lambda t, x: torch.tanh(net(x))), method=method, dt=0.1)
    module = torchivp.nn.ODEBlock(SecondOrder(Pull(net)), method=method, dt=0.1)
    assert len(list(module.parameters())) == 2
    x, _ = block((X0, V0))
    y, _ = module((X0, V0))
    assert torch.equal(x, y)
    x.sum().backward()
    assert block.nfe == 10 * EVALUATIONS[method] + 1
    assert net.weight.grad.abs().max() > 0


class Pull(nn.Module):
    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        return torch.tanh(self.net(x))


# ---- what they refuse


@methods
def test_any_f_is_refused(method: str) -> None:
    with pytest.raises(InputError, match=r"f=.*lambda.*torchivp\.SecondOrder\(a\)"):
        solve(lambda t, y: -y, X0, (0.0, 1.0), method=method, dt=0.1)


def test_rkn4_wants_second_order() -> None:
    with pytest.raises(InputError, match=r"no equation x'' = a\(t, x\).*'yoshida4'"):
        solve(ODD, (X0, V0), (0.0, 1.0), method="rkn4", dt=0.1)


@symplectic
def test_a_hamiltonian_that_mixes_is_refused(method: str) -> None:
    with pytest.raises(InputError, match=r"T\(p\) \+ V\(t, q\)"):
        solve(Hamiltonian(lambda t, q, p: ((1 + q * q) * p * p).sum()), (X0, V0), (0.0, 1.0), method=method, dt=0.1)
    f = Hamiltonian(lambda t, q, p: (p * p + q * p * torch.tensor([[0.0], [1.0]])).sum())
    with pytest.raises(InputError, match=r"T\(p\) \+ V\(t, q\)"):  # also where one row of many does
        solve(f, (X0.expand(2, 2), V0.expand(2, 2)), (0.0, 1.0), method=method, dt=0.1, batch_dims=1)


@symplectic
def test_a_drift_in_time(method: str) -> None:
    """What cannot ask inside the step refuses it; leapfrog does not."""
    f = Partitioned(lambda t, p: p * (1 + t), lambda t, q: -q)
    if method == "leapfrog":
        assert solve(f, (X0, V0), (0.0, 1.0), method=method, dt=0.1).success
        return
    with pytest.raises(InputError, match=r"must not depend on the time.*'leapfrog'"):
        solve(f, (X0, V0), (0.0, 1.0), method=method, dt=0.1)


@pytest.mark.parametrize("y0", [X0, (X0,), (X0, V0, X0)], ids=["tensor", "one", "three"])
@pytest.mark.parametrize("method", ["leapfrog", "tsit5"])
@pytest.mark.parametrize("f", [PENDULUM, ODD], ids=["second order", "partitioned"])
def test_a_state_is_a_pair(y0: Any, method: str, f: nn.Module) -> None:
    kw = {"dt": 0.1} if method == "leapfrog" else {}
    with pytest.raises(InputError, match=r"a state \(q, p\).*Give a pair"):
        solve(f, y0, (0.0, 1.0), method=method, **kw)


@pytest.mark.parametrize(
    "make", [SecondOrder, Hamiltonian, lambda f: Partitioned(f, len), lambda f: Partitioned(len, f)]
)
def test_what_cannot_be_called(make: Callable[[Any], Any]) -> None:
    with pytest.raises(TypeError):  # the library's own error, or that of the type checks of the tests
        make(X0)


@methods
def test_adjoints_do_not_step_so(method: str) -> None:
    for gradient in ("adjoint", torchivp.gradients.Adjoint(method=method)):
        with pytest.raises(InputError, match=r"cannot take an integral along.*Adjoint\(method='tsit5'\)"):
            solve(PENDULUM, (X0.requires_grad_(False), V0), (0.0, 1.0), method=method, dt=0.1, gradient=gradient)
    x = X0.clone().requires_grad_()
    how = torchivp.gradients.Adjoint(method="tsit5")
    sol = solve(PENDULUM, (x, V0), (0.0, 1.0), method=method, dt=0.02, gradient=how, rtol=1e-6, atol=1e-6)
    sol.y[0][-1].sum().backward()
    exact = torch.func.grad(lambda x: solve(PENDULUM, (x, V0), (0.0, 1.0), rtol=1e-10, atol=1e-10).y[0][-1].sum())(X0)
    assert torch.allclose(x.grad, exact, atol=1e-3)


def test_names() -> None:
    assert all(issubclass(GEOMETRIC_METHODS[name], SplittingMethod) for name in SYMPLECTIC)
    with pytest.raises(InputError, match="Did you mean 'leapfrog'"):
        solve(PENDULUM, (X0, V0), (0.0, 1.0), method="leapfrogs")
