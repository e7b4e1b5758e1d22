"""The fixed-step implicit methods of torchdiffeq's main branch, which the released one lacks: names, orders, gradients."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import torchivp
from torchivp.compat.torchdiffeq.errors import NotSolved

ORDERS = {
    "implicit_euler": 1, "implicit_midpoint": 2, "trapezoid": 2, "radauIIA3": 3, "gl4": 4, "radauIIA5": 5, "gl6": 6, "sdirk2": 2,
    "trbdf2": 2,
}  # fmt: skip
TIGHT = {"rtol": 1e-11, "atol": 1e-11}


def f(t: Tensor, y: Tensor) -> Tensor:
    """y = exp(sin t): torchdiffeq's gl4 is of order 1 here."""
    return torch.cos(t) * y


@pytest.mark.parametrize("method", ORDERS)
def test_orders(method: str) -> None:
    order = ORDERS[method]
    first = 64 if order < 3 else 10
    errors = []
    for steps in (first, 2 * first):
        options = {"step_size": 2 / steps}
        y = torchivp.odeint(
            f, torch.ones(1, dtype=torch.float64), torch.tensor([0.0, 2.0]), method=method, options=options, **TIGHT
        )
        errors.append(abs(float(y[-1]) - math.exp(math.sin(2.0))))
    assert math.log2(errors[0] / errors[1]) > order - 0.2


@pytest.mark.parametrize("method", ["trbdf2", "radauIIA3"])
def test_gradients(method: str) -> None:
    y0 = torch.ones(2, dtype=torch.float64)
    rate = torch.tensor(-3.0, dtype=torch.float64, requires_grad=True)
    t = torch.linspace(0.0, 1.0, 6, dtype=torch.float64)

    def end(rate: Tensor) -> Tensor:
        return torchivp.odeint(lambda t, y: rate * y * y, y0, t, method=method, **TIGHT)[-1].sum()

    (grad,) = torch.autograd.grad(end(rate), rate)
    with torch.no_grad():
        difference = (end(rate + 1e-5) - end(rate - 1e-5)) / 2e-5
    assert torch.isclose(grad, difference, rtol=1e-8)


def test_the_tolerance_is_what_was_asked_for() -> None:
    """Looser stages cost less and are less exact."""
    calls, ends = [], []
    for tol in (1e-2, 1e-12):
        count = [0]

        def counted(t: Tensor, y: Tensor, count: list[int] = count) -> Tensor:
            count[0] += 1
            return -(y**3) * 20

        y0 = torch.ones(1, dtype=torch.float64)
        y = torchivp.odeint(counted, y0, torch.linspace(0, 1, 6), method="trapezoid", rtol=tol, atol=tol)
        calls.append(count[0])
        ends.append(float(y[-1]))
    assert calls[0] < calls[1]
    assert 1e-9 < abs(ends[0] - ends[1]) < 1e-2


def test_a_stage_that_is_not_found_is_an_error() -> None:
    def jumps(t: Tensor, y: Tensor) -> Tensor:
        return torch.where(y > 0.5, -1e6 * y, 1e6)

    with pytest.raises(NotSolved, match=r"did not converge at t=0 with step size 0\.5.*smaller dt") as error:
        torchivp.odeint(jumps, torch.ones(1), torch.tensor([0.0, 1.0]), method="trbdf2", options={"step_size": 0.5})
    assert isinstance(error.value, AssertionError)


def test_few_iterations_are_not_a_setting() -> None:
    with pytest.warns(UserWarning, match="max_iters=3 is not needed"):
        torchivp.odeint(f, torch.ones(1), torch.tensor([0.0, 1.0]), method="gl4", options={"max_iters": 3})
