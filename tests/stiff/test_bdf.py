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
    for name in ("HIRES", "pollution", "Robertson", "van der Pol, 1000")
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
    assert problem.error(ours.y[-1], rtol) < 200
    assert ours.stats.accepted < 1.5 * len(theirs.t)
    assert ours.stats.nfe < 1.6 * theirs.nfev


def test_sum_of_robertson_stays() -> None:
    assert abs(float(solved("Robertson", 1e-4).y[-1].sum()) - 1) < 1e-12


@pytest.mark.parametrize("most", [3, 5])
def test_error_falls_with_the_tolerance(most: int) -> None:
    def error(rtol: float) -> tuple[float, int]:
        solution = relaxed((0.0, 1.0), rtol, BDF(most))
        return float((solution.y[-1] - math.cos(1.0)).abs()), solution.stats.accepted

    (loose, few), (tight, many) = error(1e-4), error(1e-6)
    assert tight < loose / 8
    slope = math.log(100) / math.log(
        many / few
    )  # a tolerance 100 times smaller takes 100^(1 / (k + 1)) times the steps
    assert slope > most + 0.5 if most < 4 else slope > 4


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


def test_rows_are_refused_by_name() -> None:
    with pytest.raises(torchivp.InputError, match="BDF"):
        torchivp.solve(lambda t, y: -y, torch.ones(3, 2), (0.0, 1.0), method="bdf", batch_dims=1)


def test_the_compiled_runner_refuses_by_name() -> None:
    with pytest.raises(torchivp.TorchIVPError, match="BDF"):
        torchivp.solve(lambda t, y: -y, torch.ones(2), (0.0, 1.0), method="bdf", runner="compiled")


def test_orders_there_are() -> None:
    with pytest.raises(torchivp.InputError, match="max_order=6"):
        BDF(6)
