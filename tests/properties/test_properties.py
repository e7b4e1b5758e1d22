"""What must hold whatever the numbers are."""

from __future__ import annotations

import math
from typing import Any

import hypothesis.strategies as st
import torch
from hypothesis import given, settings
from torch import Tensor

import torchivp
from iterating import ITERATING
from torchivp import PID, Event, FixedSteps, solve
from torchivp.controllers import Limits
from torchivp.state import Layout, flatten

METHODS = sorted(torchivp.methods.METHODS)
EXACT = [name for name in METHODS if name not in ITERATING]
few = settings(max_examples=10)
many = settings(max_examples=60)

shapes = st.lists(st.integers(0, 3), max_size=3).map(tuple)
dtypes = st.sampled_from(
    [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128]
)
leaves = st.builds(lambda s, d: torch.randn(s, dtype=torch.float64).to(d), shapes, dtypes)
trees = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3),
        st.lists(inner, min_size=1, max_size=3).map(tuple),
        st.dictionaries(st.text(max_size=2), inner, min_size=1, max_size=3),
    ),
    max_leaves=6,
)
numbers = st.floats(-3, 3, allow_subnormal=False)
lengths = st.floats(0.05, 4)


def f(t: Tensor, y: Tensor) -> Tensor:
    """Not linear, not autonomous, and tame everywhere."""
    return torch.sin(3 * t + y) - 0.5 * y.flip(-1)


def adaptive(method: str) -> bool:
    return torchivp.methods.METHODS[method]().adaptive


def options_for(method: str) -> dict[str, Any]:
    return {"method": method, "dt": None if adaptive(method) else 0.1, "rtol": 1e-3, "atol": 1e-4}


@many
@given(trees, st.integers(0, 3))
def test_ravel_and_unravel_undo_each_other(tree: Any, n: int) -> None:
    layout = Layout(tree)
    rows = torch.cat([layout.ravel(tree)] * n) if n else layout.ravel(tree)[:0]
    back, spec = flatten(layout.unravel(rows, lead=(n,)))
    assert spec == flatten(tree)[1]
    for x, y in zip(flatten(tree)[0], back):
        assert y.dtype == x.dtype
        assert torch.equal(y, x.unsqueeze(0).expand(n, *x.shape))


@few
@given(st.sampled_from(METHODS), numbers, lengths, st.integers(1, 4))
def test_the_direction_of_time_is_a_mirror(method: str, t0: float, length: float, d: int) -> None:
    y0 = torch.linspace(-1, 1, d, dtype=torch.float64)
    options = {**options_for(method), "save": "steps"}
    forth = solve(f, y0, (t0, t0 + length), **options)
    back = solve(lambda t, y: -f(-t, y), y0, (-t0, -t0 - length), **options)
    assert torch.equal(back.t, -forth.t)
    assert torch.equal(back.y, forth.y)


@few
@given(st.sampled_from(METHODS), st.lists(st.floats(0, 1), max_size=6, unique=True), lengths)
def test_saved_times_change_neither_steps_nor_values(method: str, inside: list[float], length: float) -> None:
    """The asked times are those of the answer; values are those of the dense output; the steps are those without."""
    y0 = torch.tensor([0.3, -0.7], dtype=torch.float64)
    t = torch.tensor(sorted({0.0, length, *(x * length for x in inside)}), dtype=torch.float64)
    options = options_for(method)
    plain = solve(f, y0, (0.0, length), dense=True, **options)
    sol = solve(f, y0, t, **options)
    assert torch.equal(sol.t, t)
    assert sol.stats.accepted == plain.stats.accepted
    torch.testing.assert_close(sol.y, plain(t), rtol=1e-12, atol=1e-12)


@few
@given(st.sampled_from(EXACT), st.integers(1, 6), lengths)
def test_a_stop_and_a_start_leave_no_trace(method: str, n: int, length: float) -> None:
    y0 = torch.tensor([0.3, -0.7], dtype=torch.float64)
    options = {**options_for(method), "save": "steps"}
    if not adaptive(method):
        options["dt"] = length / 16
    whole = solve(f, y0, (0.0, length), **options)
    left = [n]

    def on_step(t: float, y: Tensor) -> bool:
        left[0] -= 1
        return left[0] == 0

    first = solve(f, y0, (0.0, length), on_step=on_step, **options)
    rest = solve(f, None, length, start=first, **options)
    y = torch.cat([first.y, rest.y[1:]])
    assert len(y) == len(whole.y)
    torch.testing.assert_close(y, whole.y, rtol=0 if adaptive(method) else 1e-13, atol=0 if adaptive(method) else 1e-13)


@few
@given(
    st.sampled_from(["tsit5", "rk4"]), st.lists(st.floats(-0.5, 1.5), max_size=8), st.lists(st.floats(-0.5, 1.5), max_size=8),
    st.booleans(),
)  # fmt: skip
def test_no_landing_is_ever_lost(method: str, stops: list[float], jumps: list[float], back: bool) -> None:
    y0 = torch.tensor([0.3], dtype=torch.float64)
    t = (1.0, 0.0) if back else (0.0, 1.0)
    dt = 0.25 if method == "rk4" else None
    sol = solve(f, y0, t, method=method, dt=dt, stop_times=stops, jump_times=jumps, save="steps", rtol=1e-2, atol=1e-2)
    assert {x for x in (*stops, *jumps) if 0 <= x <= 1} <= set(sol.t.tolist())
    assert (sol.t.diff() * (-1 if back else 1) > 0).all()


@many
@given(
    st.lists(st.floats(0, 10), max_size=10), st.lists(st.floats(0, 10), max_size=10), st.floats(0.01, 20),
    st.sampled_from([torch.float64, torch.float32, torch.bfloat16]),
)  # fmt: skip
def test_limits_cut_every_step_at_the_next_landing(
    stops: list[float], jumps: list[float], dt: float, dtype: torch.dtype
) -> None:
    limits = Limits(10.0, stops, jumps, dtype)
    landings = sorted({x for x in (*stops, *jumps) if 0 < x <= 10} | {10.0})
    t, visited = 0.0, []
    while t < 10.0:
        span = limits.cut(t, dt)
        assert t < span.t1 <= min(x for x in landings if x > t)
        if span.t1 in jumps:
            assert span.last is not None
            assert span.last < span.t1
        if span.t in jumps:
            assert span.first is not None
            assert span.first > span.t
        t = span.t1
        visited.append(t)
    assert set(landings) <= set(visited)


@many
@given(
    st.floats(0, 1e300), st.floats(1e-12, 1e12), st.lists(st.floats(1e-4, 1), max_size=2), st.integers(1, 9),
    st.floats(0, 0.6), st.floats(0.05, 1), st.floats(0, 0.3),
)  # fmt: skip
def test_a_controller_keeps_its_limits(
    ratio: float, dt: float, memory: list[float], order: int, p: float, i: float, d: float
) -> None:
    control = PID(p=p, i=i, d=d, max_step=1e9)
    accepted, after, _ = control.judge(ratio, dt, tuple(memory), order)
    assert accepted == (ratio <= 1)
    assert min(0.2 * dt, 1e9) * (1 - 1e-12) <= after <= min(10 * dt, 1e9) * (1 + 1e-12)
    if not accepted:
        assert after < dt
        _, later, _ = control.judge(2 * ratio, dt, tuple(memory), order)
        assert later <= after


@few
@given(st.floats(0.1, 3.0), st.sampled_from(["tsit5", "dopri8", "bosh3"]), st.booleans())
def test_events_are_where_they_are(at: float, method: str, back: bool) -> None:
    """For a linear solution the place is known exactly."""
    one = torch.ones(1, dtype=torch.float64)
    sign = -1.0 if back else 1.0
    sol = solve(
        lambda t, y: sign * torch.ones_like(y), 0 * one, sign * 3.5, method=method,
        events=[Event(lambda t, y: y[0] - at), Event(lambda t, y: y[0] - at, direction=-1), Event(lambda t, y: t - sign * at)],
    )  # fmt: skip
    assert [len(t) for t in sol.t_events] == [1, 0, 1]
    assert abs(sol.t_events[0].item() - sign * at) < 1e-12
    assert abs(sol.t_events[2].item() - sign * at) < 1e-14


@few
@given(st.floats(-2, 2), st.floats(-2, 2), st.sampled_from(EXACT), st.booleans())
def test_linear_problems_are_solved_linearly(a: float, b: float, method: str, complex_too: bool) -> None:
    """On a fixed mesh the solution of y' = A(t) y is linear in y0, to rounding; complex states are pairs of real ones."""
    dtype = torch.complex128 if complex_too else torch.float64
    matrix = torch.tensor([[0.1, 1.0], [-1.0, -0.2]], dtype=dtype) * (1j if complex_too else 1)

    def g(t: Tensor, y: Tensor) -> Tensor:
        return torch.cos(t) * matrix @ y

    x, z = torch.tensor([1.0, 0.0], dtype=dtype), torch.tensor([0.5, -1.0], dtype=dtype)
    steps = FixedSteps(dt=0.25)
    ends = [solve(g, y0, 2.0, method=method, controller=steps).y[-1] for y0 in (x, z, a * x + b * z)]
    torch.testing.assert_close(ends[2], a * ends[0] + b * ends[1], rtol=1e-12, atol=1e-12)


@few
@given(st.permutations(range(5)), st.sampled_from(["tsit5", "dopri8", "bosh3"]))
def test_the_order_of_the_entries_does_not_matter(order: list[int], method: str) -> None:
    y0 = torch.linspace(-1, 2, 5, dtype=torch.float64)
    rates = torch.linspace(0.5, 2, 5, dtype=torch.float64)

    def g(r: Tensor) -> Any:
        return lambda t, y: r * torch.cos(t) * y

    options = {"method": method, "rtol": 1e-5, "atol": 1e-7}
    a = solve(g(rates), y0, 3.0, **options)
    b = solve(g(rates[order]), y0[order], 3.0, **options)
    torch.testing.assert_close(b.y[-1], a.y[-1][order], rtol=1e-6, atol=1e-9)
    exact = y0 * torch.exp(rates * math.sin(3))
    assert (a.y[-1] - exact).abs().max() < 1e-3
