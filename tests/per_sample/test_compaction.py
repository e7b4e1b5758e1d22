"""``compact=True``: rows that are done are left out of what ``f`` gets, and nothing else changes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import torchivp
from torchivp.solution import Status

F64 = torch.float64
N = 40
RATES = torch.logspace(-1, 1.3, N, dtype=F64)
Y0 = torch.linspace(-1, 2, 2 * N, dtype=F64).view(N, 2)


class Turning:
    """Oscillators whose frequencies are in args; counts the rows it gets."""

    def __init__(self) -> None:
        self.rows: list[int] = []

    def __call__(self, t: Tensor, y: Tensor, args: dict[str, Tensor]) -> Tensor:
        self.rows.append(len(y))
        assert t.shape == args["rate"].shape == (len(y),)
        x, v = y.unbind(-1)
        return torch.stack([v, -x], -1) * args["rate"].unsqueeze(-1) * args["shared"]


def solve(f: Any, **kw: Any) -> torchivp.BatchSolution:
    args = {"rate": RATES, "shared": torch.tensor([1.5], dtype=F64)}
    return torchivp.solve(f, Y0, kw.pop("t", (0.0, 1.0)), args, batch_dims=1, rtol=1e-5, **kw)


OWN_TIMES = torch.stack([torch.linspace(0, a, 7, dtype=F64) for a in torch.linspace(0.2, -1.3, N)])


@pytest.mark.parametrize(
    "kw",
    [
        {}, {"save": "steps"}, {"save": "end"}, {"t": torch.linspace(0, 1, 9, dtype=F64)}, {"t": OWN_TIMES},
        {"stop_times": [0.31], "jump_times": [0.62]}, {"controller": torchivp.PID(p=0.3, i=0.3)},
        {"method": "dopri8"}, {"method": torchivp.methods.Reversible("bosh3")}, {"atol": torch.full((N, 1), 1e-6)},
        {"norm": "max"},
    ],
    ids=["ends", "steps", "end", "times", "own times", "stops and jumps", "PI", "dopri8", "reversible", "tolerances", "max"],
)  # fmt: skip
def test_nothing_else_changes(kw: dict[str, Any]) -> None:
    full, few = Turning(), Turning()
    with torch.no_grad():
        expected, found = solve(full, **kw), solve(few, compact=True, **kw)
    assert found.stats.nfe == len(few.rows)
    assert torch.equal(found.stats.attempted, expected.stats.attempted)
    assert torch.equal(found.stats.accepted, expected.stats.accepted)
    assert torch.equal(found.lengths, expected.lengths)
    for a, b in zip(found, expected):
        torch.testing.assert_close(a.t, b.t, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(a.y, b.y, rtol=1e-8, atol=1e-8)
    assert sum(few.rows) < 0.7 * sum(full.rows)
    assert len(set(few.rows)) > 3  # more than once


def test_rows_that_fail() -> None:
    def f(t: Tensor, y: Tensor, power: Tensor) -> Tensor:
        return torch.where(power.unsqueeze(-1) > 1, y**2, -power.unsqueeze(-1) * y)

    power = torch.tensor([0.5, 2.0, 0.1, 0.7, 2.0, 0.3], dtype=F64)
    y0 = torch.tensor([[1.0], [2.0], [1.0], [1.0], [0.5], [3.0]], dtype=F64)
    with torch.no_grad():
        sol = torchivp.solve(f, y0, (0.0, 1.0), power, batch_dims=1, compact=True, throw=False, max_steps=300)
        expected = torchivp.solve(f, y0, (0.0, 1.0), power, batch_dims=1, throw=False, max_steps=300)
    assert sol.failed == expected.failed == [1]
    assert sol.status == expected.status
    assert sol.messages[1].startswith("The step became too small")
    assert sol.status[4] is Status.SUCCESS


def test_direct_gradients_pass_through() -> None:
    grads = []
    for compact in (False, True):
        rates = RATES.clone().requires_grad_()
        y0 = Y0.clone().requires_grad_()
        args = {"rate": rates, "shared": torch.tensor([1.5], dtype=F64)}
        sol = torchivp.solve(Turning(), y0, (0.0, 0.3), args, batch_dims=1, gradient="direct", compact=compact)
        grads.append(torch.autograd.grad(sol.y.sin().sum(), [rates, y0]))
    for a, b in zip(*grads):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)


def test_what_f_closes_over_is_said() -> None:
    def f(t: Tensor, y: Tensor) -> Tensor:
        return -RATES.unsqueeze(-1) * y

    with torch.no_grad(), pytest.raises(torchivp.InputError, match=r"(?s)close over.*args.*leave compact out"):
        torchivp.solve(f, Y0, (0.0, 1.0), batch_dims=1, compact=True)

    def sneaky(t: Tensor, y: Tensor) -> Tensor:
        return -(y - y.mean(0))

    with torch.no_grad(), pytest.raises(torchivp.InputError, match="others than among all"):
        torchivp.solve(sneaky, Y0, (0.0, 1.0), batch_dims=1, compact=True)


@pytest.mark.parametrize(
    ("kw", "hint"),
    [
        ({"dense": True}, "dense=True"),
        ({"events": lambda t, y, args: y[:, 0]}, "events"),
        ({"on_step": lambda t, y: False}, "on_step"),
    ],
    ids=["dense", "events", "on_step"],
)
def test_what_sees_all_rows_is_refused(kw: dict[str, Any], hint: str) -> None:
    with pytest.raises(torchivp.InputError, match=hint):
        solve(Turning(), compact=True, **kw)


def test_it_needs_rows_and_no_tape() -> None:
    with pytest.raises(torchivp.InputError, match="batch_dims=1"):
        torchivp.solve(lambda t, y: -y, Y0, (0.0, 1.0), compact=True)
    y0 = Y0.clone().requires_grad_()
    with pytest.raises(torchivp.InputError, match="gradient='direct'"):
        torchivp.solve(lambda t, y: -y, y0, (0.0, 1.0), batch_dims=1, compact=True)


def test_coupled_rows_stay_coupled() -> None:
    with torch.no_grad():
        expected, found = (solve(Turning(), t=OWN_TIMES, couple=True, compact=c) for c in (False, True))
    assert torch.equal(found.stats.accepted, expected.stats.accepted)
    for a, b in zip(found, expected):
        torch.testing.assert_close(a.y, b.y, rtol=1e-8, atol=1e-8)


def test_autocast_holds_for_the_rows_left() -> None:
    def f(t: Tensor, y: Tensor, rate: Tensor) -> Tensor:
        seen.append(torch.is_autocast_enabled("cpu"))
        return -rate.unsqueeze(-1) * y

    seen: list[bool] = []
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        torchivp.solve(f, Y0, (0.0, 1.0), RATES, batch_dims=1, compact=True)
    assert all(seen)
