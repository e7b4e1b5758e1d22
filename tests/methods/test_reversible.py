"""Reversible methods: a step is taken back exactly; adaptive steps, jumps, directions, dtypes; what they refuse."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import torchivp
from gradients.comparison import assert_agree, weighted
from torchivp import InputError, Solution, solve
from torchivp.field import Field
from torchivp.methods import ALF, METHODS, Dopri5, ExplicitRungeKutta, History, Method, Reversible, ReversibleHeun
from torchivp.span import OneSpan, Span
from torchivp.state import Layout

F64 = torch.float64
BASES = [name for name, cls in METHODS.items() if issubclass(cls, ExplicitRungeKutta)]
WRAPPED = {f"Reversible({name})": Reversible(name) for name in BASES}
ALL: dict[str, Method] = {"reversible_heun": ReversibleHeun(), "alf": ALF(), **WRAPPED}
# FSAL with a free interpolant, one with extra stages, none of both; the two of order 2.
KINDS = ["reversible_heun", "alf", "Reversible(tsit5)", "Reversible(dopri8)", "Reversible(rk4)"]

methods = pytest.mark.parametrize("method", ALL.values(), ids=ALL.keys())
kinds = pytest.mark.parametrize("method", [ALL[name] for name in KINDS], ids=KINDS)


def f(t: Tensor, y: Tensor) -> Tensor:
    """A pendulum that is pushed."""
    return torch.stack([y[1], -torch.sin(y[0]) + 0.3 * torch.cos(2 * t)])


Y0 = torch.tensor([0.8, -0.5], dtype=F64)


def size(method: Method, tol: float = 1e-4, **kw: Any) -> dict[str, Any]:
    return {"method": method, **({"rtol": tol, "atol": tol} if method.adaptive else {"dt": 0.1}), **kw}


def spans(n: int, t0: float = 0.2) -> list[Span]:
    """Steps of uneven sizes, which are no binary fractions."""
    times = [t0]
    for i in range(n):
        times.append(times[-1] + 0.01 * (1 + i % 3 / 2.7))
    return [OneSpan(a, b, size=b - a) for a, b in zip(times, times[1:])]


def field_of(f: Any, y0: Tensor, direction: int = 1) -> Field:
    return Field(f, Layout(y0), direction)


def forth(method: Method, field: Field, y: Tensor, steps: list[Span]) -> list[tuple[Tensor, History]]:
    """The starts of all steps, and the end: states and histories."""
    history: History = ((steps[0].t, field.start_slope(steps[0], y)),)
    out = [(y, history)]
    for span in steps:
        step = method.step(field, span, *out[-1])
        out.append((step.y1, step.history))
    return out


def rows(y: Tensor, history: History, n: int) -> Tensor:
    return torch.cat([y, *(row for _, row in history[:n])])


def off(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


# ---- back


@methods
@pytest.mark.parametrize("direction", [1, -1])
def test_reverse_undoes_step(method: Method, direction: int) -> None:
    """State, second state and slope, from a start and from the middle of a solve."""
    field, steps = field_of(f, Y0, direction), spans(4)
    path = forth(method, field, Y0.view(1, -1), steps)
    for span, start, end in zip(steps, path, path[1:]):
        y0, history0 = method.reverse(field, span, *end)
        n = len(start[1])
        if n == 1:  # at the start z is y
            assert off(history0[-1][1], history0[0][1] if len(history0) == 1 else start[0]) < 1e-13
        assert off(rows(y0, history0, n), rows(*start, n)) < 1e-13
        assert all(t == span.t for t, _ in history0)


@pytest.mark.parametrize("method", [ALL[name] for name in KINDS[:3]], ids=KINDS[:3])
def test_many_steps_back(method: Method) -> None:
    """2,000 steps with lam = 0.999: rounding errors grow by 0.999^-2000 = 7.4, and by the distance they have in y."""
    field, steps = field_of(f, Y0), spans(2000)
    path = forth(method, field, Y0.view(1, -1), steps)
    y, history = path[-1]
    for span in reversed(steps):
        y, history = method.reverse(field, span, y, history)
    assert off(y, path[0][0]) < 1e-11


@kinds
def test_reverse_along_adaptive_steps(method: Method) -> None:
    """The mesh of an adaptive solve, its last step cut at the end."""
    sol = solve(f, Y0, (0.0, 7.3), save="steps", **size(method, 1e-5))
    times = sol.t.tolist()
    steps = [OneSpan(a, b, size=b - a) for a, b in zip(times, times[1:])]
    field = field_of(f, Y0)
    path = forth(method, field, Y0.view(1, -1), steps)
    assert torch.equal(torch.cat([y for y, _ in path]), sol.y)
    y, history = path[-1]
    for span, (start, _) in zip(reversed(steps), reversed(path[:-1])):
        y, history = method.reverse(field, span, y, history)
        assert off(y, start) < 1e-10


@methods
def test_steps_back_ask_inside_the_interval(method: Method) -> None:
    asked: list[float] = []

    def watched(t: Tensor, y: Tensor) -> Tensor:
        asked.append(t.item())
        return f(t, y)

    field = field_of(watched, Y0)
    for span in (*spans(30, 0.1), *spans(30, 1000.1), OneSpan(0.3, 0.6, 0.55, 0.35, 0.3)):
        asked.clear()
        (_, end) = forth(method, field, Y0.view(1, -1), [span])
        forwards = len(asked)
        method.reverse(field, span, *end)
        low, high = span.first or span.t, span.last or span.t1
        # The slope that the test asks for at the start is the first one.
        assert all(low <= t <= high for t in asked[:forwards])
        assert all(low <= t <= high for t in asked[forwards:])


@kinds
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64, torch.complex128])
def test_reverse_in_other_dtypes(method: Method, dtype: torch.dtype) -> None:
    y0 = torch.tensor([0.8, -0.5, 0.1]).to(dtype)
    w = torch.tensor([1.0, 0.3, -0.5], dtype=dtype) * (1j if dtype.is_complex else 1)
    field, steps = field_of(lambda t, y: w * y * torch.cos(t), y0), spans(50)
    path = forth(method, field, y0.view(1, -1), steps)
    y, history = path[-1]
    for span in reversed(steps):
        y, history = method.reverse(field, span, y, history)
    assert y.dtype == dtype
    assert off(y, path[0][0]) < 200 * torch.finfo(dtype).eps


def test_the_gradient_of_a_step_back_is_finite_with_times_that_carry_one() -> None:
    """Spans of tensors give the same numbers as those of floats."""
    for name in KINDS:
        method, field, (span,) = ALL[name], field_of(f, Y0), spans(1)
        t, t1 = (torch.tensor(x, dtype=F64, requires_grad=True) for x in (span.t, span.t1))
        (_, end), (_, timed_end) = (
            forth(method, field, Y0.view(1, -1), [s]) for s in (span, span._replace(t=t, t1=t1))
        )
        a, b = (method.reverse(field, s, *e)[0] for s, e in ((span, end), (span._replace(t=t, t1=t1), timed_end)))
        assert torch.equal(a, b)


# ---- solves


@pytest.mark.parametrize("base", [name for name in BASES if METHODS[name]().adaptive])
def test_adaptive_steps_follow_the_tolerance(base: str) -> None:
    """About as accurate as the base method, in about as many steps."""
    exact = solve(f, Y0, (0.0, 10.0), method="dopri8", rtol=1e-13, atol=1e-13).y[-1]
    tol = 1e-5
    plain, reversible = (
        solve(f, Y0, (0.0, 10.0), method=m, rtol=tol, atol=tol) for m in (METHODS[base](), Reversible(base))
    )
    assert reversible.stats.accepted < 1.3 * plain.stats.accepted + 5
    assert off(reversible.y[-1], exact) < 10 * max(off(plain.y[-1], exact), tol)


@kinds
@pytest.mark.parametrize("t", [(0.0, 5.0), (5.0, 0.0)], ids=["forth", "back"])
def test_values_steps_and_dense_output(method: Method, t: tuple[float, float]) -> None:
    exact = solve(f, Y0, t, method="dopri8", rtol=1e-12, atol=1e-12, dense=True)
    sol = solve(f, Y0, t, dense=True, save="steps", **size(method, 1e-6))
    assert sol.success
    between = torch.linspace(*t, 201, dtype=F64)
    at_steps, anywhere = ((x - y).abs().max() for x, y in ((sol.y, exact(sol.t)), (sol(between), exact(between))))
    assert at_steps < 2e-3
    assert anywhere < 10 * at_steps
    torch.testing.assert_close(sol(sol.t), sol.y, rtol=1e-12, atol=1e-12)


@methods
def test_jumps(method: Method) -> None:
    """The method starts afresh at a jump: f is constant in between, so that every method is exact."""

    def g(t: Tensor, y: Tensor) -> Tensor:
        return torch.where(t < 0.3, 1.0, torch.where(t < 0.5, -2.0, 5.0)).to(y) * torch.ones_like(y)

    sol = solve(g, torch.zeros(1, dtype=F64), (0.0, 1.0), jump_times=[0.3, 0.5], **size(method))
    assert sol.y[-1].item() == pytest.approx(0.3 - 0.4 + 2.5, abs=1e-12)


@kinds
@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("t", [(0.1, 0.7), (0.7, 0.1), (1000.1, 1000.7)], ids=str)
def test_f_is_asked_inside_the_interval(method: Method, dtype: torch.dtype, t: tuple[float, float]) -> None:
    asked: list[float] = []

    def watched(t: Tensor, y: Tensor) -> Tensor:
        asked.append(t.item())
        return torch.cos(5 * t) * y

    kw = {**size(method, 1e-3), "jump_times": [0.3]}
    solve(watched, torch.ones(2, dtype=dtype), (t[0], 0.4, t[1]) if t[0] < 1 else t, dense=True, **kw)
    assert min(t) <= min(asked)
    assert max(asked) <= max(t)


@kinds
def test_evaluations(method: Method) -> None:
    """As the card says; a rejected step does not ask for the slope at its start again."""
    sol = solve(f, Y0, (0.0, 2.0), **size(method, 1e-6, dt=2.0 if method.adaptive else 0.1))
    per_step = {"Tsit5()": 13, "Dopri8()": 27, "RK4()": 8}[repr(method.base)] if isinstance(method, Reversible) else 1
    assert sol.stats.rejected > 0 or not method.adaptive
    assert sol.stats.nfe == 1 + per_step * sol.stats.attempted


@kinds
def test_stopped_and_continued_is_uninterrupted(method: Method) -> None:
    kw = size(method, save="steps")
    whole = solve(f, Y0, (0.0, 3.0), **kw)
    first = solve(f, Y0, (0.0, 3.0), on_step=lambda t, y: t > 1, **kw)
    rest = solve(f, None, 3.0, start=first, **{k: v for k, v in kw.items() if k != "dt" or not method.adaptive})
    torch.testing.assert_close(torch.cat([first.y, rest.y[1:]]), whole.y, rtol=1e-13, atol=1e-13)


@kinds
@pytest.mark.parametrize("before", ["explicit_adams", "alf", "reversible_heun", "tsit5"])
def test_going_on_from_another_method_starts_afresh(method: Method, before: str) -> None:
    """What one method carries is not taken for what another one does."""

    def on(start: Solution) -> Solution:
        return solve(f, None, 2.0, start=start, **size(method, 1e-5))

    first = solve(f, Y0, 1.0, method=before, **({"dt": 0.01} if "adams" in before else {}))
    fresh = solve(f, first.y[-1], (1.0, 2.0), method="dopri8", rtol=1e-10, atol=1e-10)
    if repr(METHODS[before]()) != repr(method):
        assert off(on(first).y[-1], fresh.y[-1]) < 1e-2
    back = solve(f, None, 2.0, start=solve(f, Y0, 1.0, **size(method)), method="explicit_adams", dt=0.01)
    assert off(back.y[-1], solve(f, Y0, 2.0, method="dopri8").y[-1]) < 1e-2


# ---- gradients


@kinds
def test_discrete_is_direct(method: Method) -> None:
    """y0, times and what f closes over; rejected steps, outputs inside steps, a jump, dense output."""
    y0 = Y0.clone().requires_grad_()
    w = torch.tensor(1.3, dtype=F64, requires_grad=True)
    t = torch.tensor([0.0, 0.33, 0.7, 1.6], dtype=F64, requires_grad=True)
    kw = size(method, 1e-8 if method.order > 4 else 1e-3, dense=True, jump_times=[0.1])
    kw["dt"] = 1.5 if method.adaptive else 0.19

    def loss(gradient: str) -> Tensor:
        sol = solve(lambda t, y: w * f(t, y), y0, t, gradient=gradient, **kw)
        assert sol.stats.rejected > 0 or not method.adaptive
        return weighted(sol.y, sol(torch.tensor([0.05, 0.09, 0.11, 1.5], dtype=F64)))

    assert_agree(loss, [y0, w, t])


@kinds
def test_direct_is_the_derivative(method: Method) -> None:
    y0 = Y0.clone().requires_grad_()
    t = torch.tensor([0.1, 0.3, 0.45], dtype=F64, requires_grad=True)

    def end(y0: Tensor, t: Tensor) -> Tensor:
        kw = {"method": method, "controller": torchivp.FixedSteps(), "gradient": "direct", "dense": True}
        sol = solve(f, y0, t, **kw)
        return torch.cat([sol.y[-1], sol(0.38)])

    assert torch.autograd.gradcheck(end, (y0, t), eps=1e-6, atol=1e-8, rtol=1e-6)


# ---- what is given


def test_a_base_is_a_name_a_class_or_an_instance() -> None:
    found = [solve(f, Y0, 1.0, method=Reversible(base)).y for base in ("dopri5", Dopri5, Dopri5())]
    assert all(torch.equal(y, found[0]) for y in found)


def test_lam_one_is_allowed() -> None:
    sol = solve(f, Y0, 1.0, method=Reversible("tsit5", lam=1), dense=True)
    assert off(sol.y[-1], solve(f, Y0, 1.0, method="dopri8").y[-1]) < 1e-4


def test_repr() -> None:
    assert repr(Reversible("tsit5")) == "Reversible(Tsit5(), lam=0.999)"
    assert repr(Reversible(Dopri5, lam=0.5)) == "Reversible(Dopri5(), lam=0.5)"


@pytest.mark.parametrize(
    "base", ["explicit_adams", torchivp.methods.ImplicitAdams(4), "alf", Reversible("rk4")], ids=repr
)
def test_other_bases_are_refused(base: Any) -> None:
    with pytest.raises(
        InputError, match=r"Reversible got .*only an explicit Runge-Kutta method.*Reversible\('tsit5'\)"
    ):
        Reversible(base)


def test_unknown_bases_are_refused() -> None:
    with pytest.raises(InputError, match=r"'tsit6' is not known. Did you mean 'tsit5'\? Choose"):
        Reversible("tsit6")


@pytest.mark.parametrize("lam", [0, -0.5, 1.001, float("nan")])
def test_lam_out_of_range_is_refused(lam: float) -> None:
    with pytest.raises(InputError, match=r"lam=.*0 < lam <= 1. Give a number"):
        Reversible("tsit5", lam=lam)


def test_who_is_reversible() -> None:
    assert {name for name, cls in METHODS.items() if cls.reversible} == {"reversible_heun", "alf"}
    assert all(m.reversible for m in ALL.values())
    with pytest.raises(InputError, match=r"Dopri5\(\) was asked.*keeps nothing.*Take a reversible method"):
        Dopri5().reverse(field_of(f, Y0), OneSpan(0.0, 1.0, size=1.0), Y0.view(1, -1), ())
