"""Events of rows with steps of their own: those of every row solved alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

import torchivp
from torchivp import Event, GradientError, InputError, Status, solve
from torchivp.state import flatten, tree_map

F64 = torch.float64
SPEEDS = torch.tensor([1.0, 2.0, 0.3, 5.0, 1.3], dtype=F64)
STARTS = torch.tensor([[1.0, 0.0], [1.0, 0.5], [0.2, 0.1], [-1.0, 2.0], [0.0, 1.0]], dtype=F64)
SPANS = torch.tensor(
    [[0.0, 3.0, 6.0], [0.0, -3.0, -6.0], [0.0, 0.4, 0.9], [1.0, 1.5, 2.0], [-1.0, 4.0, 5.0]], dtype=F64
)
FINE: dict[str, Any] = {"rtol": 1e-8, "atol": 1e-10}


def circle(t: Tensor, y: Tensor, w: Tensor) -> Tensor:
    """Rows turn at their own speed."""
    return torch.stack([w * y[..., 1], -w * y[..., 0]], -1)


def swing(t: Tensor, y: Tensor, w: Tensor) -> Tensor:
    """A pendulum in every row: nothing about it is linear."""
    return torch.stack([y[..., 1], -w * y[..., 0].sin() - 0.1 * t * y[..., 1]], -1)


def x_is_zero(t: Tensor, y: Tensor, w: Tensor) -> Tensor:
    return y[..., 0]


def fast(t: Tensor, y: Tensor, w: Tensor) -> Tensor:
    return y[..., 1] - 0.5 * w.sqrt()


MIXED = [Event(x_is_zero), Event(fast, terminal=True, direction=-1), Event(lambda t, y, w: (2 * t).sin(), direction=1)]


def alone(b: int, y0: Tensor, t: Tensor, w: Tensor, **settings: Any) -> torchivp.Solution:
    return solve(swing, y0[b], t[b], w[b], **settings)


def found(sol: Any) -> list[Tensor]:
    return [*sol.t_events, *sol.y_events, sol.t, sol.y]


def found_in_row(sol: Any, b: int) -> list[Tensor]:
    return [*(e[b] for e in sol.t_events), *(e[b] for e in sol.y_events), sol.t[b], sol.y[b]]


def agree(batch: Sequence[Tensor], solo: Sequence[Tensor], atol: float = 1e-12) -> None:
    for a, b in zip(batch, solo, strict=True):
        assert a.shape == b.shape
        torch.testing.assert_close(a, b, rtol=0, atol=atol)


# ---- found


@pytest.mark.parametrize("save", ["t", "end"])
@pytest.mark.parametrize("method", ["tsit5", "dopri8", "bosh3", "rk4"])
def test_as_in_every_row_alone(method: str, save: str) -> None:
    """Terminal ones and others; rows that go backwards, have different spans, or find nothing."""
    settings: dict[str, Any] = {"events": MIXED, "method": method, "save": save, **FINE}
    if method == "rk4":
        settings["dt"] = 0.05
    if method == "bosh3":
        settings.update(rtol=1e-5, atol=1e-7)
    sol = solve(swing, STARTS, SPANS, SPEEDS, batch_dims=1, **settings)
    for b in range(5):
        solo = alone(b, STARTS, SPANS, SPEEDS, **settings)
        assert sol.status[b] is solo.status
        agree(
            found_in_row(sol, b), found(solo), 1e-9 if method == "dopri8" else 1e-12
        )  # whose error is mostly rounding
        agree(found(sol[b]), found_in_row(sol, b), 0.0)
    assert {Status.EVENT, Status.SUCCESS} == set(sol.status)
    assert len({len(t) for t in sol.t_events[0]}) > 1


def test_outputs_at_every_step_end_with_the_event() -> None:
    """The step sizes of a row alone are the same up to the rounding of the error estimate."""
    sol = solve(swing, STARTS, SPANS, SPEEDS, batch_dims=1, events=MIXED, save="steps", **FINE)
    for b in range(5):
        agree(found_in_row(sol, b), found(alone(b, STARTS, SPANS, SPEEDS, events=MIXED, save="steps", **FINE)), 1e-4)
        if sol.status[b] is Status.EVENT:
            assert torch.equal(sol.t[b][-1], sol.t_events[1][b][-1])
            assert torch.equal(sol.y[b][-1], sol.y_events[1][b][-1])


@pytest.mark.parametrize("direction", [0, 1, -1])
def test_directions_are_those_of_each_row(direction: int) -> None:
    t = torch.tensor([[0.0, 4 * math.pi], [0.0, -4 * math.pi]], dtype=F64)
    y0, w = STARTS[:1].repeat(2, 1), torch.ones(2, dtype=F64)
    sol = solve(circle, y0, t, w, batch_dims=1, events=Event(x_is_zero, direction=direction), **FINE)
    expected = {0: [0.5, 1.5, 2.5, 3.5], 1: [1.5, 3.5], -1: [0.5, 2.5]}[direction]
    for times, sign in zip(sol.t_events[0], (1, -1)):
        assert times.tolist() == pytest.approx([sign * math.pi * x for x in expected], abs=1e-6)


def test_several_in_one_step_up_to_the_first_terminal_one() -> None:
    """Every row stops at its own; what lies behind is not there, what is at the same time is."""
    levels = torch.tensor([1.3, 2.1, 9.0], dtype=F64)
    events = [
        Event(lambda t, y, level: torch.sin(2 * math.pi * t)),
        Event(lambda t, y, level: y[:, 0] - level, terminal=True),
        Event(lambda t, y, level: 3 * (y[:, 0] - level)),
        Event(lambda t, y, level: t - 2.2 * torch.ones_like(t), terminal=True),
    ]
    y0 = torch.full((3, 1), 0.1, dtype=F64)
    sol = solve(
        lambda t, y, level: torch.ones_like(y), y0, (0.1, 2.6), levels, batch_dims=1, events=events, dt=2.5, method="tsit5"
    )  # fmt: skip
    assert sol.stats.accepted.tolist() == [1, 1, 1]
    times = [[pytest.approx(t.tolist(), abs=1e-12) for t in rows] for rows in sol.t_events]
    assert times == [
        [[0.5, 1.0], [0.5, 1.0, 1.5, 2.0], [0.5, 1.0, 1.5, 2.0]],
        [[1.3], [2.1], []],
        [[1.3], [2.1], []],
        [[], [], [2.2]],
    ]
    assert sol.t[:, -1].tolist() == pytest.approx([1.3, 2.1, 2.2], abs=1e-12)
    assert sol.status == [Status.EVENT] * 3


@pytest.mark.parametrize("g", [
    lambda t, y: t - 0.7,
    lambda t, y: y[:, 0] - math.exp(-0.7),
    lambda t, y: (t - 0.7) ** 9,
    lambda t, y: torch.atan(1e8 * (t - 0.7)),
    lambda t, y: torch.where(t < 0.7, -1e-300 + 0 * t, 1e300),
    lambda t, y: torch.expm1(50 * (t - 0.7)),
    lambda t, y: torch.relu(t - 0.7) - 1e-12,
])  # fmt: skip
def test_located_to_rounding_and_not_before_the_crossing(g: Callable[..., Tensor]) -> None:
    asked = []

    def counted(t: Tensor, y: Tensor) -> Tensor:
        asked.append(1)
        return g(t, y)

    y0, t = torch.ones(2, 1, dtype=F64), torch.tensor([[0.0, 2.0], [-0.5, 2.0]], dtype=F64)
    y0[1] = math.exp(0.5)
    sol = solve(lambda t, y: -y, y0, t, batch_dims=1, events=Event(counted), rtol=1e-10, atol=1e-12)
    assert torch.cat(sol.t_events[0]).tolist() == pytest.approx([0.7, 0.7], abs=1e-9)
    assert len(asked) < 8 * int(sol.stats.attempted.max()) + 240
    at, there = torch.cat(sol.t_events[0]), torch.cat(sol.y_events[0])
    assert (g(at, there) * g(t[:, 0], y0).sign() <= 0).all()


@pytest.mark.parametrize("t0", [0.0, 0.3, -7.0])
def test_zero_at_the_start_is_not_found_there(t0: float) -> None:
    """It must leave zero and come back."""
    y0, w = torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=F64), torch.ones(2, dtype=F64)
    sol = solve(circle, y0, (t0, t0 + 7.0), w, batch_dims=1, events=Event(x_is_zero), **FINE)
    assert sol.t_events[0][0].tolist() == pytest.approx([t0 + math.pi, t0 + 2 * math.pi], abs=1e-6)
    assert sol.t_events[0][1].tolist() == pytest.approx([t0 + math.pi / 2, t0 + 3 * math.pi / 2], abs=1e-6)
    assert (
        solve(circle, y0, 3.0, w, batch_dims=1, events=Event(lambda t, y, w: 0 * y[:, 0])).t_events[0][0].tolist() == []
    )


def test_at_the_very_end_and_at_an_output() -> None:
    t = torch.tensor([[0.0, 0.25, 0.5, 1.0], [0.0, 0.25, 0.5, 0.75], [0.0, 0.1, 0.2, 0.5]], dtype=F64)
    y0 = torch.ones(3, 1, dtype=F64)
    events = [Event(lambda t, y: t - 0.5, terminal=True), Event(lambda t, y: 2 * t - 1)]
    for save, lengths in (("t", [3, 3, 4]), ("end", [1, 1, 1])):
        sol = solve(lambda t, y: -y, y0, t, batch_dims=1, events=events, save=save)
        assert [[x.tolist() for x in e] for e in sol.t_events] == [[[0.5]] * 3] * 2
        assert sol.status == [Status.EVENT] * 3
        assert sol.lengths.tolist() == lengths
        assert [float(x[-1]) for x in sol.t] == [0.5] * 3


def test_a_crossing_exactly_on_a_step_is_found_once() -> None:
    for method in ("euler", "rk4", "tsit5"):
        sol = solve(
            lambda t, y: -y, torch.ones(2, 1, dtype=F64), 1.0, batch_dims=1, method=method,
            controller=torchivp.FixedSteps(dt=0.125), events=Event(lambda t, y: t - 0.5),
        )  # fmt: skip
        assert [t.tolist() for t in sol.t_events[0]] == [[0.5], [0.5]], method


def test_rows_that_are_done_cost_and_find_nothing() -> None:
    """What g makes of a row that has stopped, failed or rejects its step does not matter."""
    y0 = torch.tensor([[1.0], [0.5], [3.0], [math.nan]], dtype=F64)
    events = [Event(lambda t, y: y[:, 0] - 2.0, terminal=True), Event(lambda t, y: t.sin() - 0.25)]
    growing = lambda t, y: torch.where(y[:1].isnan(), y, y * y)
    sol = solve(growing, y0, torch.tensor([[0.0, 3.0], [0.0, 1.0], [0.0, 3.0], [0.0, 1.0]]), batch_dims=1,
                events=events, throw=False, **FINE)  # fmt: skip
    assert sol.status[:2] == [Status.EVENT, Status.SUCCESS]
    assert sol.failed == [2, 3]
    assert float(sol.t_events[0][0]) == pytest.approx(0.5, abs=1e-7)
    assert [len(x) for x in sol.t_events[0]] == [1, 0, 0, 0]
    assert [len(x) for x in sol.t_events[1]] == [1, 1, 1, 0]
    with pytest.raises(torchivp.SolveError, match=r"rows failed \(2, 3\)"):
        sol.raise_for_status()


def test_the_last_step_allowed_may_end_at_an_event() -> None:
    """As alone: an event in that step is an end like any other."""
    y0, w = STARTS[:1].repeat(2, 1), torch.tensor([1.0, 1e-3], dtype=F64)
    whole = solve(circle, y0, 10.0, w, batch_dims=1, events=Event(x_is_zero, terminal=True), **FINE)
    steps = int(whole.stats.attempted[0])
    sol = solve(circle, y0, 10.0, w, batch_dims=1, events=Event(x_is_zero, terminal=True), max_steps=steps, **FINE)
    assert sol.status == [Status.EVENT, Status.SUCCESS]
    assert sol.messages == {}


def test_rows_in_another_order_and_rows_alone() -> None:
    order = torch.tensor([3, 0, 4, 2, 1])
    sol = solve(swing, STARTS, SPANS, SPEEDS, batch_dims=1, events=MIXED, **FINE)
    moved = solve(swing, STARTS[order], SPANS[order], SPEEDS[order], batch_dims=1, events=MIXED, **FINE)
    for new, old in enumerate(order.tolist()):
        agree(found_in_row(moved, new), found_in_row(sol, old), 1e-13)


def test_what_is_saved_does_not_change_them() -> None:
    plain = solve(swing, STARTS, SPANS, SPEEDS, batch_dims=1, events=MIXED, **FINE)
    y0 = STARTS.clone().requires_grad_()
    for start, settings in (
        (STARTS, {"dense": True}),
        (STARTS, {"save": "steps"}),
        (y0, {"gradient": "direct"}),
        (y0, {"gradient": "discrete", "dense": True}),
        (y0, {"gradient": "discrete", "save": "end"}),
    ):
        sol = solve(swing, start, SPANS, SPEEDS, batch_dims=1, events=MIXED, **FINE, **settings)
        for a, b in zip(sol.t_events + sol.y_events, plain.t_events + plain.y_events):
            assert all(torch.equal(x.detach(), y) for x, y in zip(a, b))


def test_dense_output_ends_at_the_event() -> None:
    w = torch.tensor([1.0, 2.0], dtype=F64)
    sol = solve(
        circle, STARTS[:1].repeat(2, 1), 10.0, w, batch_dims=1, events=Event(x_is_zero, terminal=True), dense=True
    )
    at = torch.cat(sol.t_events[0]).unsqueeze(1)
    torch.testing.assert_close(sol(at)[:, 0], torch.cat(sol.y_events[0]), rtol=0, atol=1e-12)
    with pytest.raises(InputError, match=r"row 1 .*known on \[0, 0\.785"):
        sol(1.0)


# ---- what states and event functions may be


def test_pytrees_and_several_batch_axes() -> None:
    w = torch.tensor([[1.0, 2.0, 0.1], [0.5, 4.0, 3.0]], dtype=F64)
    y0 = {"x": torch.ones(2, 3, 1, 1, dtype=F64), "v": torch.zeros(2, 3, 1, dtype=F64)}
    f = lambda t, y, w: {"x": w[:, :, None, None] * y["v"][..., None], "v": -w[:, :, None] * y["x"][..., 0]}
    g = lambda t, y, w: y["x"].sum((-1, -2)) - 0.1 * torch.ones_like(t)
    sol = solve(
        f, y0, (4.0, 0.0), w, batch_dims=2, events=[Event(g), Event(lambda t, y, w: t - 1.0, terminal=True)], **FINE
    )
    for b, speed in enumerate(w.flatten()):
        row = solve(
            lambda t, y, w: {"x": w * y["v"][..., None], "v": -w * y["x"][..., 0]},
            {"x": y0["x"][0, 0], "v": y0["v"][0, 0]}, (4.0, 0.0), speed,
            events=[Event(lambda t, y, w: y["x"].sum() - 0.1), Event(lambda t, y, w: t - 1.0, terminal=True)], **FINE,
        )  # fmt: skip
        for number in range(2):
            agree([sol.t_events[number][b]], [row.t_events[number]])
            agree(flatten(sol.y_events[number][b])[0], flatten(row.y_events[number])[0])
    assert sol.t.shape == (2, 3, 2)
    assert sol.y["x"].shape == (2, 3, 2, 1, 1)
    assert torch.equal(sol.y["v"][1, 2, -1], sol.y_events[1][5]["v"][0])
    moved = sol.detach().to(torch.float32)
    assert moved.y_events[0][1]["x"].dtype == torch.float32


def test_complex_states_and_low_precision() -> None:
    w = torch.tensor([1.0, 2.0], dtype=F64)
    wave = solve(lambda t, y, w: 1j * w * y, torch.ones(2, dtype=torch.complex128), 2.0, w, batch_dims=1,
                 events=Event(lambda t, y, w: y.real), **FINE)  # fmt: skip
    assert torch.cat(wave.t_events[0]).tolist() == pytest.approx([math.pi / 2, math.pi / 4], abs=1e-6)
    for dtype in (torch.float32, torch.float16):
        y0 = torch.tensor([[1.0], [0.75]], dtype=dtype)
        sol = solve(
            lambda t, y: -y, y0, 2.0, batch_dims=1, events=Event(lambda t, y: y[:, 0] - 0.5, terminal=True), rtol=1e-4
        )
        precision = max(5e-4, 2 * torch.finfo(dtype).eps)
        assert torch.cat(sol.t_events[0]).tolist() == pytest.approx([math.log(2), math.log(1.5)], abs=precision)


@pytest.mark.parametrize(("g", "got"), [
    (lambda t, y: y, r"shape \(5, 2\) and dtype torch.float64"),
    (lambda t, y: y[:, 0].sum(), r"shape \(\)"),
    (lambda t, y: y[:, 0] > 0, r"dtype torch.bool"),
    (lambda t, y: 1j * y[:, 0], r"dtype torch.complex128"),
    (lambda t, y: 0.5, r"returned a float"),
])  # fmt: skip
def test_an_event_function_gives_one_number_for_each_row(g: Callable[..., Any], got: str) -> None:
    with pytest.raises(InputError, match=got + r".*batch_dims=1 .*all rows of the batch.*\(5,\).*Write"):
        solve(lambda t, y: -y, STARTS, 1.0, batch_dims=1, events=Event(g))


def test_events_on_no_interval_and_none_at_all() -> None:
    events = [Event(lambda t, y: y[:, 0]), Event(lambda t, y: t - 1, terminal=True)]
    sol = solve(lambda t, y: -y, STARTS, (1.0, 1.0), batch_dims=1, events=events)
    assert [[x.tolist() for x in rows] for rows in sol.t_events] == [[[]] * 5] * 2
    assert sol.y_events[0][3].shape == (0, 2)
    without = solve(lambda t, y: -y, STARTS, 1.0, batch_dims=1)
    assert without.t_events is None
    assert without[0].y_events is None


def test_coupled_rows_stop_one_by_one() -> None:
    w = torch.tensor([1.0, 2.0, 0.1], dtype=F64)
    sol = solve(
        circle,
        STARTS[:1].repeat(3, 1),
        3.0,
        w,
        batch_dims=1,
        couple=True,
        events=Event(x_is_zero, terminal=True),
        **FINE,
    )
    assert sol.status == [Status.EVENT, Status.EVENT, Status.SUCCESS]
    assert torch.cat(sol.t_events[0]).tolist() == pytest.approx([math.pi / 2, math.pi / 4], abs=1e-6)


def test_a_row_goes_on_from_its_event() -> None:
    sol = solve(circle, STARTS[:2], 20.0, SPEEDS[:2], batch_dims=1, events=Event(x_is_zero, terminal=True), **FINE)
    row = sol[1]
    again = solve(
        lambda t, y: circle(t, y, SPEEDS[1]),
        None,
        20.0,
        start=row,
        events=Event(lambda t, y: y[0], terminal=True),
        **FINE,
    )
    assert again.t[0] == row.t[-1]
    assert float(again.t[-1] - row.t[-1]) == pytest.approx(math.pi / 2, abs=1e-6)
    assert again.stats.attempted < 60


# ---- gradients


def leaves() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Starts, times, speeds, and a level that event functions close over."""
    return (STARTS.clone().requires_grad_(), SPANS.clone().requires_grad_(), SPEEDS.clone().requires_grad_(),
            torch.linspace(0.1, 0.2, 5, dtype=F64).requires_grad_())  # fmt: skip


def counted(parts: list[Tensor], save: str) -> list[Tensor]:
    """Alone, the time of save="end" is a number."""
    return [*parts[:-2], parts[-1]] if save == "end" else parts


def of_rows(gradient: str, inputs: tuple[Tensor, ...], save: str = "t") -> Tensor:
    """A number made of all events and outputs of the batch."""
    y0, t, w, level = inputs
    events = [Event(lambda t, y, w: y[:, 0] - level), *MIXED[1:]]
    sol = solve(swing, y0, t, w, batch_dims=1, events=events, gradient=gradient, save=save, **FINE)
    return total([x for b in range(5) for x in counted(found_in_row(sol, b), save)])


def of_solos(gradient: str, inputs: tuple[Tensor, ...], save: str = "t") -> Tensor:
    """The same, of every row solved alone."""
    y0, t, w, level = inputs
    parts = []
    for b in range(5):
        events = [Event(lambda t, y, w: y[0] - level[b]), *MIXED[1:]]  # noqa: B023
        parts += counted(found(alone(b, y0, t, w, events=events, gradient=gradient, save=save, **FINE)), save)
    return total(parts)


def total(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat([(1.5 * x + x * x).flatten() for x in parts]).sum()


@pytest.mark.parametrize("save", ["t", "end"])
@pytest.mark.parametrize("gradient", ["direct", "discrete", "forward"])
def test_gradients_are_those_of_every_row_alone(gradient: str, save: str) -> None:
    inputs = leaves()
    batch = torch.autograd.grad(of_rows(gradient, inputs, save), inputs)
    solos = torch.autograd.grad(of_solos("discrete", inputs, save), inputs)
    agree(batch, solos, 1e-9)
    assert all(bool((g != 0).any()) for g in batch)


@pytest.mark.parametrize("gradient", ["direct", "discrete"])
def test_second_derivatives_are_those_of_every_row_alone(gradient: str) -> None:
    inputs = leaves()
    second = []
    for number in (of_rows, of_solos):
        first = torch.autograd.grad(number(gradient, inputs), inputs, create_graph=True)
        second.append(torch.autograd.grad(total(first), inputs))
    size = max(float(x.abs().max()) for x in second[1])
    agree([x / size for x in second[0]], [x / size for x in second[1]], 1e-10)


def test_gradients_of_the_exact_solution() -> None:
    """The fall of balls: ``t = sqrt(2 h / g)``, by height, gravity, start, and the level of the ground."""
    height = torch.tensor([10.0, 3.0, 7.0], dtype=F64, requires_grad=True)
    gravity = torch.tensor([9.81, 1.62, 3.7], dtype=F64, requires_grad=True)
    level = torch.tensor(1.0, dtype=F64, requires_grad=True)
    t0 = torch.tensor([0.0, 2.0, -1.0], dtype=F64, requires_grad=True)
    y0 = torch.stack([height, torch.zeros_like(height)], -1)
    ground = Event(lambda t, y, g: y[:, 0] - level, terminal=True, direction=-1)
    ball = lambda t, y, g: torch.stack([y[:, 1], -g], -1)
    sol = solve(ball, y0, (t0, torch.tensor(100.0)), gravity, batch_dims=1, events=ground, **FINE)
    fall = (2 * (height - level) / gravity).sqrt()
    hit = torch.cat(sol.t_events[0])
    torch.testing.assert_close(hit, t0 + fall, rtol=0, atol=1e-9)
    speeds = torch.stack([y[0, 1] for y in sol.y_events[0]])
    inputs = (height, gravity, level, t0)
    for ours, exact in ((hit, t0 + fall), (speeds, -gravity * fall), (sol.t[:, -1], t0 + fall)):
        weights = torch.tensor([1.0, -2.0, 0.5], dtype=F64)
        expected = torch.autograd.grad(exact @ weights, inputs, retain_graph=True, allow_unused=True)
        for a, b in zip(torch.autograd.grad(ours @ weights, inputs, retain_graph=True), expected):
            torch.testing.assert_close(a, torch.zeros_like(a) if b is None else b, rtol=0, atol=1e-8)


@pytest.mark.parametrize("transform", [torch.func.grad, torch.func.jacfwd])
def test_gradients_in_transforms(transform: Callable[..., Any]) -> None:
    y0, t, w, level = leaves()
    expected = torch.autograd.grad(of_rows("discrete", (y0, t, w, level)), w)[0]
    y0, t, level = y0.detach(), t.detach(), level.detach()
    agree([transform(lambda w: of_rows("discrete", (y0, t, w, level)))(w.detach())], [expected], 1e-10)


@pytest.mark.parametrize("gradient", ["direct", "discrete"])
def test_touching_zero_has_no_gradient_and_says_so_for_its_row_alone(gradient: str) -> None:
    w = torch.tensor([1.0, 2.0], dtype=F64, requires_grad=True)
    steps = torch.tensor([True, False])
    touch = Event(lambda t, y: torch.where(steps, torch.sign(y[:, 0] - 2.0) + 0 * y[:, 0], y[:, 0] - 2.0))
    sol = solve(lambda t, y: w.unsqueeze(1) * torch.ones_like(y), torch.ones(2, 1, dtype=F64), 3.0, batch_dims=1,
                events=touch, gradient=gradient)  # fmt: skip
    for row in (sol.t_events[0][0], sol.y_events[0][0]):
        with pytest.raises(GradientError, match=r"event found at t=1 .*dg/dt = 0.*no gradient.*detach"):
            torch.autograd.grad(row.sum(), w, retain_graph=True)
    (grad,) = torch.autograd.grad(sol.t_events[0][1].sum(), w)
    assert grad.tolist() == pytest.approx([0.0, -0.25])


@pytest.mark.parametrize("gradient", ["direct", "discrete"])
def test_rows_that_fail_or_find_nothing_leave_the_gradients_of_the_others_alone(gradient: str) -> None:
    """Row 1 blows up, row 2 sits where g has no derivative."""
    y0 = torch.tensor([[1.0], [2.0], [0.0]], dtype=F64, requires_grad=True)
    t = torch.tensor([[0.0, 0.75], [0.0, 3.0], [0.0, 1.0]], dtype=F64)
    event = Event(lambda t, y: y[:, 0].sqrt() - 1.5)
    sol = solve(lambda t, y: y * y, y0, t, batch_dims=1, events=event, gradient=gradient, throw=False, **FINE)
    assert sol.failed == [1]
    assert [len(x) for x in sol.t_events[0]] == [1, 1, 0]
    (grad,) = torch.autograd.grad(sol.t_events[0][0].sum(), y0)
    assert grad.flatten().tolist() == pytest.approx([-1.0, 0.0, 0.0], abs=1e-5)


# ---- steady states

REST: dict[str, Any] = {"events": torchivp.SteadyState(), "save": "end", "rtol": 1e-9, "atol": 1e-12}
FORCES = torch.tensor([[0.5, 2.0], [-1.0, 3.0], [0.1, 0.2]], dtype=F64)


def cubic(t: Tensor, y: Tensor, w: Tensor) -> Tensor:
    """Comes to rest where y + y^3 + y mixed = w: a Jacobian that is not symmetric."""
    return w - y * (1 + y * y) - y.flip(-1) * torch.tensor([0.3, -0.5], dtype=F64)


def test_every_row_stops_where_it_is_at_rest() -> None:
    t = torch.tensor([[0.0, 1e3], [0.0, 1e3], [10.0, 1e3]], dtype=F64)
    sol = solve(cubic, torch.zeros(3, 2, dtype=F64), t, FORCES, batch_dims=1, **REST)
    assert sol.status == [Status.EVENT] * 3
    assert len(set(sol.t.flatten().tolist())) == 3
    for b in range(3):
        solo = solve(cubic, torch.zeros(2, dtype=F64), t[b], FORCES[b], **REST)
        agree([sol.t_events[0][b]], [solo.t_events[0]], 1e-3)  # it creeps there
        agree([sol.y[b]], [solo.y], 1e-8)
    tree = solve(
        lambda t, y, w: {"a": cubic(t, y["a"], w)}, {"a": torch.zeros(3, 1, 2, dtype=F64)}, t.unsqueeze(1),
        FORCES.unsqueeze(1), batch_dims=2, **REST,
    )  # fmt: skip
    assert torch.equal(tree.y["a"][:, 0], sol.y)


@pytest.mark.filterwarnings(
    "ignore::torchivp.errors.StiffnessWarning"
)  # row 2 rests: its steps are as long as is stable
@pytest.mark.parametrize("direction", [1.0, -1.0])
def test_the_implicit_gradient_of_every_row(direction: float) -> None:
    """Backwards in time as well; row 2 starts at rest and ends at its last time."""
    w = FORCES.clone().requires_grad_()
    y0 = torch.zeros(3, 2, dtype=F64)
    field = lambda t, y, w: direction * cubic(t, y, w)
    y0[2] = solve(cubic, y0[2], 1e3, FORCES[2], **REST).y[-1]
    y0.requires_grad_()
    events = [torchivp.SteadyState(), Event(lambda t, y, w: y[:, 0] - 0.2)]
    settings = {**REST, "events": events}
    sol = solve(field, y0, direction * 1e3, w, batch_dims=1, gradient="implicit", **settings)
    assert sol.status == [Status.EVENT, Status.EVENT, Status.SUCCESS]
    loss = (sol.y[:, -1] ** 2).sum() + sol.y_events[0][1].sum() + sol[0].y.sum()
    at_w, at_y0 = torch.autograd.grad(loss, [w, y0])
    y = sol.y[:, -1].detach()
    cotangent = 2 * y + torch.tensor([[1.0], [1.0], [0.0]], dtype=F64)
    for b in range(3):
        jacobian = torch.func.jacrev(lambda x: cubic(x, x, w[b].detach()))(y[b])  # noqa: B023
        torch.testing.assert_close(at_w[b], -torch.linalg.solve(jacobian.T, cotangent[b]), rtol=1e-9, atol=0)
    assert not at_y0.any()
    assert sol.stats.replayed == 1


def test_the_implicit_gradient_names_rows_without_a_steady_state() -> None:
    y0, w = torch.zeros(3, 2, dtype=F64), FORCES.clone().requires_grad_()
    short = torch.tensor([[0.0, 1e3], [0.0, 0.1], [0.0, 0.2]], dtype=F64)
    with pytest.raises(GradientError, match=r"rows 1, 2 ended without coming to rest.*more time"):
        solve(cubic, y0, short, w, batch_dims=1, gradient="implicit", **REST)
    with pytest.raises(InputError, match=r"save='end'"):
        solve(cubic, y0, 1e3, w, batch_dims=1, gradient="implicit", events=torchivp.SteadyState())
    with pytest.raises(InputError, match=r"no event stops.*SteadyState"):
        solve(cubic, y0, 1e3, w, batch_dims=1, gradient="implicit", save="end")


def test_the_implicit_gradient_beside_failed_and_singular_rows() -> None:
    """Row 1 blows up, row 2 conserves: only a loss that uses them is refused."""
    rate = torch.tensor([1.0, -1.0, 0.0], dtype=F64, requires_grad=True)

    def field(t: Tensor, y: Tensor, rate: Tensor) -> Tensor:
        return torch.stack([rate * (1 - y[:, 0] ** 2), -y[:, 1]], -1)

    y0 = torch.tensor([[0.5, 1.0], [2.0, 1.0], [0.5, 1.0]], dtype=F64)
    sol = solve(field, y0, 1e2, rate, batch_dims=1, gradient="implicit", throw=False, **REST)
    assert sol.failed == [1]
    (grad,) = torch.autograd.grad(sol.y[0].sum(), rate, retain_graph=True)
    assert grad.tolist() == pytest.approx([0.0, 0.0, 0.0], abs=1e-6)
    with pytest.raises(GradientError, match=r"row 1 failed on the way.*Leave failed rows out"):
        torch.autograd.grad(sol.y.sum(), rate, retain_graph=True)
    with pytest.raises(GradientError, match=r"row 2 is singular.*conserved"):
        torch.autograd.grad(sol.y[2].sum(), rate)


def test_discrete_gradients_of_steady_states_agree_with_the_implicit_ones() -> None:
    w = FORCES.clone().requires_grad_()
    grads = [
        torch.autograd.grad(solve(cubic, torch.zeros(3, 2, dtype=F64), 1e3, w, batch_dims=1, gradient=g, **REST).y.sum(), w)[0]
        for g in ("implicit", "discrete", "direct")
    ]  # fmt: skip
    for g in grads[1:]:
        torch.testing.assert_close(g, grads[0], rtol=1e-5, atol=0)


def test_copies_hold_the_events() -> None:
    w = SPEEDS.clone().requires_grad_()
    sol = solve(swing, STARTS, SPANS, w, batch_dims=1, events=MIXED, **FINE)
    copied = sol.detach()
    assert not any(x.requires_grad for rows in [*copied.t_events, *copied.y_events] for x in rows)
    assert tree_map(lambda x: x.shape, copied.y_events) == tree_map(lambda x: x.shape, sol.y_events)
