"""``f`` is never evaluated outside [t0, t1]: whatever the method, the direction, the dtype, and who asks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import torchivp
from torchivp.methods import METHODS

DOUBLE, SINGLE = torch.float64, torch.float32
SPANS = {
    "unit": (0.0, 1.0),
    "not in float32": (0.1, 0.7),  # 0.1 rounds up in float32, 0.7 down
    "nor here": (0.3, 0.6),  # 0.3 rounds up, 0.6 up
    "across zero": (-0.7, 0.1),
    "far from zero": (1000.1, 1000.7),
}


class Watched:
    """A slope that notes the times it is asked at."""

    def __init__(self, f: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]):
        self.f = f
        self.times: list[float] = []

    def __call__(self, t: torch.Tensor, y: torch.Tensor, *args: torch.Tensor) -> torch.Tensor:
        self.times.append(t.detach().item())
        return self.f(t, y, *args)

    def check(self, t0: float, t1: float) -> None:
        """Every time lies in the interval, exactly; the times reach its ends (they were not cut short)."""
        low, high = min(t0, t1), max(t0, t1)
        assert self.times, "never asked"
        assert low <= min(self.times), f"asked at {min(self.times)!r}, before {low!r}"
        assert max(self.times) <= high, f"asked at {max(self.times)!r}, after {high!r}"


def settings(method: str, **kw: Any) -> dict[str, Any]:
    size = {"rtol": 1e-2, "atol": 1e-3} if METHODS[method]().adaptive else {"controller": torchivp.FixedSteps(dt=0.07)}
    return {"method": method, **size, **kw}


def slope(t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.cos(5 * t) * y - y * y / 4


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [DOUBLE, SINGLE], ids=["float64", "float32"])
@pytest.mark.parametrize("backwards", [False, True], ids=["increasing", "decreasing"])
def test_spans(method: str, dtype: torch.dtype, backwards: bool) -> None:
    """The ends alone; outputs and dense output inside."""
    y0 = torch.ones(2, dtype=dtype)
    for span in SPANS.values():
        t0, t1 = reversed(span) if backwards else span
        inside = [t0 + x * (t1 - t0) for x in (1e-7, 0.2, 0.25, 0.999999)]
        for times, dense in (([t0, t1], False), ([t0, *inside, t1], True)):
            f = Watched(slope)
            torchivp.solve(f, y0, times, dense=dense, **settings(method))
            f.check(t0, t1)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [DOUBLE, SINGLE], ids=["float64", "float32"])
@pytest.mark.parametrize("backwards", [False, True], ids=["increasing", "decreasing"])
def test_stops_jumps_and_events(method: str, dtype: torch.dtype, backwards: bool) -> None:
    """Jump times at, next to and outside the ends, stop times, an event that ends the solve."""
    t0, t1 = (0.7, 0.1) if backwards else (0.1, 0.7)
    y0 = torch.ones(2, dtype=dtype)
    crossing = torchivp.Event(lambda t, y: t - 0.45, terminal=True)
    for kw in (
        {"stop_times": [0.1, 0.3, 0.35, 0.7, 9.0]},
        {"jump_times": [0.0, 0.1, 0.2, 0.55, 0.7, 1.0]},
        {"jump_times": [t0 + 1e-9 * (t1 - t0), t1 - 1e-9 * (t1 - t0)]} if dtype == DOUBLE else {},
        {"events": [torchivp.Event(lambda t, y: y[0] - 1.02), crossing], "dense": True},
    ):
        f = Watched(slope)
        torchivp.solve(f, y0, (t0, t1), **settings(method, **kw))
        f.check(t0, t1)


@pytest.mark.parametrize("method", METHODS)
def test_jumps_are_not_crossed(method: str) -> None:
    """No step asks on both sides of a jump: f is constant in between, so that every method is exact."""

    def f(t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.where(t < 0.3, 1.0, torch.where(t < 0.5, -2.0, 5.0)).to(y) * torch.ones_like(y)

    for times in ((0.0, 1.0), (1.0, 0.0)):
        y0 = torch.zeros(1, dtype=DOUBLE)
        sol = torchivp.solve(f, y0, times, jump_times=[0.3, 0.5], **settings(method))
        whole = 0.3 - 0.4 + 2.5
        assert float(sol.y[-1]) == pytest.approx(whole if times[1] > times[0] else -whole, abs=1e-12)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("backwards", [False, True], ids=["increasing", "decreasing"])
def test_tiny_intervals(method: str, backwards: bool) -> None:
    """1e-10 long: the first step's probe would be far outside, had it its way."""
    for start, length in ((0.0, 1e-10), (0.1, 1e-10), (5.0, 1e-14), (1e6, 1e-9)):
        t0, t1 = (start + length, start) if backwards else (start, start + length)
        f = Watched(slope)
        kw = settings(method) if METHODS[method]().adaptive else {"method": method}
        sol = torchivp.solve(f, torch.ones(1, dtype=DOUBLE), (t0, t1), **kw)
        f.check(t0, t1)
        assert float(sol.y[-1]) == pytest.approx(1.0, abs=1e-8)


@pytest.mark.parametrize("method", [m for m in METHODS if METHODS[m]().adaptive])
def test_first_step_probe(method: str) -> None:
    """A slope that is nearly zero makes the first step's probe go far; f does not exist outside the interval."""

    def f(t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        assert 0.0 <= float(t) <= 0.5
        return torch.sqrt(t * (0.5 - t)) * 1e-9 * y

    for times in ((0.0, 0.5), (0.5, 0.0)):
        sol = torchivp.solve(f, torch.full((1,), 1e8, dtype=DOUBLE), times, method=method)
        assert sol.success


@pytest.mark.parametrize("gradient", ["direct", "discrete", "adjoint"])
@pytest.mark.parametrize("method", METHODS)
def test_backward_passes(method: str, gradient: str) -> None:
    """Replay and adjoint ask inside the interval as well, with times that require grad and outputs inside."""
    if gradient == "adjoint" and METHODS[method]().carries != "slopes":
        return  # refused: see test_adjoint
    for dtype in (DOUBLE, SINGLE):
        for t0, t1 in ((0.1, 0.7), (0.7, 0.1)):
            f = Watched(lambda t, y, w: torch.cos(5 * t) * w * y)
            y0 = torch.ones(2, dtype=dtype, requires_grad=True)
            w = torch.full((2,), 0.8, dtype=dtype, requires_grad=True)
            t = torch.tensor([t0, t0 + 0.37 * (t1 - t0), t1], dtype=DOUBLE, requires_grad=True)
            sol = torchivp.solve(f, y0, t, w, gradient=gradient, **settings(method))
            forward = len(f.times)
            sol.y.square().sum().backward()
            assert len(f.times) > forward or gradient == "direct"
            f.check(t0, t1)


def test_times_are_rounded_towards_the_interval() -> None:
    """float32: the last time is the largest one not past t1, not the one closest to it."""
    f = Watched(slope)
    torchivp.solve(f, torch.ones(1, dtype=SINGLE), (0.1, 0.6))
    assert max(f.times) == float(torch.nextafter(torch.tensor(0.6), torch.tensor(0.0)))
    assert min(f.times) == float(torch.tensor(0.1)) > 0.1


@pytest.mark.parametrize("dtype", [DOUBLE, SINGLE, torch.bfloat16], ids=["float64", "float32", "bfloat16"])
@pytest.mark.parametrize("span", [(0.0, 0.1), (0.0, -0.1), (0.3, 0.1), (0.1, 0.4)], ids=str)
def test_the_probe_of_a_slow_slope(span: tuple[float, float], dtype: torch.dtype) -> None:
    """The first step that Hairer's rule proposes reaches the end, which may round upwards."""
    f = Watched(lambda t, y: -1e-3 * y)
    y0 = torch.ones(1, dtype=dtype, requires_grad=True)
    sol = torchivp.solve(f, y0, span, gradient="adjoint", rtol=1e-2, atol=1e-2)
    sol.y[-1].sum().backward()
    f.check(*span)


def test_the_probe_stays_before_a_jump() -> None:
    f = Watched(lambda t, y: -1e-3 * y)
    torchivp.solve(f, torch.ones(1, dtype=DOUBLE), (0.0, 0.1), jump_times=[0.05])
    assert 0.05 not in f.times
