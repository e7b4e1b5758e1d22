"""Dense output: ``sol(t)``."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import torchivp
from torchivp import InputError, solve

METHODS = sorted(torchivp.methods.METHODS)
ONE = torch.ones(1, dtype=torch.float64)


def f(t: Tensor, y: Tensor) -> Tensor:
    """y = y0 exp(sin t)."""
    return torch.cos(t) * y


def make(t: Any = (0.0, 5.0), y0: Any = ONE, **options: Any) -> torchivp.Solution:
    return solve(f, y0, t, dense=True, **{"rtol": 1e-9, "atol": 1e-11, **options})


@pytest.mark.parametrize(
    ("t", "shape"),
    [
        (2.5, ()),
        (3, ()),
        (np.float64(2.5), ()),
        (np.float32(2.5), ()),
        (torch.tensor(2.5), ()),
        (torch.tensor(3), ()),
        ([0.0, 2.5, 5.0], (3,)),
        ((5, 0), (2,)),
        (np.linspace(5, 0, 4), (4,)),
        (np.linspace(0, 5, 4)[::-1], (4,)),
        (torch.rand(3, 2, 1) * 5, (3, 2, 1)),
        (torch.arange(6), (6,)),
        (torch.empty(0), (0,)),
        (torch.full((7,), 2.0, dtype=torch.float64), (7,)),
    ],
    ids=repr,
)
def test_times_of_any_shape_in_any_order(t: Any, shape: tuple[int, ...]) -> None:
    sol = make(y0=torch.ones(2, 3, dtype=torch.float64))
    y = sol(t)
    assert y.shape == (*shape, 2, 3)
    times = torch.as_tensor(np.array(t) if not isinstance(t, Tensor) else t, dtype=torch.float64)
    torch.testing.assert_close(y[..., 0, 0], torch.exp(torch.sin(times)), rtol=1e-7, atol=0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("t", [(0.0, 3.0), (3.0, 0.0)], ids=["forth", "back"])
def test_every_method_both_directions(method: str, t: tuple[float, float]) -> None:
    """As accurate between the steps as at them, up to a small factor."""
    dt = None if torchivp.methods.METHODS[method]().adaptive else 0.05
    sol = make(t, method=method, dt=dt, rtol=1e-5, atol=1e-7, save="steps")
    start = math.sin(t[0])
    at_steps = (sol.y[:, 0] - torch.exp(torch.sin(sol.t) - start)).abs().max()
    times = torch.linspace(0, 3, 400, dtype=torch.float64)
    between = (sol(times)[:, 0] - torch.exp(torch.sin(times) - start)).abs().max()
    # Hairer's interpolant: test_dop853.py. Four steps of vern8 happen to be 100 times better than the tolerance.
    # Steps of kvaerno5 of 0.5 are long for a polynomial of order 4.
    assert between < {"dop853": 100, "vern8": 100, "kvaerno5": 20}.get(method, 10) * at_steps + 1e-12
    assert torch.equal(sol(sol.t[0]), sol.y[0])
    rounding = 1e-12 if torchivp.methods.METHODS[method]().order < 8 else 1e-11  # docs/design/verner-dense.md
    torch.testing.assert_close(sol(sol.t), sol.y, rtol=rounding, atol=rounding / 100)


def test_dense_agrees_with_what_is_saved() -> None:
    t = torch.linspace(0, 5, 57, dtype=torch.float64)
    for method in ("tsit5", "dopri8", "bosh3"):
        sol = make(t, method=method, rtol=1e-5)
        torch.testing.assert_close(sol(t), sol.y, rtol=1e-13, atol=0)


def test_saving_less_keeps_dense_whole() -> None:
    whole = make()
    for save in ("end", "steps", lambda t, y: y.sum()):
        assert torch.equal(make(save=save)(1.234), whole(1.234))


@pytest.mark.parametrize(
    ("t0", "t1", "t"),
    [
        (0.0, 1.0, -0.001),
        (0.0, 1.0, 1.001),
        (1.0, 0.0, 1.001),
        (0.0, 1.0, math.nan),
        (0.0, 1.0, math.inf),
        (0.0, 1.0, [0.5, 2.0]),
        (-1e-9, 1e-9, 1.1e-9),
        (1.0, 1.0, 1.5),
        (1e6, 1e6 + 1, 1e6 + 1.0001),
    ],
)
def test_outside_is_an_error_that_names_the_interval(t0: float, t1: float, t: Any) -> None:
    sol = make((t0, t1))
    with pytest.raises(InputError, match=r"was asked for at times from .* but it is known on \[.*\] only\. Solve over"):
        sol(t)


@pytest.mark.parametrize("end", [0.3, 0.7, 1e-7, 123456.7])
def test_the_ends_belong_to_the_interval_in_the_precision_of_the_times(end: float) -> None:
    """float32(0.3) is a little beyond 0.3."""
    sol = solve(lambda t, y: -y / end, ONE, (0.0, end), dense=True)
    for t in (end, np.float32(end), torch.tensor(end), torch.linspace(0, end, 11), np.linspace(0, end, 11)):
        assert torch.isfinite(sol(t)).all()
    assert abs(sol(torch.tensor(end)).item() - math.exp(-1)) < 1e-5
    back = solve(lambda t, y: y / end, ONE, (end, 0.0), dense=True)
    assert abs(back(torch.tensor(end)).item() - 1) < 1e-5


def test_without_dense_output_there_is_a_clear_error() -> None:
    with pytest.raises(InputError, match=r"no dense output\. Write `solve\(\.\.\., dense=True\)`"):
        solve(f, ONE, 1.0)(0.5)


def test_pytrees() -> None:
    y0 = {"x": torch.ones(2, dtype=torch.float64), "v": (torch.zeros(2),)}
    sol = solve(
        lambda t, y: {"x": y["v"][0].double(), "v": (-y["x"].float(),)}, y0, 3.0, dense=True, rtol=1e-7, atol=1e-7
    )
    one, many = sol(1.0), sol(torch.tensor([[1.0, 2.0]]))
    assert one["x"].shape == (2,)
    assert many["v"][0].shape == (1, 2, 2)
    assert (many["x"].dtype, many["v"][0].dtype) == (torch.float64, torch.float32)
    torch.testing.assert_close(
        many["x"][0, :, 0], torch.cos(torch.tensor([1.0, 2.0], dtype=torch.float64)), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("gradient", ["discrete", "direct"])
@pytest.mark.parametrize("method", ["tsit5", "dopri8", "rk4_classic", "explicit_adams"])
@pytest.mark.parametrize("t", [(0.0, 2.0), (2.0, 0.0)], ids=["forth", "back"])
def test_dense_output_is_differentiable(t: tuple[float, float], method: str, gradient: str) -> None:
    """With respect to the state, the parameters and the time asked for."""
    y0 = torch.ones(1, dtype=torch.float64, requires_grad=True)
    w = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    at = torch.tensor([0.3, 1.7], dtype=torch.float64, requires_grad=True)
    dt = 0.02 if method in ("rk4_classic", "explicit_adams") else None
    sol = solve(
        lambda t, y: w * torch.cos(t) * y,
        y0,
        t,
        dense=True,
        method=method,
        gradient=gradient,
        dt=dt,
        rtol=1e-9,
        atol=1e-11,
    )
    grads = torch.autograd.grad(sol(at).sum(), (y0, w, at))
    s = torch.sin(at.detach()) - math.sin(t[0])
    y = torch.exp(1.5 * s)
    for grad, expected in zip(grads, (y.sum(), (s * y).sum(), 1.5 * torch.cos(at.detach()) * y)):
        torch.testing.assert_close(grad.reshape(-1), expected.reshape(-1), rtol=1e-5 if dt else 1e-6, atol=0)


def test_under_no_grad_the_time_alone_can_be_differentiated() -> None:
    sol = make()
    at = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(sol(at), at)
    assert abs(grad.item() - math.cos(1) * math.exp(math.sin(1))) < 1e-6


def test_the_continuous_adjoint_says_that_it_has_no_dense_output() -> None:
    y0 = ONE.clone().requires_grad_()
    with pytest.raises(InputError, match=r"gradient='adjoint'.*dense output.*write gradient='discrete'"):
        solve(f, y0, 1.0, dense=True, gradient="adjoint")
    assert solve(f, ONE, 1.0, dense=True, gradient="adjoint")(0.5).shape == (1,)


def test_across_a_jump_time_both_sides_are_right() -> None:
    """y' = 1, then -1 after t = 1."""
    sol = solve(lambda t, y: torch.where(t < 1, 1.0, -1.0) * torch.ones_like(y), ONE, 2.0, jump_times=[1.0], dense=True)
    times = torch.tensor([0.0, 0.5, 1 - 1e-9, 1.0, 1 + 1e-9, 1.5, 2.0], dtype=torch.float64)
    torch.testing.assert_close(sol(times)[:, 0], 2 - (times - 1).abs(), rtol=0, atol=1e-12)


def test_after_a_terminal_event_the_interval_ends_there() -> None:
    sol = make(events=torchivp.Event(lambda t, y: t - 2, terminal=True))
    assert abs(sol(2.0).item() - math.exp(math.sin(2))) < 1e-7
    with pytest.raises(InputError, match=r"\[0, 2\] only"):
        sol(2.1)


def test_a_failed_solve_is_dense_as_far_as_it_came() -> None:
    sol = solve(lambda t, y: y * y, ONE, 2.0, dense=True, throw=False)
    assert abs(sol(0.9).item() - 10) < 1e-2
    with pytest.raises(InputError, match="only"):
        sol(1.1)


def test_fixed_steps_that_failed_are_dense_up_to_the_last_good_one() -> None:
    def f(t: Tensor, y: Tensor) -> Tensor:
        return -y if t <= 0.5 else -y * math.nan

    sol = solve(f, ONE, 1.0, dense=True, throw=False, method="rk4", dt=0.1)
    assert not sol.success
    times = torch.linspace(0, 0.5, 50, dtype=torch.float64)
    torch.testing.assert_close(sol(times)[:, 0], torch.exp(-times), rtol=1e-5, atol=0)
    with pytest.raises(InputError, match="only"):
        sol(0.51)


def test_a_resumed_solve_is_dense_on_its_own_interval() -> None:
    first = make((0.0, 1.0))
    second = solve(f, None, 2.0, start=first, dense=True, rtol=1e-9, atol=1e-11)
    assert abs(second(1.5).item() - math.exp(math.sin(1.5))) < 1e-7
    torch.testing.assert_close(second(1.0), first(1.0), rtol=1e-14, atol=0)
    with pytest.raises(InputError, match=r"\[1, 2\] only"):
        second(0.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64], ids=str)
def test_other_dtypes(dtype: torch.dtype) -> None:
    sol = solve(f, torch.ones(2, dtype=dtype), 3.0, dense=True, rtol=1e-4, atol=1e-4)
    y = sol(torch.linspace(0, 3, 5))
    assert y.dtype == dtype
    assert abs(y[2, 0].to(torch.complex128) - math.exp(math.sin(1.5))) < (2e-2 if dtype == torch.bfloat16 else 1e-3)
