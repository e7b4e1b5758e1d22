"""Where torchdiffeq 0.2.5 is wrong, and torchivp's drop-in is right; one number for each defect.

Each test says what is right; where it is cheap, it also shows that torchdiffeq really has the defect.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from parity.side_by_side import Count, Net, Pair, close, ours, outcome, pair_state, reference, state, theirs, times
from torchivp import GradientError

both = (ours, theirs)
ADAPTIVE = ("dopri8", "dopri5", "tsit5", "bosh3", "fehlberg2", "adaptive_heun")


def wave(t: Tensor, y: Tensor) -> Tensor:
    """y' = cos(t) y, whose solution is exp(sin t)."""
    return torch.cos(t) * y


def wave_error(lib: Any, t: Tensor, **how: Any) -> float:
    y = lib.odeint(wave, torch.ones(1, dtype=torch.float64), t, **how)[:, 0]
    return float((y - torch.exp(torch.sin(t) - torch.sin(t[0]))).abs().max())


TEN = torch.linspace(0, 10, 101, dtype=torch.float64)


def test_1_tsit5_is_of_order_5() -> None:
    """torchdiffeq's development version propagates the embedded weights: its order is 4."""
    errors = []
    for n in (20, 40, 80):
        grid = torch.linspace(0, 10, n + 1, dtype=torch.float64)
        # steps of one size: first_step = max_step = min_step accepts them all
        h = 10 / n
        how = {"method": "tsit5", "options": {"first_step": h, "max_step": h, "min_step": h}, "rtol": 1e3, "atol": 1e3}
        errors.append(wave_error(ours, grid[[0, -1]], **how))
    slopes = [math.log2(a / b) for a, b in zip(errors, errors[1:])]
    assert min(slopes) > 4.7, slopes


@pytest.mark.parametrize(("method", "tol"), [("dopri8", 1e-9), ("dopri5", 1e-9), ("tsit5", 1e-9), ("bosh3", 1e-6),
                                             ("adaptive_heun", 1e-3), ("fehlberg2", 1e-4)])  # fmt: skip
def test_3_outputs_are_as_accurate_as_the_steps(method: str, tol: float) -> None:
    how = {"method": method, "rtol": tol, "atol": tol}
    ends: list[float] = []
    f = Count(wave)
    f.callback_accept_step = lambda t0, y0, dt: ends.append(float(t0))  # type: ignore[attr-defined]
    ours.odeint(f, torch.ones(1, dtype=torch.float64), TEN[[0, -1]], **how)
    at_steps = wave_error(
        ours, torch.tensor([*ends, 10.0], dtype=torch.float64), **how, options={"step_t": torch.tensor(ends[1:])}
    )
    assert wave_error(ours, TEN, **how) <= 10 * at_steps
    if method in ("dopri8", "bosh3"):
        assert wave_error(theirs, TEN, **how) > 50 * at_steps


def test_3_a_solve_for_its_end_alone_lands_there() -> None:
    how = {"method": "dopri8", "rtol": 1e-9, "atol": 1e-9}
    assert wave_error(ours, TEN[[0, -1]], **how) < 1e-8 < wave_error(theirs, TEN[[0, -1]], **how)


@pytest.mark.parametrize(("method", "order"), [("explicit_adams", 4), ("implicit_adams", 5)])
def test_4_adams_keeps_its_order_on_an_uneven_grid(method: str, order: int) -> None:
    """torchdiffeq's coefficients hold for equal steps only: order 2 on a grid that widens smoothly."""
    how = {"method": method, "rtol": 1e-10, "atol": 1e-12, "options": {"max_order": 5}}
    grids = [2 * torch.linspace(0, 1, n, dtype=torch.float64) ** 2 for n in (41, 81, 161)]
    errors = [wave_error(ours, t, **how) for t in grids]
    assert all(a / b > 2 ** (order - 0.2) for a, b in zip(errors, errors[1:])), errors
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert wave_error(theirs, grids[-1], **how) > 20 * errors[-1]


def test_5_fixed_steps_between_the_grid_points() -> None:
    """Linear interpolation where nothing else is asked for throws rk4's accuracy away."""
    t = torch.linspace(0, 2, 101, dtype=torch.float64)
    how = {"method": "rk4", "options": {"step_size": 0.1}}
    assert wave_error(ours, t, **how) < 1e-5
    assert wave_error(theirs, t, **how) > 1e-3
    linear = {"method": "rk4", "options": {"step_size": 0.1, "interp": "linear"}}
    assert wave_error(ours, t, **linear) == pytest.approx(wave_error(theirs, t, **linear), rel=1e-9)


@pytest.mark.parametrize("name", ["jump_t", "step_t"])
def test_6_a_step_that_ends_on_a_listed_time_does_not_lose_the_later_ones(name: str) -> None:
    asked = []
    for lib in both:
        f = Count(lambda t, y: 0.01 * torch.cos(t) * y)
        ends: list[float] = []
        f.callback_accept_step = lambda t0, y0, dt, ends=ends: ends.append(float(t0))  # type: ignore[attr-defined]
        options = {"first_step": 0.5, name: torch.tensor([0.5, 0.75])}
        lib.odeint(
            f, torch.ones(1, dtype=torch.float64), torch.tensor([0.0, 1.0]), options=options, rtol=1e-3, atol=1e-3
        )
        asked.append(0.75 in ends)
    assert asked == [True, False]


@pytest.mark.parametrize("name", ["jump_t", "step_t"])
def test_7_a_list_of_times_is_negated_like_a_tensor(name: str) -> None:
    for given in ([0.25, 0.6], (0.25, 0.6), torch.tensor([0.25, 0.6]), torch.tensor([0.25, 0.6], dtype=torch.float64)):
        f = Count(wave)
        starts: list[float] = []
        f.callback_accept_step = lambda t0, y0, dt, starts=starts: starts.append(round(float(t0), 6))  # type: ignore[attr-defined]
        ours.odeint(f, torch.ones(1, dtype=torch.float64), torch.tensor([1.0, 0.0]), options={name: given})
        assert {0.25, 0.6} <= set(starts)


def test_7_and_for_the_adjoint() -> None:
    starts: list[float] = []

    class Wave(nn.Module):
        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return wave(t, y)

        def callback_accept_step_adjoint(self, t0: Tensor, y0: Any, dt: Tensor) -> None:
            starts.append(round(float(t0), 6))

    for t in (torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0])):
        starts.clear()
        y0 = torch.ones(1, dtype=torch.float64, requires_grad=True)
        ours.odeint_adjoint(Wave(), y0, t, options={"jump_t": [0.25, 0.6]})[-1].sum().backward()
        assert {0.25, 0.6} <= set(starts)


@pytest.mark.parametrize("solver", ["RK45", "DOP853"])
def test_8_scipys_failures_are_raised(solver: str) -> None:
    """y' = y^2 blows up at t = 1: torchdiffeq returns fewer rows than there are times."""
    t = torch.linspace(0, 2, 4, dtype=torch.float64)
    how = {"method": "scipy_solver", "options": {"solver": solver}, "rtol": 1e-3, "atol": 1e-3}
    error, _, _ = outcome(lambda: ours.odeint(lambda t, y: y**2, torch.ones(1, dtype=torch.float64), t, **how))
    assert isinstance(error, AssertionError)
    assert "of 4 output times" in str(error)
    error, y, _ = outcome(lambda: theirs.odeint(lambda t, y: y**2, torch.ones(1, dtype=torch.float64), t, **how))
    assert error is None
    assert len(y) < 4


def test_8_a_gradient_through_scipy_is_an_error_not_a_silent_nothing() -> None:
    net = Net()
    y = ours.odeint(net, state(2), times(3), method="scipy_solver")
    assert y.requires_grad
    with pytest.raises(GradientError, match="odeint_adjoint"):
        y.sum().backward()
    _, y, _ = outcome(lambda: theirs.odeint(net, state(2), times(3), method="scipy_solver"))
    assert not y.requires_grad
    assert not ours.odeint(lambda t, y: -y, state(2), times(3), method="scipy_solver").requires_grad
    with torch.no_grad():
        assert not ours.odeint(net, state(2), times(3), method="scipy_solver").requires_grad


def test_9_tuple_tolerances_with_the_adjoint() -> None:
    rtol, atol = (1e-8, 1e-7), (1e-9, torch.tensor(1e-8))
    grads = []
    for solve in ("odeint", "odeint_adjoint"):
        net = Pair()
        a, b = getattr(ours, solve)(net, pair_state(), times(4), rtol=rtol, atol=atol)
        grads.append(torch.autograd.grad((a**2).sum() + b.sum(), net.weight)[0])
    close(*grads, 1e-5)
    a, b = theirs.odeint_adjoint(Pair(), pair_state(), times(4), rtol=rtol, atol=atol)
    error, _, _ = outcome(lambda: a.sum().backward())
    assert isinstance(error, AssertionError)


def test_9_tolerances_of_other_forms_with_the_adjoint() -> None:
    exact = None
    for rtol in (1e-6, torch.tensor(1e-6), torch.tensor([1e-6, 1e-7]), (1e-6, 1e-7), torch.full((3, 2), 1e-6)):
        net = Net()
        ours.odeint_adjoint(net, state(3, 2), times(4), rtol=rtol, atol=1e-7).sum().backward()
        exact = net.weight.grad if exact is None else exact
        close(net.weight.grad, exact, 1e-5)
    net = Net()
    for whole in (
        (1e-8,) * 5,
        (1e-3, 1e-8, 1e-8, 1e-4, 1e-4),
    ):  # (t, y, adj_y, weight, bias), as torchdiffeq wants them
        net.zero_grad()
        ours.odeint_adjoint(
            net, state(3, 2), times(4), rtol=1e-6, atol=1e-7, adjoint_rtol=whole, adjoint_atol=whole
        ).sum().backward()
        close(net.weight.grad, exact, 1e-5)
    pair = Pair()
    a, _ = ours.odeint_adjoint(pair, pair_state(), times(4), adjoint_rtol=(1e-8, 1e-7), adjoint_atol=[1e-8, 1e-7])
    a.sum().backward()
    assert torch.isfinite(pair.weight.grad).all()
    with pytest.raises(AssertionError, match="same length"):
        ours.odeint_adjoint(pair, pair_state(), times(4), adjoint_rtol=(1e-8, 1e-7, 1e-6))


@pytest.mark.parametrize("method", [None, "dopri8", "tsit5", "bosh3", "rk4", "explicit_adams"])
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "backward"])
def test_10_dense_output_of_any_method_in_both_directions(method: str | None, reverse: bool) -> None:
    t0, t1 = (torch.tensor(x, dtype=torch.float64) for x in ((1.5, 0.1) if reverse else (0.1, 1.5)))
    options = {"step_size": 0.02} if method in ("rk4", "explicit_adams") else None
    solution = ours.odeint_dense(Net(), state(3, 2), t0, t1, method=method, rtol=1e-6, atol=1e-6, options=options)
    t = times(7, reverse=reverse)
    exact = reference(Net(), state(3, 2), t)
    many = solution(t)
    close(many.detach(), exact, 1e-4)
    close(solution(t.view(7, 1)), many.view(7, 1, 3, 2), 1e-12)
    close(solution(t[3]), many[3], 1e-12)
    assert torch.equal(solution(t0.item()), state(3, 2))


def test_10_dense_output_beside_torchdiffeq() -> None:
    t0, t1 = times(2)
    a, b = (lib.odeint_dense(Net(), state(2), t0, t1, rtol=1e-8, atol=1e-8) for lib in both)
    for t in (0.1, 0.35, 1.2):
        close(a(torch.tensor(t, dtype=torch.float64)), b(torch.tensor(t, dtype=torch.float64)), 1e-7)
    error, _, _ = outcome(lambda: theirs.odeint_dense(Net(), state(2), t0, t1)(times(2)))
    assert isinstance(error, IndexError | RuntimeError)


def test_10_dense_output_of_a_tuple() -> None:
    solution = ours.odeint_dense(Pair(), pair_state(), 0.1, 1.5, rtol=1e-9, atol=1e-9)
    a, b = solution(times(5))
    exact = reference(Pair(), pair_state(), times(5))  # type: ignore[arg-type]
    close((a.detach(), b.detach()), exact, 1e-6)
    assert [x.shape for x in solution(0.5)] == [(2,), (3, 1)]


def test_10_dense_output_is_differentiable_in_its_ends() -> None:
    """y(t) = y0 exp(-(t - t0)): the derivative with respect to t0 is y, with respect to t it is -y."""
    t0, t1, t = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (0.1, 1.5, 0.8))
    solution = ours.odeint_dense(lambda t, y: -y, torch.ones(1, dtype=torch.float64), t0, t1, rtol=1e-10, atol=1e-10)
    y = solution(t)
    grads = torch.autograd.grad(y.sum(), [t0, t], retain_graph=True)
    close([g.reshape(1) for g in grads], [y.detach(), -y.detach()], 1e-7)
    (end,) = torch.autograd.grad(solution(t1).sum(), t1)
    assert float(end) == pytest.approx(-math.exp(-1.4), rel=1e-6)


def test_10_dense_output_ends_where_it_was_asked_to() -> None:
    """torchdiffeq answers up to the end of its last step, past t1; beyond that it raises IndexError."""
    solution = ours.odeint_dense(Net(), state(2), 0.0, 1.0)
    for t in (1.05, -0.05, torch.tensor([0.5, 9.0])):
        for type_ in (IndexError, AssertionError, ValueError):
            with pytest.raises(type_, match="invalid interpolation"):
                solution(t)
    with pytest.raises(AttributeError, match="dense output"):
        ours.odeint_dense(Net(), state(2), 0.0, 1.0, method="scipy_solver")


def test_11_the_first_step_is_a_constant_of_the_gradient() -> None:
    """The gradient is that of the same steps with the first one given by hand, to the last digits."""
    grads = []
    for options in ({}, None):
        if options is None:
            options = {"first_step": first[0]}
        y0, first = state(2).requires_grad_(), []
        f = Count(Net())
        f.callback_accept_step = lambda t0, y, dt, first=first: first.append(dt)  # type: ignore[attr-defined]
        y = ours.odeint(f, y0, times(3), rtol=1e-3, atol=1e-3, options=options)
        grads.append(torch.autograd.grad(y[-1].sum(), y0)[0])
    assert torch.equal(*grads)


def test_11_where_the_heuristic_has_no_finite_derivative() -> None:
    """f(0, 0) = 0: the norm in the heuristic has no derivative there, which made torchdiffeq's gradient nan."""
    grads = []
    for lib in both:
        y0 = torch.zeros(2, dtype=torch.float64, requires_grad=True)
        y = lib.odeint(lambda t, y: torch.sin(y) + t, y0, torch.tensor([0.0, 1.0], dtype=torch.float64))
        grads.append(torch.autograd.grad(y[-1].sum(), y0)[0])
    assert torch.isfinite(grads[0]).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("method", [*ADAPTIVE, "rk4", "explicit_adams", "implicit_adams"])
def test_f_is_never_asked_outside_the_interval(method: str, reverse: bool, dtype: torch.dtype) -> None:
    t = torch.tensor([0.1, 0.4, 1.0], dtype=dtype)
    t = t.flip(0) if reverse else t
    f = Count(lambda t, y: torch.sin(5 * t) * y)
    ours.odeint(f, state(2, dtype=dtype), t, method=method, rtol=1e-3, atol=1e-3)
    assert f.calls > 2
    assert min(t.tolist()) <= min(f.times)
    assert max(f.times) <= max(t.tolist())


def test_torchdiffeq_asks_past_the_end() -> None:
    f = Count(wave)
    theirs.odeint(f, torch.ones(1, dtype=torch.float64), torch.tensor([0.0, 1.0]))
    assert max(f.times) > 1.0
