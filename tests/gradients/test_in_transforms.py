"""How a solve behaves inside transforms: every method, rows that step together, events, and what is refused there."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, func, nn

import torchivp
from gradients.test_gradcheck import Held
from gradients.transforms import OVER_ROWS, TRANSFORMS, backward, dual, loss, scalar
from iterating import ITERATING
from torchivp.methods import METHODS

F64 = torch.float64
WAYS = ["direct", "discrete"]


def f(t: Tensor, y: Tensor, w: Tensor) -> Tensor:
    return torch.stack([torch.sin(w[0] * t) * y[1] - y[0] ** 2, torch.cos(3 * y[0] + 2 * t) * w[1]])


X = torch.tensor([0.7, -0.4, 4.0, 2.5, 0.1, 0.333, 0.85], dtype=F64)  # y0, w, times


def everything(x: Tensor, **how: Any) -> Tensor:
    """All outputs of a solve as a function of everything there is to differentiate."""
    sol = torchivp.solve(f, x[:2], x[4:], x[2:4], dense=True, **how)
    return torch.cat([sol.y.reshape(-1), sol(0.5 * (x[4] + x[6]))])


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_the_same_in_both_modes(method: str, turned: bool) -> None:
    """Exactly the gradient that plain autograd gives, for every input and output, in both directions of time."""
    x = torch.cat([X[:4], X[4:].flip(0)]) if turned else X
    how = {"method": method, **({"rtol": 1e-3, "atol": 1e-3} if METHODS[method]().adaptive else {"dt": 0.23})}
    if method in ITERATING:  # stages solved to rounding, with steps of one size
        how = {"method": method, "rtol": 1e-12, "atol": 1e-12, "controller": torchivp.FixedSteps(dt=0.23)}
    expected = torch.autograd.functional.jacobian(lambda x: everything(x, **how), x)
    for jacobian in (func.jacrev, func.jacfwd):
        found = jacobian(lambda x: everything(x, **how))(x)
        rounding = (
            1e-9 if method == "vern6" else 1e-11
        )  # its error weights are 100: its steps differ by more than others'
        assert torch.allclose(found, expected, rtol=rounding, atol=rounding)


@pytest.mark.parametrize("gradient", ["direct", "discrete", "adjoint"])
def test_a_time_with_a_tangent_is_never_lost(gradient: str) -> None:
    """Also where f sees single precision, at jumps, in a list of times, and without grad mode."""

    def final(t1: Tensor) -> Tensor:
        y0 = torch.ones(1)
        sol = torchivp.solve(lambda t, y: t * y, y0, [0.1, t1], gradient=gradient, jump_times=[0.5], rtol=1e-6)
        return sol.y[-1]

    t1 = torch.tensor(1.1, dtype=F64)
    expected = float(t1) * math.exp((1.1**2 - 0.1**2) / 2)
    assert float(func.jacfwd(final)(t1)) == pytest.approx(expected, rel=1e-4)
    with torch.no_grad():
        assert float(func.jvp(final, (t1,), (torch.ones_like(t1),))[1]) == pytest.approx(expected, rel=1e-4)


def test_an_outer_transform_over_times_reaches_through_an_inner_one() -> None:
    """Inside the inner transform the times do not look as if they required grad."""

    def inner(t1: Tensor) -> Tensor:
        return func.grad(lambda y: torchivp.solve(lambda t, y: -y, y, [0.0, t1], rtol=1e-10, atol=1e-12).y[-1])(
            torch.tensor(2.0, dtype=F64)
        )

    t1 = torch.tensor(0.7, dtype=F64)
    assert float(func.grad(inner)(t1)) == pytest.approx(-math.exp(-0.7), rel=1e-8)
    assert float(func.jacfwd(inner)(t1)) == pytest.approx(-math.exp(-0.7), rel=1e-8)


def test_vmap_over_several_dimensions_and_trees() -> None:
    """Nested, over another dimension than the first, over a part of the inputs, with dictionaries for state and args."""
    y0 = {"a": torch.rand(2, 3, 4, dtype=F64), "b": torch.rand(2, 3, dtype=F64)}
    w = torch.rand(4, 3, dtype=F64)

    def solved(y0: dict[str, Tensor], w: Tensor) -> Tensor:
        return torchivp.solve(
            lambda t, y, args: {"a": -args["w"] * y["a"] * y["b"], "b": torch.sin(y["a"].sum()) * t},
            y0, (0.0, 1.0), {"w": w}, rtol=1e-10, atol=1e-10, save=lambda t, y: y["a"] + y["b"],
        ).y[-1]  # fmt: skip

    found = func.vmap(func.vmap(solved, in_dims=(0, 1)), in_dims=(0, None))(y0, w)
    expected = [[solved({k: v[i, j] for k, v in y0.items()}, w[:, j]) for j in range(3)] for i in range(2)]
    assert torch.allclose(found, torch.stack([torch.stack(row) for row in expected]), rtol=1e-7)


@pytest.mark.parametrize("how", [{}, {"method": "rk4", "dt": 0.1}])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 0.0])
def test_one_bad_row_fails_the_solve(bad: float, how: dict[str, Any]) -> None:
    """nan is never the smaller number."""
    y0 = torch.tensor([1.0, bad, 2.0], dtype=F64)

    def solved(y: Tensor) -> Tensor:
        return torchivp.solve(lambda t, y: 1 / y.reshape(1), y.reshape(1), (0.0, 1.0), **how).y[-1]

    with pytest.raises(torchivp.SolveError, match=r"nan or inf"):
        func.vmap(solved)(y0)


def test_other_failures_are_told_as_outside() -> None:
    def solved(y: Tensor) -> Tensor:
        return torchivp.solve(lambda t, y: y**2, y.reshape(1), (0.0, 3.0), max_steps=200).y[-1]

    with pytest.raises(torchivp.SolveError, match=r"singularity|used up"):
        func.vmap(solved)(torch.tensor([0.1, 1.0], dtype=F64))


def test_dense_output_at_times_of_the_rows() -> None:
    sol = torchivp.solve(lambda t, y: -y, torch.ones(2, dtype=F64), (0.0, 2.0), dense=True, rtol=1e-9, atol=1e-9)
    times = torch.tensor([[0.3, 1.2], [2.0, 0.0]], dtype=F64)
    assert torch.equal(func.vmap(sol)(times), sol(times))
    rates = func.vmap(func.jacfwd(sol))(times[0])
    assert torch.allclose(rates[:, 0], -torch.exp(-times[0]), rtol=1e-5)
    with pytest.raises(torchivp.InputError, match="known on"):
        func.vmap(sol)(times + 0.1)


def test_tolerances_may_differ_from_row_to_row() -> None:
    def solved(tol: Tensor) -> Tensor:
        return torchivp.solve(lambda t, y: -y, torch.ones(1, dtype=F64), (0.0, 1.0), rtol=tol, atol=tol).y[-1]

    loose, tight = func.vmap(solved)(torch.tensor([1e-3, 1e-10]))
    assert torch.allclose(loose, solved(torch.tensor(1e-3)), rtol=1e-9)
    assert torch.allclose(tight, torch.tensor(math.exp(-1), dtype=F64), rtol=1e-8)
    assert not torch.allclose(loose, tight, rtol=1e-6)
    with pytest.raises(torchivp.InputError, match="no tolerance"):
        func.vmap(solved)(torch.tensor([1e-3, -1.0]))


Y = torch.tensor([1.0, 2.0], dtype=F64)
IMPOSSIBLE: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "on_step": (
        lambda y: torchivp.solve(lambda t, y: -y, y.reshape(1), (0.0, 1.0), on_step=lambda t, y: None).y,
        "Leave on_step out",
    ),
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_what_vmap_cannot_do_is_said(case: str) -> None:
    solved, advice = IMPOSSIBLE[case]
    with pytest.raises(torchivp.InputError, match=advice):
        func.vmap(solved)(Y)


def test_events_and_on_step_that_all_rows_share() -> None:
    seen: list[float] = []

    def solved(w: Tensor) -> Tensor:
        kw: dict[str, Any] = {"events": torchivp.Event(lambda t, y: t - 0.5, terminal=True)}
        sol = torchivp.solve(lambda t, y: w * y, torch.ones(1, dtype=F64), (0.0, 1.0), rtol=1e-8, atol=1e-8, **kw)
        torchivp.solve(lambda t, y: -y, Y, (0.0, 1.0), on_step=lambda t, y: seen.append(t))
        return sol.y[-1, 0]

    assert torch.allclose(func.vmap(solved)(Y), torch.exp(0.5 * Y), rtol=1e-7)
    assert seen


# Events: y' = -w y falls to the level at t0 + log(y0 / level) / w.
AT = torch.tensor([2.0, 1.3, 0.4, 0.1], dtype=F64)
NOT_OVER_ROWS = [name for name in TRANSFORMS if name not in OVER_ROWS]


def closed_event(x: Tensor) -> Tensor:
    y0, w, level, t0 = x.unbind()
    return torch.stack([t0 + torch.log(y0 / level) / w, level, level, level])


def event(gradient: str) -> Callable[[Tensor], Tensor]:
    def found(x: Tensor) -> Tensor:
        y0, w, level, t0 = x.unbind()
        ends = torchivp.Event(lambda t, y, w: torch.sinh(y[0] - level) * w, terminal=True)
        passed = torchivp.Event(lambda t, y, w: level / y[0] - 1)
        sol = torchivp.solve(
            lambda t, y, w: -w * y, y0.reshape(1), [t0, 9.0], w, events=[ends, passed], gradient=gradient,
            rtol=1e-11, atol=1e-12, method="dopri8",
        )  # fmt: skip
        assert sol.t_events is not None
        assert sol.y_events is not None
        return torch.stack([sol.t_events[1][0], sol.y_events[0][0, 0], sol.y_events[1][0, 0], sol.y[-1, 0]])

    return found


@pytest.mark.parametrize("name", NOT_OVER_ROWS)
@pytest.mark.parametrize("gradient", WAYS)
def test_event_times_and_states(gradient: str, name: str) -> None:
    """Of any order up to three: both Newton steps count."""
    found, expected = TRANSFORMS[name](event(gradient), AT), TRANSFORMS[name](closed_event, AT)
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("name", [name for name in NOT_OVER_ROWS if "triple" not in name])
def test_event_times_and_states_of_the_drop_in(name: str) -> None:
    def found(x: Tensor) -> Tensor:
        y0, w, level, t0 = x.unbind()
        how = {"rtol": 1e-11, "atol": 1e-12, "method": "dopri8"}
        hit = lambda t, y: torch.sinh(y[0] - level)
        t, y = torchivp.odeint_event(lambda t, y: -w * y, y0.reshape(1), t0, event_fn=hit, **how)
        return torch.stack([t, *[y[-1, 0]] * 3])

    expected = TRANSFORMS[name](closed_event, AT)
    assert torch.allclose(TRANSFORMS[name](found, AT), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("gradient", WAYS)
def test_second_derivatives_of_events_against_finite_differences(gradient: str) -> None:
    """Of a pendulum on the same mesh, where the rate of the event function moves with everything."""
    solve = Held("tsit5", gradient, tol=1e-3)

    def found(x: Tensor) -> Tensor:
        e = torchivp.Event(lambda t, y, w: y[0] * (1 + y[1] ** 2) - x[3] + 0.1 * t**2)
        sol = solve(lambda t, y, w: torch.stack([y[1], -w * torch.sin(y[0])]), x[:2], (0.1, 2.0), x[2], events=e)
        return torch.cat([sol.t_events[0], sol.y_events[0].reshape(-1)])

    x = torch.tensor([1.0, 0.3, 1.3, 0.4], dtype=F64)
    found(x)
    assert torch.autograd.gradgradcheck(found, (x.clone().requires_grad_(),), eps=1e-5, atol=1e-6, rtol=1e-5)


def test_an_event_function_that_differentiates() -> None:
    """Outside transforms it may do so in any way torch has, as f may."""

    def top(t: Tensor, y: Tensor) -> Tensor:
        with torch.enable_grad():
            z = y if y.requires_grad else y.detach().requires_grad_()
            (slope,) = torch.autograd.grad(torch.cos(z).sum(), z, create_graph=True)
        return slope.sum()

    y0 = torch.tensor([2.0], dtype=F64, requires_grad=True)
    sol = torchivp.solve(lambda t, y: torch.ones_like(y), y0, (0.0, 3.0), events=top)
    assert sol.t_events is not None
    (rate,) = torch.autograd.grad(sol.t_events[0].sum(), y0)
    assert float(rate) == pytest.approx(-1.0)


def test_per_sample_gradients_of_a_network() -> None:
    """The recipe: functional_call, grad, vmap over the samples alone."""
    net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    block = torchivp.nn.ODEBlock(net, rtol=1e-9, atol=1e-9)
    params = {name: p.detach() for name, p in block.named_parameters()}
    x = torch.randn(4, 3, dtype=F64)

    def one(params: dict[str, Tensor], x: Tensor) -> Tensor:
        return scalar(func.functional_call(block, params, (x,)))

    together = func.vmap(func.grad(one), in_dims=(None, 0))(params, x)
    for i, sample in enumerate(x):
        alone = torch.autograd.grad(scalar(block(sample)), list(block.parameters()))
        for name, expected in zip(params, alone):
            assert torch.allclose(together[name][i], expected, rtol=1e-6, atol=1e-8)


def test_odeint_adjoint_says_no() -> None:
    """In transforms; and a gradient with a graph it gives none, as torchdiffeq does."""

    def end(y: Tensor) -> Tensor:
        return torchivp.odeint_adjoint(lambda t, y: -y, y, torch.tensor([0.0, 1.0]), adjoint_params=())[-1]

    y0 = torch.ones(2, dtype=F64)
    for transform in (lambda g: func.grad(loss(g))(y0), lambda g: func.jvp(g, (y0,), (y0,)), lambda g: dual(g, y0)):
        with pytest.raises(torchivp.GradientError, match="Write odeint"):
            transform(end)
    y = y0.clone().requires_grad_()
    (first,) = torch.autograd.grad(scalar(end(y)), y, create_graph=True)
    assert not first.requires_grad
    assert torch.allclose(backward(1)(end, y0), first)
