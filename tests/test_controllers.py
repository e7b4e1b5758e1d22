"""Step-size control, the first step, and times a solve must land on."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import torchivp
from torchivp import PI, PID, FixedSteps, I, InputError, solve
from torchivp.controllers import Limits
from torchivp.controllers.limits import after, before

ONE = torch.ones(1, dtype=torch.float64)
ADAPTIVE = [name for name, m in sorted(torchivp.methods.METHODS.items()) if m().adaptive]
FIXED = [name for name, m in sorted(torchivp.methods.METHODS.items()) if not m().adaptive]


def f(t: Tensor, y: Tensor) -> Tensor:
    """y = exp(sin t)."""
    return torch.cos(t) * y


def van_der_pol(t: Tensor, y: Tensor) -> Tensor:
    return torch.stack([y[1], 20 * (1 - y[0] ** 2) * y[1] - y[0]])


def stiff(t: Tensor, y: Tensor) -> Tensor:
    """Stability, not accuracy, limits the steps; the solution follows cos t."""
    return -200 * (y - torch.cos(t))


# ---- the law


def test_the_classical_law() -> None:
    control = I()
    assert control == PID()
    for ratio in (1e-3, 0.1, 0.5, 0.99):
        verdict = control.judge(ratio, 0.1, (), 5)
        assert verdict.accepted
        assert verdict.dt == pytest.approx(0.1 * min(10, 0.9 * ratio**-0.2))
    for ratio in (1.01, 50.0, 1e10):
        verdict = control.judge(ratio, 0.1, (0.5,), 5)
        assert not verdict.accepted
        assert verdict.memory == (0.5,)
        assert verdict.dt == pytest.approx(0.1 * max(0.2, 0.9 * ratio**-0.2))
    assert control.judge(0.0, 0.1, (), 5).dt == pytest.approx(1.0)
    assert control.judge(1e-320, 0.1, (), 1).dt == pytest.approx(1.0)


@pytest.mark.parametrize("ratio", [math.nan, math.inf])
def test_a_ratio_that_is_not_finite_shrinks_the_step(ratio: float) -> None:
    verdict = PID(min_step=0.5).judge(ratio, 0.1, (0.3,), 5)
    assert verdict == (False, pytest.approx(0.02), (0.3,))


def test_the_filter_looks_at_three_ratios() -> None:
    p, i, d = 0.3, 0.4, 0.1
    control = PID(p=p, i=i, d=d)
    verdict = control.judge(0.01, 1.0, (0.25, 0.125), 4)
    assert verdict.dt == pytest.approx(0.9 * (0.01 ** -(p + i + d) * 0.25 ** (p + 2 * d) * 0.125**-d) ** 0.25)
    assert verdict.memory == (0.01, 0.25)
    rejected = control.judge(2.0, 1.0, (0.25, 0.125), 4)
    assert rejected.dt == pytest.approx(0.9 * (2.0 ** -(p + i + d)) ** 0.25)
    assert rejected.memory == (0.25, 0.125)


def test_an_error_that_halves_with_each_step_lets_pi_grow_faster_than_it_falls() -> None:
    falling, rising = PI().judge(0.01, 1.0, (0.5,), 5), PI().judge(0.01, 1.0, (0.001,), 5)
    assert falling.dt > rising.dt
    assert I().judge(0.25, 1.0, (0.5,), 5).dt == I().judge(0.25, 1.0, (0.01,), 5).dt


@pytest.mark.parametrize("name", ["I", "PI", "PID"])
@pytest.mark.parametrize("method", ["tsit5", "dopri8", "bosh3"])
def test_few_steps_are_rejected(method: str, name: str) -> None:
    control = {"I": I(), "PI": PI(), "PID": PID(p=0.3, i=0.3, d=0.05)}[name]
    options = {"method": method, "controller": control, "rtol": 1e-4, "atol": 1e-4, "save": "end"}
    smooth = solve(f, ONE, 20.0, **options).stats
    relaxation = solve(van_der_pol, torch.tensor([2.0, 0.0]).double(), 2.0, **options).stats
    limited = solve(stiff, ONE, 0.5, **options).stats
    assert smooth.rejected < (0.45 if name == "I" else 0.25) * smooth.accepted
    for hard in (relaxation, limited):
        assert hard.rejected < (0.5 if name == "I" else 0.2) * hard.accepted


def test_pi_rejects_fewer_than_i_where_stability_limits_the_steps() -> None:
    i, pi = (solve(stiff, ONE, 1.5, controller=c, rtol=1e-4, atol=1e-4).stats for c in (I(), PI()))
    assert pi.rejected < i.rejected / 5


@pytest.mark.parametrize("method", ADAPTIVE)
def test_max_step(method: str) -> None:
    for options in ({}, {"dt": 2.0}, {"stop_times": [0.51]}):
        sol = solve(
            f,
            ONE,
            (0.0, 3.0),
            method=method,
            controller=PID(max_step=0.1),
            save="steps",
            rtol=1e-1,
            atol=1.0,
            **options,
        )
        assert sol.t.diff().max() <= 0.1 + 1e-12
        assert 30 <= sol.stats.accepted <= 33


@pytest.mark.parametrize("method", ADAPTIVE)
def test_min_step(method: str) -> None:
    """Steps of that size are taken whatever the error; only landing makes shorter ones."""
    sol = solve(
        f, ONE, (0.0, 3.0), method=method, controller=PID(min_step=0.1), save="steps", rtol=1e-13, atol=1e-13,
        stop_times=[0.52, 1.0],
    )  # fmt: skip
    landings = {0.52, 1.0, 3.0}
    free = [b - a for a, b in pairwise(sol.t.tolist()) if b not in landings]
    assert min(free) > 0.1 - 1e-12
    assert sol.stats.accepted <= 33


def test_safety_and_factors_matter() -> None:
    bold, timid = (solve(f, ONE, 20.0, controller=PID(safety=s)).stats for s in (1.0, 0.5))
    assert timid.rejected < bold.rejected
    assert timid.accepted > bold.accepted
    sol = solve(f, ONE, 20.0, controller=PID(max_factor=1.5), dt=1e-3, save="steps")
    steps = sol.t.diff()[:-1]
    assert (steps[1:] / steps[:-1]).max() < 1.5 + 1e-9


@pytest.mark.parametrize(
    "settings",
    [{"min_factor": 1.0}, {"min_factor": 0.0}, {"max_factor": 0.9}, {"min_step": -1.0}, {"max_step": 0.0},
     {"min_step": 1.0, "max_step": 0.5}, {"safety": 0.0}, {"safety": 1.1}, {"max_step": math.nan}],
    ids=repr,
)  # fmt: skip
def test_settings_that_make_no_sense(settings: dict[str, float]) -> None:
    with pytest.raises(InputError, match=r"Choose"):
        PID(**settings)


# ---- the first step


@pytest.mark.parametrize("method", [m for m in ADAPTIVE if m != "adaptive_heun"])
def test_the_first_step_is_of_the_right_size(method: str) -> None:
    """Not too long, and grown to the size of the others in a few steps, on any time scale of the problem."""
    for scale in (1e-3, 1.0, 1e3):
        sol = solve(
            lambda t, y: torch.cos(t / scale + 0.3) * y / scale, ONE, 10 * scale,  # noqa: B023
            method=method, rtol=1e-4, atol=1e-4, save="steps",
        )  # fmt: skip
        steps = sol.t.diff()
        assert steps[:5].max() > steps.max() / 4
        assert sol.t[1] / scale < 2
        assert solve(f, ONE, 1.0, method=method, rtol=1e-4, atol=1e-4, max_steps=1, throw=False).stats.accepted == 1


def test_the_user_s_first_step() -> None:
    sol = solve(f, ONE, (1.0, -3.0), dt=0.03125, save="steps")
    assert sol.t[1].item() == 1 - 0.03125
    assert sol.stats.nfe == 6 * sol.stats.attempted + 1  # no probe


def test_a_first_step_that_is_too_long_is_taken_again() -> None:
    sol = solve(f, ONE, 3.0, dt=3.0, rtol=1e-8, atol=1e-8)
    assert sol.stats.rejected >= 1
    assert sol.y[-1].item() == pytest.approx(math.exp(math.sin(3)), abs=1e-6)


# ---- fixed steps


@pytest.mark.parametrize("method", ["euler", "rk4", "tsit5", "explicit_adams"])
def test_steps_of_one_size(method: str) -> None:
    sol = solve(f, ONE, (1.0, 0.0), method=method, controller=FixedSteps(dt=0.1), save="steps")
    assert len(sol.t) == 11
    torch.testing.assert_close(sol.t, torch.linspace(1, 0, 11, dtype=torch.float64), rtol=0, atol=1e-15)
    short = solve(f, ONE, (0.0, 1.0), method=method, controller=FixedSteps(dt=0.3), save="steps")
    assert short.t.tolist() == pytest.approx([0, 0.3, 0.6, 0.9, 1.0])
    long = solve(f, ONE, (0.0, 1.0), method=method, controller=FixedSteps(dt=7.0), save="steps")
    assert long.t.tolist() == [0.0, 1.0]
    assert sol.stats.rejected == 0


@pytest.mark.parametrize("n", [3, 7, 10, 49, 200])
def test_rounding_makes_no_extra_step(n: int) -> None:
    for t0, t1 in ((0.0, 1.0), (0.1, 0.7), (-3.0, 5.0)):
        sol = solve(lambda t, y: 0 * y, ONE, (t0, t1), method="euler", dt=(t1 - t0) / n, save="steps")
        assert sol.stats.accepted == n


@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor])
@pytest.mark.parametrize("method", ["rk4", "tsit5"])
def test_steps_on_a_grid(method: str, kind: Any) -> None:
    grid = [0.0, 0.1, 0.15, 0.7, 1.0]
    sol = solve(f, ONE, (0.0, 1.0), method=method, controller=FixedSteps(times=kind(grid)), save="steps")
    assert sol.t.tolist() == pytest.approx(grid)
    back = solve(f, ONE, (1.0, 0.0), method=method, controller=FixedSteps(times=kind(grid[::-1])), save="steps")
    assert back.t.tolist() == pytest.approx(grid[::-1])


@pytest.mark.parametrize("method", FIXED)
def test_the_times_are_the_grid_of_a_fixed_method(method: str) -> None:
    t = torch.tensor([0.0, 0.1, 0.15, 0.4, 0.41, 0.7], dtype=torch.float64)
    sol = solve(f, ONE, t, method=method)
    assert sol.stats.accepted == 5
    same = solve(f, ONE, (0.0, 0.7), method=method, controller=FixedSteps(times=t), save="steps")
    assert torch.equal(same.y, sol.y)


@pytest.mark.parametrize(
    "grid", [[0.0, 0.5], [0.1, 1.0], [0.0, 0.5, 0.4, 1.0], [0.0, 0.5, 0.5, 1.0], [1.0, 0.0], [0.0], []], ids=repr
)
def test_a_grid_that_does_not_fit(grid: list[float]) -> None:
    with pytest.raises(InputError, match=r"strictly monotonically.*Start it at t\[0\] and end it at t\[-1\]"):
        solve(f, ONE, (0.0, 1.0), method="rk4", controller=FixedSteps(times=grid))


@pytest.mark.parametrize("dt", [0.0, -0.1, math.nan, math.inf])
def test_a_fixed_step_that_is_none(dt: float) -> None:
    with pytest.raises(InputError, match="no step size"):
        FixedSteps(dt=dt)


# ---- landing

STOPS: list[tuple[Any, list[float]]] = [
    ([0.5], [0.5]),
    ((0.25, 1.5), [0.25, 1.5]),
    ([1.5, 0.25], [0.25, 1.5]),
    (np.array([0.3, 0.7]), [0.3, 0.7]),
    (torch.tensor([0.5, 0.75]), [0.5, 0.75]),
    (torch.tensor([0.3], dtype=torch.float64, requires_grad=True), [0.3]),
    ([0.0, 2.0], [0.0, 2.0]),
    ([0.5, 0.5, 0.5], [0.5]),
    ([1e-13, 1e-12, 2 - 1e-12], [1e-13, 1e-12, 2 - 1e-12]),
    ([-1.0, 3.0, math.inf, 1.0], [1.0]),
    ([i / 16 for i in range(33)], [i / 16 for i in range(33)]),
    ((), []),
]


@pytest.mark.parametrize("which", ["stop_times", "jump_times"])
@pytest.mark.parametrize("method", ["tsit5", "rk4"])
@pytest.mark.parametrize(("stops", "expected"), STOPS, ids=lambda x: repr(x)[:30])
def test_no_landing_is_lost(stops: Any, expected: list[float], method: str, which: str) -> None:
    options: dict[str, Any] = {
        "method": method,
        "dt": None if method == "tsit5" else 0.4,
        "save": "steps",
        which: stops,
    }
    forth = solve(f, ONE, (0.0, 2.0), **options)
    assert set(expected) <= set(forth.t.tolist())
    assert (forth.t.diff() > 0).all()
    assert forth.y[-1].item() == pytest.approx(math.exp(math.sin(2)), rel=2e-2 if method == "rk4" else 1e-4)
    back = solve(f, ONE, (2.0, 0.0), **options)
    assert set(expected) <= set(back.t.tolist())
    assert (back.t.diff() < 0).all()


@pytest.mark.parametrize("which", ["stop_times", "jump_times"])
def test_a_step_that_happens_to_end_on_a_landing_loses_none(which: str) -> None:
    """Steps of exactly 1/4 that meet the first landing; torchdiffeq loses all later ones there."""
    for controller in (PID(max_step=0.25), FixedSteps(dt=0.25)):
        sol = solve(
            lambda t, y: 0 * y, ONE, (0.0, 2.0), dt=0.25 if controller.adaptive else None, controller=controller,
            save="steps", **{which: [0.25, 0.5, 0.6, 1.1, 1.35, 2.0]},
        )  # fmt: skip
        assert {0.25, 0.5, 0.6, 1.1, 1.35, 2.0} <= set(sol.t.tolist())
        assert sol.t.tolist()[:4] == [0.0, 0.25, 0.5, 0.6]


def test_landings_do_not_change_the_step_size_for_long() -> None:
    """The controller's proposal survives a step that was cut short."""
    free = solve(f, ONE, 20.0, rtol=1e-6, atol=1e-6).stats
    cut = solve(f, ONE, 20.0, rtol=1e-6, atol=1e-6, stop_times=[5.0001, 10.0001, 15.0001]).stats
    assert cut.attempted <= free.attempted + 10


def test_no_crumbs_are_left_before_a_landing() -> None:
    sol = solve(lambda t, y: 0 * y, ONE, 1.0, dt=0.1, controller=PID(max_step=0.1), stop_times=[0.7], save="steps")
    assert sol.t.diff().min() > 1e-3


@pytest.mark.parametrize("method", ["explicit_adams", "implicit_adams"])
def test_a_grid_point_beside_a_stop_gives_way(method: str) -> None:
    """3 * 0.1 is not 0.3: a step of 5e-17 would ruin a multistep method."""
    for which in ("stop_times", "jump_times"):
        sol = solve(f, ONE, 1.0, method=method, dt=0.1, save="steps", **{which: [0.3, 0.7]})
        assert sol.stats.accepted == 10
        assert {0.3, 0.7} <= set(sol.t.tolist())
        assert sol.y[-1].item() == pytest.approx(math.exp(math.sin(1)), rel=1e-4)


def test_limits_land_on_everything_in_order() -> None:
    limits = Limits(2.0, stops=[1.5, 0.5, 0.5, 3.0, -1.0], jumps=[1.0, 5.0])
    t, visited = 0.0, []
    while t < 2.0:
        t = limits.cut(t, 0.7).t1
        visited.append(t)
    assert visited == [0.5, 1.0, 1.5, 2.0]
    assert limits.is_jump(1.0)
    assert not limits.is_jump(0.5)


# ---- jumps


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("t", [0.0, 0.1, 1.0, -1.0, 0.7, 1e-3, 1000.3])
def test_the_neighbours_of_a_time(t: float, dtype: torch.dtype) -> None:
    """Strictly on their sides also after a comparison in the lower precision, and as near as that has numbers."""
    low, high = before(t, dtype), after(t, dtype)
    here = torch.tensor(t, dtype=dtype)
    assert torch.tensor(low, dtype=dtype).item() == low
    assert torch.tensor(high, dtype=dtype).item() == high
    assert low < t < high
    assert torch.tensor(low, dtype=dtype) < here < torch.tensor(high, dtype=dtype)
    assert high - low <= 4 * torch.finfo(dtype).eps * max(abs(t), torch.finfo(dtype).tiny)


def switching(at: float, left: bool) -> Any:
    """1 before the jump and -2 after it; at the jump itself the one or the other."""

    def slope(t: Tensor, y: Tensor) -> Tensor:
        return torch.where(t <= at if left else t < at, 1.0, -2.0).to(y.dtype) * torch.ones_like(y)

    return slope


@pytest.mark.parametrize("left", [True, False], ids=["left", "right"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "method", ["tsit5", "dopri8", "bosh3", "euler", "rk4_classic", "explicit_adams", "implicit_adams"]
)
@pytest.mark.parametrize("t", [(0.0, 2.0), (2.0, 0.0)], ids=["forth", "back"])
def test_a_jump_is_asked_from_both_sides_and_never_across(
    t: tuple[float, float], method: str, dtype: torch.dtype, left: bool
) -> None:
    """A piecewise constant slope is integrated exactly, whichever side the jump itself belongs to."""
    at = 0.7
    asked: list[Tensor] = []

    def f(t: Tensor, y: Tensor) -> Tensor:
        asked.append(t.clone())
        return switching(at, left)(t, y)

    dt = None if method in ("tsit5", "dopri8", "bosh3") else 0.5
    sol = solve(f, torch.zeros(2, dtype=dtype), t, method=method, dt=dt, jump_times=[at], save="steps")
    precision = 4 * torch.finfo(dtype).eps
    exact = torch.where(sol.t <= at, sol.t, at - 2 * (sol.t - at))
    exact = exact - exact[0]
    torch.testing.assert_close(sol.y[:, 0].double(), exact, rtol=precision, atol=precision)
    here = torch.tensor(at, dtype=dtype)
    sides = [a.double().item() for a in asked if a != here]
    assert len(sides) == len(asked)
    step = 2 * torch.finfo(dtype).eps
    if method == "euler":  # asks at the start of a step only
        sides += [at - step / 2, at + step / 2]
    assert at - step < max(s for s in sides if s < at) < at < min(s for s in sides if s > at) < at + step


@pytest.mark.parametrize("method", ["tsit5", "dopri8"])
def test_jumps_make_a_piecewise_slope_cheap_and_accurate(method: str) -> None:
    jumps = [0.5, 1.1, 1.9, 2.3]

    def f(t: Tensor, y: Tensor) -> Tensor:
        return -y * (1 + sum((t >= j).double() * (-1) ** i for i, j in enumerate(jumps)))

    exact = math.exp(-(3.0 + (1.1 - 0.5) + (2.3 - 1.9)))
    options = {"method": method, "rtol": 1e-6, "atol": 1e-9}
    blind = solve(f, ONE, 3.0, **options)
    told = solve(f, ONE, 3.0, jump_times=jumps, **options)
    assert abs(told.y[-1].item() - exact) < abs(blind.y[-1].item() - exact) / 5
    assert abs(told.y[-1].item() - exact) < 1e-7
    assert told.stats.nfe < 0.7 * blind.stats.nfe
    assert told.stats.rejected < blind.stats.rejected / 4


@pytest.mark.parametrize("t", [(0.5, 1.5), (1.5, 0.5)])
@pytest.mark.parametrize("method", ["tsit5", "rk4"])
def test_jumps_at_both_ends(method: str, t: tuple[float, float]) -> None:
    """The values at the ends belong to the outside: f is asked just inside."""

    def f(t: Tensor, y: Tensor) -> Tensor:
        return torch.where((t > 0.5) & (t < 1.5), 1.0, 1e6) * torch.ones_like(y)

    sol = solve(f, ONE, t, method=method, jump_times=[0.5, 1.5])
    assert (sol.y[-1] - sol.y[0]).item() == pytest.approx(t[1] - t[0], abs=1e-12)


def test_every_jump_restarts_a_multistep_method() -> None:
    sol = solve(switching(1.0, False), 0 * ONE, 2.0, method="explicit_adams", dt=0.125, jump_times=[1.0])
    assert sol.y[-1].item() == pytest.approx(-1.0, abs=1e-13)
    blind = solve(switching(1.0, False), 0 * ONE, 2.0, method="explicit_adams", dt=0.125)
    assert abs(blind.y[-1].item() + 1) > 1e-3


def test_events_and_outputs_next_to_a_jump() -> None:
    sol = solve(
        switching(1.0, False), 0 * ONE, [0.0, 0.999999, 1.0, 1.000001, 2.0], jump_times=[1.0],
        events=torchivp.Event(lambda t, y: y[0] - 0.5),
    )  # fmt: skip
    assert sol.y[:, 0].tolist() == pytest.approx([0, 0.999999, 1.0, 1 - 2e-6, -1.0], abs=1e-12)
    assert sol.t_events[0].tolist() == pytest.approx([0.5, 1.25], abs=1e-12)
