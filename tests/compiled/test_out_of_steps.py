"""Compiled solves that run out of steps say the same as eager ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import torchivp
from compiled.pairs import assert_same, torch64
from torchivp import Event, Status, StiffnessWarning

pytestmark = [pytest.mark.compiled, pytest.mark.usefixtures("python_loops")]

RATES = torch.tensor([1e4, 0.1, 1e3, 1.0, 3e4], dtype=torch64)
ROWS = torch.ones(5, 2, dtype=torch64)
HOW: dict[str, Any] = {"max_steps": 150, "rtol": 1e-4, "atol": 1e-6, "throw": False, "save": "steps"}


def rows(t: Tensor, y: Tensor, rate: Tensor) -> Tensor:
    """Decay, at a rate of each row; and a spring that takes many steps, in the fourth row."""
    rate = rate.unsqueeze(-1)
    spring = 300 * torch.stack([y[..., 1], -y[..., 0]], -1)
    return torch.where(rate == 1.0, spring, rate * (torch.cos(t).unsqueeze(-1) - y))


def one(rate: float) -> Any:
    def f(t: Tensor, y: Tensor) -> Tensor:
        return torch.where(torch.tensor(rate) == 1.0, 300 * torch.stack([y[1], -y[0]]), rate * (torch.cos(t) - y))

    return f


def pair(*problem: Any, warns: bool, **settings: Any) -> tuple[Any, Any]:
    """Eager and compiled; each warns once, or neither does."""
    found = []
    for runner in ("eager", "compiled"):
        with torch.no_grad():
            if not warns:
                found.append(torchivp.solve(*problem, runner=runner, **{**HOW, **settings}))
                continue
            with pytest.warns(StiffnessWarning) as said:
                found.append(torchivp.solve(*problem, runner=runner, **{**HOW, **settings}))
            assert len(said) == 1
    return found[0], found[1]


@pytest.mark.parametrize("method", ["bosh3", "tsit5"])
@pytest.mark.parametrize("events", [(), Event(lambda t, y: y[..., 0] - 0.5)], ids=["at once", "step by step"])
def test_one_problem(method: str, events: Any) -> None:
    for rate, status in ((1e4, Status.STIFF), (1.0, Status.MAX_STEPS)):
        problem = (one(rate), ROWS[0], (0.0, 20.0))
        eager, compiled = pair(*problem, method=method, events=events, warns=status is Status.STIFF)
        assert compiled.status is status
        assert_same(eager, compiled)


@pytest.mark.parametrize("method", ["dop853", "vern7"])
def test_one_problem_by_a_method_of_high_order(method: str) -> None:
    """Steps at the edge of stability make more of rounding errors, so only statuses and attempts are the same."""
    for rate, status in ((1e4, Status.STIFF), (1.0, Status.MAX_STEPS)):
        both = pair(one(rate), ROWS[0], (0.0, 20.0), method=method, warns=status is Status.STIFF)
        assert [sol.status for sol in both] == [status] * 2
        assert [sol.stats.attempted for sol in both] == [HOW["max_steps"]] * 2


@pytest.mark.parametrize("settings", [{}, {"dense": True}, {"couple": True}], ids=["at once", "dense", "coupled"])
def test_rows(settings: dict[str, Any]) -> None:
    _, compiled = pair(rows, ROWS, (0.0, 20.0), RATES, warns=True, batch_dims=1, method="bosh3", **settings)
    if settings.get("couple"):
        assert compiled.status == [Status.STIFF] * 5
    else:
        assert compiled.status == [Status.STIFF, Status.SUCCESS, Status.STIFF, Status.MAX_STEPS, Status.STIFF]


def test_rows_one_by_one() -> None:
    """Times, values, statuses, messages, attempts and evaluations of eager rows."""
    eager, compiled = pair(rows, ROWS, (0.0, 20.0), RATES, warns=True, batch_dims=1, method="bosh3")
    assert compiled.status == eager.status
    assert compiled.messages == eager.messages
    for name in ("attempted", "accepted", "rejected", "nfe"):
        assert torch.equal(torch.as_tensor(getattr(compiled.stats, name)), torch.as_tensor(getattr(eager.stats, name)))
    for a, b in zip(eager, compiled):
        torch.testing.assert_close(b.t, a.t, rtol=0, atol=1e-9)
        torch.testing.assert_close(b.y, a.y, rtol=1e-10, atol=1e-10)


def test_with_the_compiled_gradient() -> None:
    rates = RATES.clone().requires_grad_()
    how = {**HOW, "save": "end"}
    with pytest.warns(StiffnessWarning, match="in 3 of 5 rows"):
        sol = torchivp.solve(rows, ROWS, (0.0, 20.0), rates, batch_dims=1, runner="compiled", method="bosh3", **how)
    assert sol.status[0] is Status.STIFF
    assert torch.isfinite(torch.autograd.grad(sol.y.sum(), rates)[0]).all()
