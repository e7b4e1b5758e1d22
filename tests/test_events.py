"""Events: found, located, stopping, differentiable."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import torchivp
from torchivp import Event, GradientError, InputError, SolveError, Status, solve

METHODS = sorted(torchivp.methods.METHODS)
FINE: dict[str, Any] = {"method": "dopri8", "rtol": 1e-9, "atol": 1e-11}
START = torch.tensor([1.0, 0.0], dtype=torch.float64)
ONE = torch.ones(1, dtype=torch.float64)


def circle(t: Tensor, y: Tensor) -> Tensor:
    """y = (cos t, -sin t)."""
    return torch.stack([y[1], -y[0]])


def clock(t: Tensor, y: Any) -> Any:
    return -y


def x_is_zero(t: Tensor, y: Tensor) -> Tensor:
    return y[0]


def times(sol: torchivp.Solution, number: int = 0) -> list[float]:
    return sol.t_events[number].tolist()


# ---- found


@pytest.mark.parametrize(
    ("direction", "expected"),
    [(0, [0.5, 1.5, 2.5, 3.5]), (1, [1.5, 3.5]), (-1, [0.5, 2.5])],
)
def test_directions(direction: int, expected: list[float]) -> None:
    sol = solve(circle, START, 4 * math.pi, events=Event(x_is_zero, direction=direction), **FINE)
    assert times(sol) == pytest.approx([math.pi * x for x in expected], abs=1e-7)
    assert sol.status is Status.SUCCESS
    assert sol.t[-1].item() == 4 * math.pi


@pytest.mark.parametrize("direction", [0, 1, -1])
def test_directions_are_those_of_the_solve_where_time_decreases(direction: int) -> None:
    """Backwards from t = 0, cos first falls: at -pi/2; then rises, at -3 pi/2."""
    sol = solve(circle, START, -2 * math.pi, events=Event(x_is_zero, direction=direction), **FINE)
    expected = {0: [-0.5, -1.5], -1: [-0.5], 1: [-1.5]}[direction]
    assert times(sol) == pytest.approx([math.pi * x for x in expected], abs=1e-7)


def test_several_events_keep_their_lists() -> None:
    events = [Event(x_is_zero), Event(lambda t, y: y[1]), Event(lambda t, y: y[0] - 2), Event(lambda t, y: t - 1)]
    sol = solve(circle, START, 6.0, events=events, **FINE)
    assert [len(t) for t in sol.t_events] == [2, 1, 0, 1]
    assert times(sol, 1) == pytest.approx([math.pi], abs=1e-7)
    assert times(sol, 3) == [1.0]
    assert [y.shape for y in sol.y_events] == [(2, 2), (1, 2), (0, 2), (1, 2)]
    torch.testing.assert_close(sol.y_events[0][0], torch.tensor([0.0, -1.0]).double(), rtol=0, atol=1e-7)
    torch.testing.assert_close(
        sol.y_events[3][0], torch.tensor([math.cos(1), -math.sin(1)]).double(), rtol=0, atol=1e-7
    )


def test_what_is_saved_does_not_change_them() -> None:
    found = [
        times(solve(circle, START, t, events=Event(x_is_zero), save=save, dense=dense, **FINE))
        for t, save, dense in (
            (6.0, "t", False),
            (6.0, "end", True),
            (torch.linspace(0, 6, 50), "t", False),
            (6.0, "steps", False),
        )
    ]
    assert all(f == found[0] for f in found)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_finds_them(method: str) -> None:
    """As accurately as it solves."""
    t1 = -2.0 if method in ("tsit5", "rk4", "implicit_adams") else 2.0
    adaptive = torchivp.methods.METHODS[method]().adaptive
    order = torchivp.methods.METHODS[method]().order
    sol = solve(
        circle, START, t1, method=method, dt=None if adaptive else 0.04, rtol=1e-4, atol=1e-4, events=Event(x_is_zero)
    )
    assert times(sol) == pytest.approx([math.copysign(math.pi / 2, t1)], abs={1: 0.1, 2: 0.04}.get(order, 1e-3))


def test_with_and_without_autograd_they_are_the_same() -> None:
    event = Event(x_is_zero)
    y0 = START.clone().requires_grad_()
    plain = solve(circle, START, 6.0, events=event)
    for gradient in ("discrete", "direct"):
        sol = solve(circle, y0, 6.0, events=event, gradient=gradient)
        assert times(sol) == times(plain)
        assert torch.equal(sol.y_events[0].detach(), plain.y_events[0])


# ---- located


@pytest.mark.parametrize(
    "g",
    [
        lambda t, y: t - 0.7,
        lambda t, y: y[0] - math.exp(-0.7),
        lambda t, y: (t - 0.7) ** 3,
        lambda t, y: (t - 0.7) ** 9,
        lambda t, y: torch.atan(1e8 * (t - 0.7)),
        lambda t, y: torch.sign(t - 0.7),
        lambda t, y: -1e-300 if t < 0.7 else 1e300,
        lambda t, y: torch.expm1(50 * (t - 0.7)),
        lambda t, y: torch.relu(t - 0.7) - 1e-12,
    ],
)
@pytest.mark.parametrize("loose", [True, False])
def test_located_to_rounding_in_few_evaluations(g: Callable[..., Any], loose: bool) -> None:
    """However flat, steep or broken the event function is; the state there too."""
    asked = []

    def counted(t: Tensor, y: Tensor) -> Any:
        asked.append(1)
        return g(t, y)

    options = {"rtol": 1e-3, "atol": 1e-3} if loose else FINE
    sol = solve(clock, ONE, 2.0, events=Event(counted), **options)
    precision = 5e-3 if loose and g(torch.tensor(0.7), 2 * ONE) > 0.5 else 1e-8
    assert times(sol) == pytest.approx([0.7], abs=precision)
    assert len(asked) < 8 * sol.stats.accepted + 115


def test_the_time_found_is_not_before_the_crossing() -> None:
    """There the event function has its new sign: a solve that starts there does not find it again."""
    for shift in (0.1, 0.3, 0.7, 1.1, 1.7):
        g = lambda t, y: y[0] - math.exp(-shift)  # noqa: B023
        sol = solve(clock, ONE, 2.0, events=Event(g), **FINE)
        assert g(sol.t_events[0][0], sol.y_events[0][0]) <= 0
        again = solve(clock, sol.y_events[0][0], (sol.t_events[0][0].item(), 2.0), events=Event(g), **FINE)
        assert times(again) == []


@pytest.mark.parametrize("t0", [0.0, 0.3, -7.0])
def test_zero_at_the_start_is_not_found_there(t0: float) -> None:
    """It must leave zero and come back."""
    sol = solve(circle, torch.tensor([0.0, 1.0]).double(), (t0, t0 + 7.0), events=Event(x_is_zero), **FINE)
    assert times(sol) == pytest.approx([t0 + math.pi, t0 + 2 * math.pi], abs=1e-7)


def test_a_function_that_is_always_zero_is_never_found() -> None:
    assert times(solve(circle, START, 3.0, events=Event(lambda t, y: 0 * y[0]))) == []


@pytest.mark.parametrize("t", [(0.0, 1.0), (1.0, 0.0), (-1.0, 0.0), (0.0, -1.0), (-0.5, 0.5)])
def test_at_the_very_end(t: tuple[float, float]) -> None:
    end = t[1]
    sol = solve(clock, ONE, t, events=[Event(lambda s, y: s - end), Event(lambda s, y: s - end, terminal=True)])
    assert [times(sol, 0), times(sol, 1)] == [[end], [end]]
    assert sol.t.tolist() == list(t)


def test_at_time_zero_in_the_middle() -> None:
    """No relative precision to be had there."""
    sol = solve(
        clock, ONE, (-1.0, 2.0), events=[Event(lambda t, y: t), Event(lambda t, y: y[0] - math.exp(-1))], **FINE
    )
    assert times(sol, 0) == pytest.approx([0.0], abs=1e-15)
    assert times(sol, 1) == pytest.approx([0.0], abs=1e-8)


@pytest.mark.parametrize(
    ("method", "dt"), [("tsit5", None), ("rk4_classic", 0.5), ("euler", 0.5), ("explicit_adams", 0.5)]
)
def test_two_crossings_inside_one_step(method: str, dt: float | None) -> None:
    """The step of a linear problem is long; g is positive between 0.6 and 0.8 only."""
    g = lambda t, y: 0.01 - (t - 0.7) ** 2
    sol = solve(lambda t, y: torch.ones_like(y), ONE, (0.0, 3.0), method=method, dt=dt or 2.0, events=Event(g))
    assert times(sol) == pytest.approx([0.6, 0.8], abs=1e-12)
    one = solve(
        lambda t, y: torch.ones_like(y), ONE, (0.0, 3.0), method=method, dt=dt or 2.0, events=Event(g, direction=-1)
    )
    assert times(one) == pytest.approx([0.8], abs=1e-12)


def test_many_crossings_inside_one_step() -> None:
    g = lambda t, y: torch.sin(2 * math.pi * t)
    sol = solve(lambda t, y: torch.ones_like(y), ONE, (0.1, 3.1), dt=3.0, events=Event(g))
    assert sol.stats.accepted == 1
    assert times(sol) == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.5, 3.0], abs=1e-12)


def test_a_crossing_exactly_on_a_step_is_found_once() -> None:
    for method in ("euler", "rk4", "tsit5"):
        sol = solve(
            clock, ONE, 1.0, method=method, controller=torchivp.FixedSteps(dt=0.125), events=Event(lambda t, y: t - 0.5)
        )
        assert times(sol) == [0.5], method


# ---- terminal


@pytest.mark.parametrize("save", ["t", "steps", "end", "function"])
@pytest.mark.parametrize("t1", [10.0, -10.0])
def test_a_terminal_event_ends_the_solve(save: str, t1: float) -> None:
    """The outputs end with the event, at its very time and state; nothing after it is there."""
    sign = math.copysign(1.0, t1)
    sol = solve(
        circle, START, torch.linspace(0, t1, 101, dtype=torch.float64), events=Event(x_is_zero, terminal=True), **FINE,
        save=save if save != "function" else lambda t, y: y.flip(0),
    )  # fmt: skip
    assert sol.status is Status.EVENT
    assert sol.success
    assert "terminal event" in sol.message
    assert f"t={sign * 1.5708:g}" in sol.message
    assert sol.t[-1] == sol.t_events[0][0]
    assert sol.t[-1].item() == pytest.approx(sign * math.pi / 2, abs=1e-8)
    assert len(sol.t) == len(sol.y) == {"t": 17, "end": 1, "function": 17}.get(save, len(sol.t))
    assert (sol.t.diff().sign() == sign).all()
    last = sol.y[-1].flip(0) if save == "function" else sol.y[-1]
    torch.testing.assert_close(last, torch.tensor([0.0, -sign]).double(), rtol=0, atol=1e-8)
    if save != "function":
        assert torch.equal(sol.y[-1], sol.y_events[0][0])


def test_the_first_of_several_terminal_events() -> None:
    events = [
        Event(lambda t, y: t - 2.0, terminal=True),
        Event(lambda t, y: y[0] - 2.5, terminal=True),
        Event(lambda t, y: t - 1.0),
        Event(lambda t, y: t - 1.8),
    ]
    sol = solve(lambda t, y: torch.ones_like(y), ONE, 10.0, events=events, dt=5.0)
    assert sol.stats.accepted == 1  # all of them in one step
    assert [len(t) for t in sol.t_events] == [0, 1, 1, 0]
    assert sol.t[-1] == sol.t_events[1][0]
    assert sol.t[-1].item() == pytest.approx(1.5, abs=1e-12)


def test_events_at_the_same_time_as_a_terminal_one_are_not_lost() -> None:
    for order in (1, -1):
        events = [Event(lambda t, y: t - 0.5, terminal=True), Event(lambda t, y: 2 * (t - 0.5))][::order]
        sol = solve(clock, ONE, 1.0, events=events)
        assert [t.tolist() for t in sol.t_events] == [[0.5], [0.5]]


def test_an_output_at_the_time_of_a_terminal_event_is_there_once() -> None:
    for t in (torch.linspace(0, 1, 5), [0.0, 0.5], [0.0, 0.5, 0.500001]):
        sol = solve(clock, ONE, t, events=Event(lambda t, y: t - 0.5, terminal=True))
        assert sol.t.tolist()[-1] == 0.5
        assert sol.t.tolist().count(0.5) == 1


def test_f_is_not_asked_for_steps_after_a_terminal_event() -> None:
    short = solve(circle, START, 100.0, events=Event(x_is_zero, terminal=True))
    long = solve(circle, START, 1000.0, events=Event(x_is_zero, terminal=True))
    assert short.stats.nfe == long.stats.nfe < 60


@pytest.mark.parametrize("method", ["rk4", "explicit_adams", "dopri8"])
def test_terminal_events_of_other_methods(method: str) -> None:
    dt = None if method == "dopri8" else 0.01
    sol = solve(circle, START, 10.0, dt=dt, events=Event(x_is_zero, terminal=True), **{**FINE, "method": method})
    assert sol.t[-1].item() == pytest.approx(math.pi / 2, abs=1e-7)


# ---- what an event function may be


def test_a_function_alone_and_scipy_s_attributes() -> None:
    def falls(t: Tensor, y: Tensor) -> Tensor:
        return y[0]

    falls.direction = -1.0  # type: ignore[attr-defined]
    falls.terminal = True  # type: ignore[attr-defined]
    sol = solve(circle, START, 10.0, events=falls, **FINE)
    assert sol.status is Status.EVENT
    assert times(sol) == pytest.approx([math.pi / 2], abs=1e-8)
    plain = solve(circle, START, 6.0, events=[x_is_zero, falls], **FINE)
    assert plain.status is Status.EVENT
    falls.terminal = 2  # type: ignore[attr-defined]
    with pytest.raises(InputError, match=r"terminal=2.*the first time.*on_step"):
        solve(circle, START, 10.0, events=falls)


@pytest.mark.parametrize("g", [
    lambda t, y: y[0].item() - 0.5,
    lambda t, y: y[:1] - 0.5,
    lambda t, y: (y[0] - 0.5).float(),
    lambda t, y: (y[0] - 0.5).reshape(1, 1, 1),
    lambda t, y: math.cos(t) - 0.5,
])  # fmt: skip
def test_one_number_in_any_form(g: Callable[..., Any]) -> None:
    sol = solve(circle, START, 2.0, events=Event(g), **FINE)
    assert times(sol) == pytest.approx([math.pi / 3], abs=1e-6)


def test_an_event_that_is_true_or_false() -> None:
    """A bool crosses from 0 to 1, never through zero to the other side: a hint is better than silence."""
    sol = solve(circle, START, 2.0, events=Event(lambda t, y: (t > 1).double() - 0.5))
    assert times(sol) == pytest.approx([1.0], abs=1e-9)


def test_args_reach_the_event_function() -> None:
    args = {"at": torch.tensor(0.25, dtype=torch.float64)}
    sol = solve(lambda t, y, a: -y, ONE, 3.0, args, events=Event(lambda t, y, a: y[0] - a["at"]), **FINE)
    assert times(sol) == pytest.approx([math.log(4)], abs=1e-8)


def test_pytrees_and_complex_states() -> None:
    tree = solve(
        lambda t, y: {"x": y["v"], "v": -y["x"]}, {"x": ONE, "v": 0 * ONE}, (4.0, 0.0),
        events=Event(lambda t, y: y["x"].sum(), terminal=True), **FINE,
    )  # fmt: skip
    assert times(tree) == pytest.approx([4 - math.pi / 2], abs=1e-8)
    assert tree.y_events[0]["v"].shape == (1, 1)
    assert torch.equal(tree.y["v"][-1], tree.y_events[0]["v"][0])
    wave = solve(
        lambda t, y: 1j * y, torch.ones((), dtype=torch.complex128), 7.0, events=Event(lambda t, y: y.real), **FINE
    )
    assert times(wave) == pytest.approx([math.pi / 2, 3 * math.pi / 2], abs=1e-8)
    torch.testing.assert_close(wave.y_events[0], torch.tensor([1j, -1j], dtype=torch.complex128), rtol=0, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_low_precision(dtype: torch.dtype) -> None:
    sol = solve(clock, torch.ones(1, dtype=dtype), 2.0, events=Event(lambda t, y: y[0] - 0.5, terminal=True), rtol=1e-4)
    assert times(sol) == pytest.approx([math.log(2)], abs=max(3e-4, 2 * torch.finfo(dtype).eps))


def test_events_on_no_interval_and_of_failed_solves() -> None:
    sol = solve(clock, ONE, (1.0, 1.0), events=[Event(lambda t, y: y[0]), Event(lambda t, y: t - 1)])
    assert [t.tolist() for t in sol.t_events] == [[], []]
    assert [y.shape for y in sol.y_events] == [(0, 1), (0, 1)]
    nan = solve(clock, ONE * math.nan, 1.0, events=Event(lambda t, y: t - 0.5), throw=False)
    assert times(nan) == []
    blown = solve(
        lambda t, y: y * y, ONE, 2.0, events=[Event(lambda t, y: t - 0.5), Event(lambda t, y: t - 1.5)], throw=False
    )
    assert [t.tolist() for t in blown.t_events] == [[0.5], []]


@pytest.mark.parametrize("t_bad", [0.0, 0.5])
def test_an_error_in_an_event_function_is_the_user_s(t_bad: float) -> None:
    def g(t: Tensor, y: Tensor) -> Tensor:
        if t >= t_bad:
            raise ZeroDivisionError
        return y[0]

    with pytest.raises(ZeroDivisionError):
        solve(clock, ONE, 1.0, events=Event(g), throw=False)


# ---- gradients


def ball(t: Tensor, y: Tensor, g: Tensor) -> Tensor:
    return torch.stack([y[1], -g])


GRAVITY = 9.81


@pytest.mark.parametrize("method", ["tsit5", "dopri8", "rk4_classic", "implicit_adams"])
@pytest.mark.parametrize("gradient", ["discrete", "direct"])
def test_the_time_of_a_fall_is_differentiable(gradient: str, method: str) -> None:
    """By height, gravity and the level of the ground; the speed there too."""
    height = torch.tensor(10.0, dtype=torch.float64, requires_grad=True)
    g = torch.tensor(GRAVITY, dtype=torch.float64, requires_grad=True)
    level = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    y0 = torch.stack([height, torch.zeros_like(height)])
    ground = Event(lambda t, y, g: y[0] - level, terminal=True, direction=-1)
    dt = None if method in ("tsit5", "dopri8") else 0.05
    sol = solve(ball, y0, 100.0, g, dt=dt, events=ground, gradient=gradient, **{**FINE, "method": method})
    fall = math.sqrt(2 * 9 / GRAVITY)
    assert sol.t[-1].item() == pytest.approx(fall, abs=1e-9)
    by_time = torch.autograd.grad(sol.t_events[0][0], (height, g, level), retain_graph=True)
    for grad, expected in zip(by_time, (1 / (GRAVITY * fall), -0.5 * fall / GRAVITY, -1 / (GRAVITY * fall))):
        assert grad.item() == pytest.approx(expected, abs=1e-9)
    by_speed = torch.autograd.grad(sol.y_events[0][0, 1], (height, g, level), retain_graph=True)
    speed = math.sqrt(2 * 9 * GRAVITY)
    for grad, expected in zip(by_speed, (-GRAVITY / speed, -9 / speed, GRAVITY / speed)):
        assert grad.item() == pytest.approx(expected, abs=1e-8)
    where = torch.autograd.grad(sol.y[-1, 0], (height, g, level))
    for grad, expected in zip(where, (0.0, 0.0, 1.0)):
        assert grad.item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("gradient", ["discrete", "direct"])
def test_events_that_do_not_stop_are_differentiable_too(gradient: str) -> None:
    w = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    sol = solve(
        lambda t, y: w * torch.stack([y[1], -y[0]]),
        START,
        (6.0, 0.0),
        events=Event(x_is_zero),
        gradient=gradient,
        **FINE,
    )
    expected = [6 - (k + 0.5) * math.pi / 1.5 for k in range(3)]
    assert times(sol) == pytest.approx(expected, abs=1e-7)
    (grad,) = torch.autograd.grad(sol.t_events[0].sum(), w)
    assert grad.item() == pytest.approx(sum((k + 0.5) * math.pi / 1.5**2 for k in range(3)), abs=1e-6)


@pytest.mark.parametrize("gradient", ["discrete", "direct"])
def test_by_the_start_time(gradient: str) -> None:
    """The fall takes as long as it takes: the event moves with the start."""
    t0 = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    t = torch.stack([t0, torch.tensor(50.0, dtype=torch.float64)])
    y0 = torch.tensor([5.0, 0.0], dtype=torch.float64)
    g = torch.tensor(GRAVITY, dtype=torch.float64)
    sol = solve(ball, y0, t, g, events=Event(lambda t, y, g: y[0], terminal=True), gradient=gradient, **FINE)
    (grad,) = torch.autograd.grad(sol.t_events[0][0], t0)
    assert grad.item() == pytest.approx(1.0, abs=1e-9)


def test_an_event_that_touches_zero_has_no_gradient_and_says_so() -> None:
    w = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    touch = Event(lambda t, y: torch.sign(y[0] - 2.0) + 0 * y[0])
    cross = Event(lambda t, y: y[0] - 3.0)
    sol = solve(lambda t, y: w * torch.ones_like(y), ONE, 3.0, events=[touch, cross])
    assert times(sol) == pytest.approx([1.0])
    for loss in (sol.t_events[0].sum(), sol.y_events[0].sum()):
        with pytest.raises(GradientError, match=r"event found at t=1 .*dg/dt = 0.*no gradient.*detach"):
            torch.autograd.grad(loss, w, retain_graph=True)
    for loss, expected in ((sol.y[-1].sum(), 3.0), (sol.t_events[1].sum(), -2.0)):
        assert torch.autograd.grad(loss, w, retain_graph=True)[0].item() == pytest.approx(expected)
    with torch.no_grad():
        assert times(solve(lambda t, y: w * torch.ones_like(y), ONE, 3.0, events=touch)) == pytest.approx([1.0])


@pytest.mark.parametrize("gradient", ["adjoint", "interpolated", "gauss", "forward", "discrete"])
def test_every_gradient_differentiates_events(gradient: str) -> None:
    """Times, states and the end, with respect to the start, args, and what the event function closes over."""
    y0, g, level, drag = (
        torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in ([1.0, 0.0], 9.81, 0.2, 0.1)
    )

    def loss(gradient: str) -> torch.Tensor:
        events = [Event(lambda t, y, g: y[0] - level, terminal=True), Event(lambda t, y, g: y[0] - 0.6)]
        sol = solve(
            lambda t, y, g: torch.stack([y[1], -g - drag * y[1]]), y0, (0.0, 0.15, 9.0), g,
            events=events, gradient=gradient, rtol=1e-9, atol=1e-11,
        )  # fmt: skip
        assert sol.t_events is not None
        assert sol.y_events is not None
        return sol.t_events[0].sum() + 2 * sol.y_events[0][0, 1] + sol.t_events[1][0] ** 2 + sol.y[1:].sum()

    expected = torch.autograd.grad(loss("direct"), [y0, g, level, drag])
    for a, b in zip(torch.autograd.grad(loss(gradient), [y0, g, level, drag]), expected):
        assert torch.allclose(a, b, rtol=1e-7, atol=1e-9)


def test_what_comes_before_an_event_that_touches_zero_has_its_gradient() -> None:
    """The outputs end with it, and its part of the gradient is zero where the loss leaves it out."""
    w = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    touch = Event(lambda t, y: torch.sign(y[0] - 2.0) + 0 * y[0], terminal=True)
    sol = solve(lambda t, y: w * torch.ones_like(y), ONE, [0.0, 0.5, 3.0], events=touch)
    assert len(sol.t) == 3
    assert torch.autograd.grad(sol.y[1].sum(), w, retain_graph=True)[0].item() == pytest.approx(0.5)
    with pytest.raises(GradientError, match="touches zero"):
        torch.autograd.grad(sol.y[-1].sum(), w)


# ---- going on


@pytest.mark.parametrize("direction", [0, -1])
def test_a_bouncing_ball(direction: int) -> None:
    """Restarted on the ground, with the speed turned round: the lift-off is no fall."""
    g = torch.tensor(GRAVITY, dtype=torch.float64)
    ground = Event(lambda t, y, g: y[0], terminal=True, direction=direction)
    t, y, found = 0.0, torch.tensor([10.0, 0.0], dtype=torch.float64), []
    for _ in range(4):
        sol = solve(ball, y, (t, 100.0), g, events=ground, **FINE)
        t, y = sol.t[-1].item(), sol.y[-1] * torch.tensor([0.0, -0.5], dtype=torch.float64)
        found.append(t)
    fall = math.sqrt(20 / GRAVITY)
    assert found == pytest.approx([fall * x for x in (1, 2, 2.5, 2.75)], abs=1e-8)


@pytest.mark.parametrize(("method", "t1"), [("tsit5", 20.0), ("dopri8", -20.0), ("rk4", 20.0)])
def test_start_goes_on_from_the_event(method: str, t1: float) -> None:
    """Not from the end of its step, and not finding the same crossing again."""
    options: dict[str, Any] = {"method": method, "dt": 0.05 if method == "rk4" else None, "rtol": 1e-6, "atol": 1e-8}
    options["events"] = Event(x_is_zero, terminal=True)
    sol = solve(circle, START, t1, **options)
    found = [sol.t[-1].item()]
    for _ in range(4):
        sol = solve(circle, None, t1, start=sol, **options)
        assert sol.t[0].item() == found[-1]
        found.append(sol.t[-1].item())
    assert found == pytest.approx([math.copysign((k + 0.5) * math.pi, t1) for k in range(5)], abs=1e-4)


def test_a_failed_solve_raises_as_without_events() -> None:
    with pytest.raises(SolveError):
        solve(lambda t, y: y * y, ONE, 2.0, events=Event(lambda t, y: y[0] - 5))
