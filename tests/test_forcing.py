"""Signals given as samples: values, gradients, moving and copying, and their use inside a solve."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import torchivp
from torchivp.errors import InputError, InputTypeError
from torchivp.forcing import Interpolation, estimated_slopes

KINDS = ("linear", "cubic")
UNEVEN = torch.tensor([-1.0, -0.7, 0.1, 0.2, 1.5, 2.0], dtype=torch.float64)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex128])
def test_meets_its_samples(kind: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    values = torch.randn(6, *shape, dtype=dtype)
    u = Interpolation(UNEVEN, values, kind=kind)
    assert u(UNEVEN).dtype == dtype
    torch.testing.assert_close(u(UNEVEN), values)
    torch.testing.assert_close(u(0.1), values[2])
    assert u(torch.tensor(0.3)).shape == shape
    assert u(torch.zeros(4, 5)).shape == (4, 5, *shape)


def test_linear_is_numpy_interp() -> None:
    t, values = torch.linspace(-2, 3, 101, dtype=torch.float64), torch.randn(6, dtype=torch.float64)
    expected = np.interp(t.numpy(), UNEVEN.numpy(), values.numpy())  # outside the samples too
    np.testing.assert_allclose(Interpolation(UNEVEN, values)(t).numpy(), expected, rtol=1e-14, atol=1e-14)


def test_cubic_is_scipys_hermite() -> None:
    interpolate = pytest.importorskip("scipy.interpolate")
    values, slopes = torch.randn(2, 6, 3, dtype=torch.float64)
    t = torch.linspace(-1, 2, 101, dtype=torch.float64)
    expected = interpolate.CubicHermiteSpline(UNEVEN.numpy(), values.numpy(), slopes.numpy())(t.numpy())
    u = Interpolation(UNEVEN, values, kind="cubic", slopes=slopes)
    np.testing.assert_allclose(u(t).numpy(), expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(("kind", "degree"), [("linear", 1), ("cubic", 2)])
@given(data=st.data())
def test_polynomials_are_exact(kind: str, degree: int, data: st.DataObject) -> None:
    """Lines, and parabolas with the slopes that the samples give, on any knots."""
    gaps = data.draw(st.lists(st.floats(0.05, 5), min_size=2, max_size=7))
    times = torch.tensor([0.0, *gaps], dtype=torch.float64).cumsum(0)
    c = data.draw(st.lists(st.floats(-2, 2), min_size=degree + 1, max_size=degree + 1))
    t = torch.linspace(0, float(times[-1]), 40, dtype=torch.float64)
    u = Interpolation(times, polynomial(c, times), kind=kind)
    torch.testing.assert_close(u(t), polynomial(c, t), rtol=1e-11, atol=1e-11)


def polynomial(c: list[float], t: Tensor) -> Tensor:
    return sum(x * t**n for n, x in enumerate(c)) + torch.zeros_like(t)


@pytest.mark.parametrize(
    ("kind", "with_slopes", "order"), [("linear", False, 2), ("cubic", False, 3), ("cubic", True, 4)]
)
def test_order(kind: str, with_slopes: bool, order: int) -> None:
    """The promised order, for samples that are not evenly spaced."""

    def error(n: int) -> float:
        times = torch.linspace(0, 1, n + 1, dtype=torch.float64)
        times = times + 0.1 * torch.sin(2 * torch.pi * times)
        t = torch.linspace(0, 1, 2001, dtype=torch.float64)
        slopes = 5 * torch.cos(5 * times) if with_slopes else None
        u = Interpolation(times, torch.sin(5 * times), kind=kind, slopes=slopes)
        return float((u(t) - torch.sin(5 * t)).abs().max())

    orders = [np.log2(error(n) / error(2 * n)) for n in (40, 80, 160)]
    assert min(orders) > order - 0.2, orders


@pytest.mark.parametrize("kind", KINDS)
def test_two_samples_are_a_line(kind: str) -> None:
    u = Interpolation([0.0, 2.0], [1.0, 5.0], kind=kind)
    torch.testing.assert_close(u(torch.tensor([0.0, 0.5, 2.0])), torch.tensor([1.0, 2.0, 5.0]))


@pytest.mark.parametrize("kind", KINDS)
def test_keeps_the_last_value_outside(kind: str) -> None:
    values = torch.randn(6, 2, dtype=torch.float64)
    u = Interpolation(UNEVEN, values, kind=kind)
    t = torch.tensor([-5.0, 7.0], dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(u(t), values[[0, -1]])
    assert torch.equal(torch.autograd.grad(u(t).sum(), t)[0], torch.zeros(2, dtype=torch.float64))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_gradients_of_time_and_values(kind: str, dtype: torch.dtype) -> None:
    values = torch.randn(6, 2, dtype=dtype, requires_grad=True)
    t = torch.tensor([-0.9, 0.15, 1.0, 1.9], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t, v: Interpolation(UNEVEN, v, kind=kind)(t), (t, values))
    assert torch.autograd.gradgradcheck(lambda t, v: Interpolation(UNEVEN, v, kind=kind)(t), (t, values))


def test_gradients_of_slopes() -> None:
    values, slopes = torch.randn(2, 6, 2, dtype=torch.float64).requires_grad_().unbind(0)
    t = torch.tensor([-0.9, 0.15, 1.9], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda v, s: Interpolation(UNEVEN, v, "cubic", slopes=s)(t), (values, slopes))


@pytest.mark.parametrize("kind", KINDS)
def test_vmap_over_time(kind: str) -> None:
    u = Interpolation(UNEVEN, torch.randn(6, 2, dtype=torch.float64), kind=kind)
    t = torch.linspace(-1.45, 2.55, 9, dtype=torch.float64)
    torch.testing.assert_close(torch.func.vmap(u)(t), u(t))
    slope = torch.func.vmap(torch.func.jacrev(u))(t[2:7])
    h = 1e-6
    torch.testing.assert_close(slope, (u(t[2:7] + h) - u(t[2:7] - h)) / (2 * h), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_moves_copies_and_pickles(kind: str) -> None:
    u = Interpolation(UNEVEN, torch.randn(6, 2, dtype=torch.float64), kind=kind)
    t = torch.linspace(-1, 2, 9, dtype=torch.float64)
    for twin in (copy.deepcopy(u), pickle.loads(pickle.dumps(u))):
        assert torch.equal(twin(t), u(t))
    small = copy.deepcopy(u).to(torch.float32)
    assert small(t).dtype == torch.float32
    assert small.knots.dtype == torch.float64  # times keep their precision
    torch.testing.assert_close(small(t).double(), u(t), rtol=1e-5, atol=1e-5)
    other = Interpolation(UNEVEN + 0.5, torch.zeros(6, 2, dtype=torch.float64), kind=kind)
    other.load_state_dict(u.state_dict())
    assert torch.equal(other(t), u(t))


@pytest.mark.parametrize("kind", KINDS)
def test_trained_values_are_followed(kind: str) -> None:
    """Values that are a parameter: found by optimisers, and slopes follow them from call to call."""
    u = Interpolation(UNEVEN, nn.Parameter(torch.zeros(6, dtype=torch.float64)), kind=kind)
    target, t = torch.sin(UNEVEN), torch.linspace(-1, 2, 50, dtype=torch.float64)
    expected = Interpolation(UNEVEN, target, kind=kind)(t)
    optimiser = torch.optim.LBFGS(u.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = (u(t) - expected).square().mean()
        loss.backward()
        return loss

    optimiser.step(closure)
    torch.testing.assert_close(u.values.detach(), target, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gradient", ["direct", "discrete"])
def test_inside_a_solve(kind: str, gradient: str) -> None:
    """y' = u(t): the solve is the integral of the signal, and its gradient the weight of each sample."""
    values = torch.randn(6, dtype=torch.float64, requires_grad=True)
    u = Interpolation(UNEVEN, values, kind=kind)
    y0 = torch.zeros((), dtype=torch.float64)
    sol = torchivp.solve(lambda t, y: u(t), y0, (-1.0, 2.0), jump_times=u.knots, gradient=gradient)
    h = UNEVEN.diff()
    slopes = estimated_slopes(UNEVEN, values)
    exact = (h * (values[1:] + values[:-1]) / 2).sum()
    if kind == "cubic":
        exact = exact + (h**2 * (slopes[:-1] - slopes[1:]) / 12).sum()
    torch.testing.assert_close(sol.y[-1], exact, rtol=1e-12, atol=1e-12)
    (ours,) = torch.autograd.grad(sol.y[-1], values)
    torch.testing.assert_close(ours, torch.autograd.grad(exact, values)[0], rtol=1e-12, atol=1e-12)


def test_knots_save_rejected_steps() -> None:
    times = torch.linspace(0, 10, 11, dtype=torch.float64)
    u = Interpolation(times, torch.tensor([0.0, 1.0] * 5 + [0.0], dtype=torch.float64))

    def solve(**options: Tensor) -> torchivp.Solution:
        y0 = torch.zeros((), dtype=torch.float64)
        return torchivp.solve(lambda t, y: u(t) - y, y0, (0.0, 10.0), rtol=1e-8, atol=1e-8, **options)

    told, untold = solve(jump_times=u.knots), solve()
    assert told.stats.rejected < untold.stats.rejected
    assert told.stats.nfe < untold.stats.nfe


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        (([0.0, 1.0, 1.0], [0.0, 1.0, 2.0]), InputError, r"times\[1\]=1 is followed by times\[2\]=1"),
        (([0.0, 2.0, 1.0], [0.0, 1.0, 2.0]), InputError, "strictly increasing"),
        (([0.0, float("nan")], [0.0, 1.0]), InputError, "nan or inf"),
        (([0.0], [0.0]), InputError, "at least two times"),
        (([[0.0, 1.0]], [0.0, 1.0]), InputError, r"times has shape \(1, 2\)"),
        (([0.0, 1.0], [0.0, 1.0, 2.0]), InputError, r"values has shape \(3,\), but there are 2 times"),
        (([0.0, 1.0], 3.0), InputError, r"values has shape \(\)"),
        (([0.0, 1.0], [0.0, 1.0], "spline"), InputError, "kind='spline' is not known"),
        (([0.0, 1.0], [0.0, 1.0], "linear", [0.0, 1.0]), InputError, "Write kind='cubic'"),
        (([0.0, 1.0], [0.0, 1.0], "cubic", [0.0]), InputError, r"slopes has shape \(1,\)"),
        (([0.0, 1.0], "ab"), InputTypeError, "values is a str"),
        (([0.0, 1j], [0.0, 1.0]), InputTypeError, "times are complex"),
    ],
)
def test_errors_say_what_is_wrong(arguments: tuple, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        Interpolation(*arguments)


def test_integers_and_arrays_are_numbers() -> None:
    assert float(Interpolation(np.array([0, 1]), np.array([0, 4]))(0.5)) == 2.0


def test_repr() -> None:
    u = Interpolation([0.0, 1.0, 4.0], torch.zeros(3, 2))
    assert repr(u) == "Interpolation(kind='linear', 3 samples on 0..4, shape (2,))"
