"""Implicit Runge-Kutta methods: stiff problems, the iteration, its gradient, and where f is asked."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import torchivp
from stiff_problems import STIFF
from torchivp import Status
from torchivp.linalg.newton import Equations, iterate, iterate_rows
from torchivp.methods import METHODS
from torchivp.methods.diagonal_rk import DiagonalRungeKutta
from torchivp.methods.implicit_rk import ImplicitRungeKutta

DOUBLE = torch.float64
IMPLICIT = [name for name, cls in METHODS.items() if issubclass(cls, DiagonalRungeKutta | ImplicitRungeKutta)]
ADAPTIVE = [name for name in IMPLICIT if METHODS[name]().adaptive]
HIGH = [name for name in ADAPTIVE if METHODS[name]().order > 2]
FEW = ["trbdf2", "kvaerno5", "kencarp4", "radau5", "gauss4"]  # one of each kind


def few_first(methods: list[str]) -> list[Any]:
    """The others only where there is time."""
    return [pytest.param(m, marks=[] if m in FEW else pytest.mark.slow) for m in methods]


def steps(method: str, dt: float = 0.05) -> dict[str, Any]:
    return {"method": method, "controller": torchivp.FixedSteps(dt=dt)}


# ---- stiff problems


@pytest.mark.parametrize("method", few_first(ADAPTIVE))
def test_robertson(method: str) -> None:
    """Within 100 tolerances at the end (Radau and Kvaerno: 30), at a cost that does not know of the stiffness."""
    problem = STIFF["Robertson"]
    rtol = 1e-4 if METHODS[method]().order < 3 else 1e-5
    with torch.no_grad():
        sol = torchivp.solve(
            problem.f, problem.start, (0.0, problem.t1), method=method, rtol=rtol, atol=problem.atol(rtol)
        )
    assert problem.error(sol.y[-1], rtol) < (30 if "radau" in method or "kvaerno" in method else 100)
    assert sol.stats.attempted < 1500


@pytest.mark.slow
@pytest.mark.parametrize("rtol", [1e-4, 1e-6, 1e-8])
@pytest.mark.parametrize("problem", STIFF.values(), ids=STIFF.keys())
@pytest.mark.parametrize("method", HIGH)
def test_stiff_problems(method: str, problem: Any, rtol: float) -> None:
    with torch.no_grad():
        sol = torchivp.solve(
            problem.f, problem.start, (0.0, problem.t1), method=method, rtol=rtol, atol=problem.atol(rtol)
        )
    assert problem.error(sol.y[-1], rtol) < (30 if "radau" in method or "kvaerno" in method else 100)


@pytest.mark.parametrize("method", [*IMPLICIT, "bdf", "auto"])
def test_what_autograd_cannot_follow(method: str) -> None:
    """Jacobians by differences, from slopes that an iteration has found only nearly."""

    def seen(t: Tensor, y: Tensor) -> Tensor:
        return torch.stack([y[1], 30 * (1 - y[0] ** 2) * y[1] - y[0] + torch.cos(t)])

    def hidden(t: Tensor, y: Tensor) -> Tensor:
        return seen(t, y).detach()

    y0, dt = torch.tensor([2.0, 0.0], dtype=DOUBLE), None if method in [*ADAPTIVE, "bdf", "auto"] else 0.01
    one, other = (torchivp.solve(f, y0, (0.0, 1.0), method=method, dt=dt, rtol=1e-4, atol=1e-6) for f in (seen, hidden))
    torch.testing.assert_close(other.y, one.y, rtol=1e-6, atol=1e-6)
    assert other.stats.attempted <= one.stats.attempted + 1


@pytest.mark.parametrize(
    "method", [m for m in IMPLICIT if m not in ("implicit_midpoint", "trapezoid", "gauss4", "gauss6")]
)
def test_prothero_robinson(method: str) -> None:
    """y' = -1e6 (y - sin t) + cos t with steps a million times too long for an explicit method stays at sin t."""
    f = lambda t, y: -1e6 * (y - torch.sin(t)) + torch.cos(t)
    sol = torchivp.solve(f, torch.zeros(1, dtype=DOUBLE), (0.0, 2.0), rtol=1e-10, atol=1e-10, **steps(method, 0.1))
    assert abs(float(sol.y[-1]) - math.sin(2.0)) < 1e-6


# ---- the iteration


def cube(wanted: float) -> Equations:
    return Equations(
        residual=lambda x: wanted - x**3,
        solve=lambda r: r / 3.5,
        measure=lambda dx, x: float(dx.abs().max()) / 1e-8,
        rounding=lambda x: 1e-6,
    )


def test_the_iteration_stops_at_a_hundredth_of_the_tolerance() -> None:
    root = iterate(cube(1.1), torch.ones(1, 1, dtype=DOUBLE), 1.0)
    assert root.found
    assert 1e-14 < abs(float(root.x) - 1.1 ** (1 / 3)) < 1e-10


def test_it_gives_up() -> None:
    assert not iterate(cube(1e3), torch.ones(1, 1, dtype=DOUBLE), 1.0).found


def test_nan_is_not_its_failure() -> None:
    root = iterate(cube(math.nan), torch.ones(1, 1, dtype=DOUBLE), 1.0)
    assert root.found
    assert bool(root.x.isnan().all())


def test_rows_stop_when_they_are_there() -> None:
    wanted = torch.tensor([[1.0, 1.1, 1e3, math.nan]], dtype=DOUBLE)
    rows = Equations(
        lambda x: wanted - x**3,
        lambda r: r / 3.5,
        lambda dx, x: dx.abs().view(-1) / 1e-8,
        lambda x: torch.full((4,), 1e-6),
    )
    root = iterate_rows(
        rows, torch.ones(1, 4, dtype=DOUBLE), torch.ones(4, dtype=DOUBLE), torch.ones(4, dtype=torch.bool)
    )
    assert root.found.tolist() == [True, True, False, True]
    assert float(root.x[0, 0]) == 1.0
    assert float(root.x[0, 1]) == float(iterate(cube(1.1), torch.ones(1, 1, dtype=DOUBLE), 1.0).x)
    assert bool(root.x[0, 3].isnan())


def jumps(t: Tensor, y: Tensor) -> Tensor:
    """No step of 0.5 has a solution: the slope jumps through what the equations want."""
    return torch.where(y > 0.5, -1e6 + 0 * y, 1e6 + 0 * y)


@pytest.mark.parametrize("method", ["implicit_euler", "gauss4"])
def test_fixed_steps_say_which_one_was_not_solved(method: str) -> None:
    sol = torchivp.solve(jumps, torch.ones(1, dtype=DOUBLE), (0.0, 1.0), method=method, dt=0.5, throw=False)
    assert sol.status is Status.NEWTON_FAILED
    assert "did not converge at t=0 with step size 0.5. Take a smaller dt" in sol.message


def test_rows_say_so_too() -> None:
    y0 = torch.tensor([[1.0], [-1e9]], dtype=DOUBLE)  # the second one is far from the jump
    sol = torchivp.solve(jumps, y0, (0.0, 1.0), method="implicit_euler", dt=0.5, batch_dims=1, throw=False)
    assert sol.status == [Status.NEWTON_FAILED, Status.SUCCESS]
    assert "did not converge at t=0 with step size 0.5" in sol.messages[0]


@pytest.mark.parametrize("batch_dims", [0, 1])
def test_adaptive_steps_shrink_and_then_say_so(batch_dims: int) -> None:
    """f gives another number every time: no iteration converges, however small the step."""
    calls = [0]

    def noise(t: Tensor, y: Tensor) -> Tensor:
        calls[0] += 1
        return 0 * y + 1e300 * math.sin(7.0 * calls[0])

    y0 = torch.ones(1, 1, dtype=DOUBLE)
    sol = torchivp.solve(noise, y0, (1.0, 2.0), method="trbdf2", dt=0.1, batch_dims=batch_dims, throw=False)
    status = sol.status[0] if batch_dims else sol.status
    assert status is Status.NEWTON_FAILED


# ---- rows, complex states, and where f is asked


@pytest.mark.parametrize("method", FEW)
def test_rows_are_what_they_are_alone(method: str) -> None:
    rates = torch.tensor([1.0, 30.0, 300.0], dtype=DOUBLE)

    def f(t: Tensor, y: Tensor, rate: Tensor) -> Tensor:
        x, v = y.unbind(-1)
        return torch.stack([v, rate * (1 - x * x) * v - x + torch.sin(t)], -1)

    how = {"method": method} if METHODS[method]().adaptive else steps(method)
    y0, t = torch.tensor([[2.0, 0.0]] * 3, dtype=DOUBLE), torch.linspace(0, 1, 4, dtype=DOUBLE)
    rows = torchivp.solve(f, y0, t, rates, batch_dims=1, **how)
    for b, rate in enumerate(rates):
        alone = torchivp.solve(f, y0[b], t, rate, **how)
        assert torch.allclose(rows.y[b], alone.y, rtol=1e-11, atol=1e-12)
        assert int(rows.stats.accepted[b]) == alone.stats.accepted


@pytest.mark.parametrize("method", FEW)
def test_complex_states(method: str) -> None:
    """f need not be differentiable in the complex sense."""

    def f(t: Tensor, y: Tensor) -> Tensor:
        return (-3 + 2j) * y + 1j * y.conj() + torch.cos(t)

    def as_real(t: Tensor, y: Tensor) -> Tensor:
        return torch.view_as_real(f(t, torch.view_as_complex(y)))

    y0 = torch.tensor([1.0 + 0j, 2j], dtype=torch.complex128)
    ends = [
        torchivp.solve(f, y0, (0.0, 1.0), rtol=1e-11, atol=1e-11, **steps(method)).y[-1],
        torch.view_as_complex(
            torchivp.solve(as_real, torch.view_as_real(y0), (0.0, 1.0), rtol=1e-11, atol=1e-11, **steps(method)).y[-1]
        ),
    ]
    assert torch.allclose(*ends, rtol=1e-9)


@pytest.mark.parametrize("batch_dims", [0, 1])
@pytest.mark.parametrize("method", ["kvaerno4", "kvaerno5"])
def test_no_node_lies_behind_a_landing(method: str, batch_dims: int) -> None:
    asked: list[float] = []

    def f(t: Tensor, y: Tensor) -> Tensor:
        asked.extend(t.detach().reshape(-1).tolist())
        return -y * torch.where(t < 0.4, 1.0, 2.0).reshape(-1, 1)

    how: dict[str, Any] = {"method": method, "rtol": 1e-3, "atol": 1e-3, "batch_dims": batch_dims}
    y0 = torch.ones(1, 1, dtype=DOUBLE)
    before = torchivp.solve(f, y0, (0.0, 1.0), jump_times=[0.4], dt=0.3, save="steps", **how)
    assert max(asked) <= 1.0
    assert torch.allclose(before.y.reshape(-1)[-1], torch.exp(torch.tensor(-1.6, dtype=DOUBLE)), rtol=1e-2)
    asked.clear()
    torchivp.solve(f, y0, (0.0, 0.4), dt=0.3, **how)
    assert max(asked) <= 0.4


# ---- gradients


def oscillator(t: Tensor, y: Tensor, p: Tensor) -> Tensor:
    return torch.stack([y[1], p[0] * (1 - y[0] ** 2) * y[1] - y[0] + p[1] * torch.sin(t)])


Y0, P = torch.tensor([2.0, 0.3], dtype=DOUBLE), torch.tensor([20.0, 0.5], dtype=DOUBLE)


def loss(p: Tensor, method: str, gradient: str = "discrete", rtol: float = 1e-12) -> Tensor:
    how = {**steps(method), "rtol": rtol, "atol": rtol, "gradient": gradient}
    return (torchivp.solve(oscillator, Y0, (0.0, 0.3), p, **how).y[-1] ** 2).sum()


@pytest.mark.parametrize("gradient", ["direct", "discrete"])
@pytest.mark.parametrize("method", few_first(IMPLICIT))
def test_gradients_are_those_of_finite_differences(method: str, gradient: str) -> None:
    p = P.clone().requires_grad_()
    (grad,) = torch.autograd.grad(loss(p, method, gradient), p)
    for i in range(2):
        step = torch.zeros(2, dtype=DOUBLE)
        step[i] = 1e-4
        with torch.no_grad():
            ends = [loss(P + x * step, method) for x in (-2, -1, 1, 2)]
        difference = (ends[0] - 8 * ends[1] + 8 * ends[2] - ends[3]) / 12e-4
        assert torch.isclose(grad[i], difference, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("method", FEW)
def test_the_number_of_iterations_does_not_matter(method: str) -> None:
    """Loosely solved stages are less exact, and so is their gradient; but it is one of converged stages there."""
    grads = []
    for rtol in (1e-12, 1e-7):
        p = P.clone().requires_grad_()
        grads.append(torch.autograd.grad(loss(p, method, rtol=rtol), p)[0])
    assert torch.allclose(*grads, rtol=1e-6)


@pytest.mark.parametrize("gradient", ["direct", "discrete"])
@pytest.mark.parametrize("method", FEW)
def test_second_derivatives(method: str, gradient: str) -> None:
    p = P.clone().requires_grad_()
    (grad,) = torch.autograd.grad(loss(p, method, gradient), p, create_graph=True)
    (second,) = torch.autograd.grad(grad[0], p)
    grads = []
    for x in (-1e-3, 1e-3):
        q = (P + torch.tensor([x, 0.0], dtype=DOUBLE)).requires_grad_()
        grads.append(torch.autograd.grad(loss(q, method), q)[0])
    assert torch.allclose(second, (grads[1] - grads[0]) / 2e-3, rtol=1e-5, atol=1e-8)


# ---- IMEX


SPLIT = torchivp.Split(
    implicit=lambda t, y: -30 * (y - torch.cos(6 * t)) - 0.3 * y**2,
    explicit=lambda t, y: torch.sin(5 * t) * y - 6 * torch.sin(6 * t),
)


@pytest.mark.parametrize("method", ["kencarp3", "kencarp4", "kencarp5"])
def test_imex_order(method: str) -> None:
    """Of the coupled method, at the steps and between them (Hermite: order 4 in between)."""
    order = METHODS[method]().order
    y0 = torch.tensor([1.0, 0.5], dtype=DOUBLE)
    tight = {"rtol": 1e-13, "atol": 1e-13, "dense": True}
    exact = torchivp.solve(SPLIT, y0, (0.0, 0.5), method="dopri8", **tight)
    at = torch.linspace(0.0, 0.5, 27, dtype=DOUBLE)
    errors = []
    for n in (80, 160):
        sol = torchivp.solve(SPLIT, y0, (0.0, 0.5), **steps(method, 0.5 / n), **tight)
        errors.append([float((sol.y[-1] - exact.y[-1]).abs().max()), float((sol(at) - exact(at)).abs().max())])
    at_end, between = (math.log2(a / b) for a, b in zip(*errors))
    assert at_end > order - 0.2
    assert between > min(order, 4) - 0.3


def test_the_explicit_part_is_not_differentiated() -> None:
    """It may be what autograd cannot follow; and it is a part of the gradient all the same."""
    seen: list[bool] = []

    def explicit(t: Tensor, y: Tensor) -> Tensor:
        seen.append(y.requires_grad)
        return torch.cos(t) * y

    split = torchivp.Split(lambda t, y: -50.0 * y, explicit)
    with torch.no_grad():
        torchivp.solve(split, torch.ones(2, dtype=DOUBLE), (0.0, 1.0), method="kencarp4")
    assert not any(seen)


def test_every_method_takes_the_sum() -> None:
    y0 = torch.tensor([1.0, 0.5], dtype=DOUBLE)
    whole = torchivp.solve(lambda t, y: SPLIT(t, y), y0, (0.0, 0.5), method="tsit5")
    assert torch.equal(torchivp.solve(SPLIT, y0, (0.0, 0.5), method="tsit5").y, whole.y)


def test_gradient_of_an_imex_solve() -> None:
    def end(p: Tensor) -> Tensor:
        split = torchivp.Split(lambda t, y: -p[0] * (y - torch.cos(t)) ** 3, lambda t, y: p[1] * torch.sin(t) * y)
        y0 = torch.tensor([1.0, 0.5], dtype=DOUBLE)
        return torchivp.solve(split, y0, (0.0, 1.0), rtol=1e-12, atol=1e-12, **steps("kencarp3", 0.1)).y[-1].sum()

    p = torch.tensor([10.0, 0.7], dtype=DOUBLE, requires_grad=True)
    (grad,) = torch.autograd.grad(end(p), p)
    for i in range(2):
        step = torch.zeros(2, dtype=DOUBLE)
        step[i] = 1e-4
        with torch.no_grad():
            assert torch.isclose(grad[i], (end(p + step) - end(p - step)) / 2e-4, rtol=1e-6)


@pytest.mark.parametrize("method", ["kencarp4", "tsit5"])
def test_both_parts_of_a_split_may_return_one_buffer(method: str) -> None:
    buffer = torch.zeros(2, dtype=torch.float64)
    shared = torchivp.Split(lambda t, y: buffer.copy_(-50 * y), lambda t, y: buffer.copy_(torch.ones_like(y)))
    apart = torchivp.Split(lambda t, y: -50 * y, lambda t, y: torch.ones_like(y))
    y0 = torch.ones(2, dtype=torch.float64)
    with torch.no_grad():
        one, other = (torchivp.solve(f, y0, (0.0, 1.0), method=method, max_steps=1000).y for f in (shared, apart))
    assert torch.allclose(one, other, rtol=1e-7, atol=0.0)


def test_a_part_that_is_no_function() -> None:
    with pytest.raises(torchivp.InputTypeError, match="explicit part of a Split is a int"):
        torchivp.Split(lambda t, y: y, 3)
