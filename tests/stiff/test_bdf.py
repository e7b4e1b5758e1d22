"""BDF: against SciPy's on stiff problems, invariants, order, gradients, and where it must land."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

import torchivp
from stiff_problems import STIFF
from torchivp import Solution
from torchivp.methods import BDF

CASES = [
    pytest.param(name, rtol, id=f"{name}-{rtol:g}", marks=[] if name == "pollution" and rtol > 1e-8 else pytest.mark.slow)
    for name in STIFF
    for rtol in (1e-4, 1e-6, 1e-8)
]  # fmt: skip


def solved(name: str, rtol: float, method: str | BDF = "bdf") -> Solution:
    problem = STIFF[name]
    with torch.no_grad():
        return torchivp.solve(
            problem.f, problem.start, (0.0, problem.t1), method=method, rtol=rtol, atol=problem.atol(rtol)
        )


@pytest.mark.parametrize(("name", "rtol"), CASES)
def test_as_good_as_scipy(name: str, rtol: float) -> None:
    problem = STIFF[name]
    ours = solved(name, rtol)
    theirs = solve_ivp(
        lambda t, y: problem.f(torch.tensor(t), torch.tensor(y)).numpy(),
        (0.0, problem.t1), np.array(problem.y0), method="BDF", rtol=rtol, atol=problem.atol(rtol),
    )  # fmt: skip
    assert problem.error(ours.y[-1], rtol) < 50
    assert ours.stats.accepted < len(theirs.t)
    assert ours.stats.nfe < 1.3 * theirs.nfev


def test_sum_of_robertson_stays() -> None:
    assert abs(float(solved("Robertson", 1e-4).y[-1].sum()) - 1) < 1e-12


def off_by(solution: Solution) -> float:
    """The largest error of ``relaxed`` at its steps."""
    return float((solution.y[:, 0] - torch.cos(solution.t)).abs().max())


@pytest.mark.parametrize(
    ("most", "loose", "tight"), [(1, 1e-4, 1e-6), (2, 1e-6, 1e-9), (3, 1e-7, 1e-10), (5, 1e-7, 1e-10)]
)
def test_error_and_steps_follow_the_tolerance(most: int, loose: float, tight: float) -> None:
    """Order k takes steps h of tol^(1 / (k + 1)), and its error is of the size h^k."""
    one, two = (relaxed((0.0, 1.0), rtol, BDF(most), save="steps") for rtol in (loose, tight))
    decades = math.log(loose / tight)
    assert math.log(off_by(one) / off_by(two)) / decades > 0.9 * most / (most + 1)
    assert math.log(two.stats.accepted / one.stats.accepted) / decades < 1.05 / (most + 1)


@pytest.mark.parametrize("most", [1, 2, 3, 4])
def test_order_on_fixed_steps(most: int) -> None:
    def error(n: int) -> float:
        steps = torchivp.FixedSteps(dt=1 / n)
        return abs(float(relaxed((0.0, 1.0), 1e-12, BDF(most), controller=steps).y[-1]) - math.cos(1.0))

    assert math.log2(error(40) / error(80)) == pytest.approx(most, abs=0.1)


def relaxed(t: object, rtol: float = 1e-6, method: str | BDF = "bdf", **more: object) -> Solution:
    """y = cos t, stiff around it."""

    def f(t: Tensor, y: Tensor) -> Tensor:
        return -50.0 * (y - torch.cos(t)) - torch.sin(t)

    with torch.no_grad():
        return torchivp.solve(f, torch.ones(1, dtype=torch.float64), t, method=method, rtol=rtol, atol=rtol, **more)  # type: ignore[arg-type]


def test_saved_times_and_dense_output_are_as_good_as_the_steps() -> None:
    times = torch.linspace(0, 3, 101, dtype=torch.float64)
    solution = relaxed(times, dense=True)
    assert float((solution.y[:, 0] - torch.cos(times)).abs().max()) < 2e-5
    assert torch.allclose(solution.dense(times), solution.y, rtol=1e-12, atol=1e-12)


def test_it_lands_on_stops_and_jumps() -> None:
    solution = relaxed((0.0, 3.0), stop_times=[1.0, 1.0001], jump_times=[2.0])
    assert float((solution.y[-1] - math.cos(3.0)).abs()) < 2e-5


def test_an_event_is_found() -> None:
    event = torchivp.Event(lambda t, y: y[0], terminal=True)
    solution = relaxed((0.0, 3.0), 1e-8, events=event)
    assert float(solution.t[-1]) == pytest.approx(math.pi / 2, abs=1e-6)


def test_backwards_in_time_and_inside_the_interval() -> None:
    seen: list[float] = []

    def f(t: Tensor, y: Tensor) -> Tensor:
        seen.append(float(t))
        return 50.0 * (y - torch.cos(t)) - torch.sin(t)

    with torch.no_grad():
        solution = torchivp.solve(
            f, torch.ones(1, dtype=torch.float64), (0.0, -2.0), method="bdf", rtol=1e-6, atol=1e-6
        )
    assert float((solution.y[-1] - math.cos(2.0)).abs()) < 2e-5
    assert -2 <= min(seen) <= max(seen) <= 0


@pytest.mark.parametrize("gradient", ["direct", "discrete"])
def test_gradient_against_differences(gradient: str) -> None:
    """Steps of a given size: what is differenced is smooth but for the choice of orders."""

    def end(x: Tensor) -> Tensor:
        def f(t: Tensor, y: Tensor, a: Tensor) -> Tensor:
            return torch.stack([y[1], a * (1 - y[0] ** 2) * y[1] - y[0]])

        steps = torchivp.FixedSteps(dt=0.02)
        solution = torchivp.solve(
            f, x[:2], (0.0, 1.0), args=x[2], method="bdf", controller=steps, gradient=gradient, rtol=1e-6, atol=1e-6
        )
        return solution.y[-1].sum()

    x = torch.tensor([1.5, 0.3, 8.0], dtype=torch.float64, requires_grad=True)
    (ours,) = torch.autograd.grad(end(x), x)
    with torch.no_grad():
        steps = 1e-6 * torch.eye(3, dtype=torch.float64)
        differences = torch.stack([(end(x + d) - end(x - d)) / 2e-6 for d in steps])
    assert torch.allclose(ours, differences, rtol=1e-5, atol=1e-7)


def test_both_gradients_agree_where_steps_adapt() -> None:
    def gradient(name: str) -> Tensor:
        t = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64, requires_grad=True)
        a = torch.tensor(20.0, dtype=torch.float64, requires_grad=True)
        y0 = torch.ones(1, dtype=torch.float64)
        solution = torchivp.solve(
            lambda t, y, a: -a * (y - torch.cos(t)) + y**2, y0, t, args=a, method="bdf", gradient=name
        )
        return torch.cat([g.reshape(-1) for g in torch.autograd.grad(solution.y.sum(), (t, a))])

    assert torch.allclose(gradient("direct"), gradient("discrete"), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["HIRES", "Robertson"])
def test_jacobians_and_factorisations_serve_many_steps(name: str) -> None:
    stats = solved(name, 1e-6).stats
    assert stats.accepted > 10 * stats.njev
    assert stats.accepted > 2 * stats.nlu
    assert stats.nlu > 2 * stats.njev


def van_der_pol_end(gradient: str, every: str | int = "sqrt") -> tuple[Tensor, Tensor]:
    mu = torch.tensor(30.0, dtype=torch.float64, requires_grad=True)

    def f(t: Tensor, y: Tensor, mu: Tensor) -> Tensor:
        return torch.stack([y[1], mu * ((1 - y[0] ** 2) * y[1] - y[0])])

    y0 = torch.tensor([2.0, 0.0], dtype=torch.float64)
    how = torchivp.gradients.Discrete(every=every) if gradient == "discrete" else gradient
    solution = torchivp.solve(f, y0, (0.0, 2.0), args=mu, method="bdf", rtol=1e-3, atol=1e-4, gradient=how)
    return solution.y[-1].detach(), torch.autograd.grad(solution.y[-1].sum(), mu)[0]


@pytest.mark.parametrize("every", [1, 7, "sqrt"])
def test_steps_are_taken_again_with_the_matrices_they_had(every: str | int) -> None:
    """With others, iterations end elsewhere, by a hundredth of the tolerance."""
    value, gradient = van_der_pol_end("direct")
    again, by_replay = van_der_pol_end("discrete", every)
    assert torch.equal(value, again)
    assert torch.allclose(gradient, by_replay, rtol=1e-10, atol=0.0)


def test_a_matrix_from_before_a_jump_does_no_harm() -> None:
    """From slow to fast: the old matrix does not serve, and is found again."""

    def f(t: Tensor, y: Tensor) -> Tensor:
        return torch.where(t < 1, -y, -1e4 * (y - torch.sin(t)))

    with torch.no_grad():
        y0 = torch.ones(1, dtype=torch.float64)
        solution = torchivp.solve(f, y0, (0.0, 2.0), method="bdf", rtol=1e-6, atol=1e-8, jump_times=[1.0])
    exact = (1e8 * math.sin(2.0) - 1e4 * math.cos(2.0)) / (1e8 + 1)
    assert float(solution.y[-1]) == pytest.approx(exact, abs=1e-6)
    assert solution.stats.njev < 10


def test_rows_are_refused_by_name() -> None:
    with pytest.raises(torchivp.InputError, match="BDF"):
        torchivp.solve(lambda t, y: -y, torch.ones(3, 2), (0.0, 1.0), method="bdf", batch_dims=1)


def test_the_compiled_runner_refuses_by_name() -> None:
    with pytest.raises(torchivp.TorchIVPError, match="BDF"):
        torchivp.solve(lambda t, y: -y, torch.ones(2), (0.0, 1.0), method="bdf", runner="compiled")


def test_orders_there_are() -> None:
    with pytest.raises(torchivp.InputError, match="max_order=6"):
        BDF(6)
