"""The Jacobian by rows and the time derivative: against formulas, in every setting a field may be in."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from torchivp import solve
from torchivp.errors import InputError
from torchivp.field import Field
from torchivp.linalg import Given, linearise
from torchivp.per_sample.problem import make_rows_problem
from torchivp.problem import make_problem
from torchivp.span import OneSpan, RowSpan, spread

A = torch.tensor([[-1.0, 2.0, 0.5], [0.3, -4.0, 1.0], [0.0, 1.5, -2.0]], dtype=torch.float64)
Y = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)


def quadratic(t: Tensor, y: Tensor) -> Tensor:
    """``A y + t^2 y^2`` for a state or for rows of it."""
    t = t.unsqueeze(-1) if t.dim() else t
    return y @ A.T + t**2 * y**2


def expected(t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return A + torch.diag(2 * t**2 * y), 2 * t * y**2


def around(f: Any, y: Tensor, times: tuple[float, float], **more: Any) -> tuple[Field, OneSpan, Tensor, Tensor]:
    problem = make_problem(f, y, times, **more)
    span = OneSpan(problem.t[0], problem.t[1], size=problem.t[1] - problem.t[0])
    return problem.field, span, problem.y0, problem.field.start_slope(span, problem.y0)


@pytest.mark.parametrize("times", [(0.7, 1.5), (0.7, -1.0)], ids=["forwards", "backwards"])
def test_one_state(times: tuple[float, float]) -> None:
    """Backwards the library's field is ``-f``, of a time that is ``-t``: only the sign of J changes."""
    field, span, y, slope = around(quadratic, Y, times)
    linear = linearise(field, span, y, slope)
    j, at_time = expected(torch.tensor(0.7), Y)
    sign = 1 if times[1] > times[0] else -1
    torch.testing.assert_close(linear.matrix.entries[0], sign * j)
    torch.testing.assert_close(linear.at_time[0], at_time)
    torch.testing.assert_close(linear.times(y)[0], sign * j @ Y)
    x = linear.shifted(0.3).solve(y)
    torch.testing.assert_close(x - 0.3 * linear.times(x), y)
    assert (field.counts.jacobians, field.counts.factorisations) == (1, 1)


def rows_of(f: Any, y: Tensor, times: Tensor) -> tuple[Field, RowSpan, Tensor, Tensor]:
    problem = make_rows_problem(f, y, times, None, batch_dims=y.dim() - 1, couple=False, rtol=1e-3, atol=1e-3)
    t, t1 = problem.t[:, 0], problem.t[:, 1]
    span = RowSpan(t, t1, t1 - t, spread(t1 - t, problem.y0))
    return problem.field, span, problem.y0, problem.field.start_slope(span, problem.y0)


@pytest.mark.parametrize("batch", [(4,), (2, 2)], ids=str)
def test_rows(batch: tuple[int, ...]) -> None:
    """Rows at times of their own, one of them backwards."""
    y = torch.randn(4, 3, dtype=torch.float64)
    times = torch.tensor([[0.1, 1.0], [0.2, -1.0], [0.3, 1.0], [0.4, 2.0]], dtype=torch.float64)
    field, span, row, slope = rows_of(quadratic, y.view(*batch, 3), times.view(*batch, 2))
    linear = linearise(field, span, row, slope)
    for b in range(4):
        j, at_time = expected(times[b, 0], y[b])
        sign = 1 if times[b, 1] > times[b, 0] else -1
        torch.testing.assert_close(linear.matrix.entries[b], sign * j)
        torch.testing.assert_close(linear.at_time.view(4, 3)[b], at_time)
    sizes = torch.tensor([[0.1], [0.2], [0.0], [0.5]], dtype=torch.float64)
    x = linear.shifted(sizes).solve(row)
    torch.testing.assert_close(x - spread(sizes[:, 0], row) * linear.times(x), row)


def test_a_complex_state_that_is_not_differentiable_in_the_complex_sense() -> None:
    y = torch.tensor([1.0 + 2.0j, -0.5 + 0.3j], dtype=torch.complex128)

    def f(t: Tensor, y: Tensor) -> Tensor:
        return y.conj() * (1 + 2j) + t * y.flip(0) ** 2

    field, span, row, slope = around(f, y, (0.7, 1.0))
    linear = linearise(field, span, row, slope)
    v = torch.tensor([[0.3 - 1.0j, 2.0 + 0.1j]], dtype=torch.complex128)
    size = 1e-6
    t = torch.tensor(0.7, dtype=torch.float64)
    along = (f(t, y + size * v[0]) - f(t, y - size * v[0])) / (2 * size)
    torch.testing.assert_close(linear.times(v)[0], along, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(linear.at_time[0], y.flip(0) ** 2)
    x = linear.shifted(0.3).solve(v)
    torch.testing.assert_close(x - 0.3 * linear.times(x), v)


def test_what_leaves_no_trace_is_found_by_differences() -> None:
    def hidden(t: Tensor, y: Tensor) -> Tensor:
        return quadratic(t, y).detach()

    for times in ((0.7, 1.5), (0.7, -1.0)):
        by_trace, by_difference = (linearise(*around(f, Y, times)) for f in (quadratic, hidden))
        torch.testing.assert_close(by_difference.matrix.entries, by_trace.matrix.entries, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(by_difference.at_time, by_trace.at_time, rtol=1e-6, atol=1e-6)


def test_differences_ask_for_the_slope_themselves() -> None:
    """What a method calls the slope at the start may be off by what an iteration left, or be a mere guess."""
    field, span, y, slope = around(lambda t, y: quadratic(t, y).detach(), Y, (0.7, 1.5))
    linear = linearise(field, span, y, slope + 1e-6)
    j, at_time = expected(torch.tensor(0.7), Y)
    torch.testing.assert_close(linear.matrix.entries[0], j, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(linear.at_time[0], at_time, rtol=1e-6, atol=1e-6)


def test_differences_of_rows_ask_inside_the_step() -> None:
    y, asked = torch.randn(3, 3, dtype=torch.float64), []

    def hidden(t: Tensor, y: Tensor) -> Tensor:
        asked.append(t)
        return quadratic(t, y).detach()

    times = torch.tensor([[0.1, 0.1 + 1e-12], [0.2, -1.0], [0.3, 1.0]], dtype=torch.float64)
    found = linearise(*rows_of(hidden, y, times))
    wanted = linearise(*rows_of(quadratic, y, times))
    torch.testing.assert_close(found.at_time.view(3, 3)[1:], wanted.at_time.view(3, 3)[1:], rtol=1e-6, atol=1e-6)
    low, high = times.amin(1), times.amax(1)
    assert all(bool(((t >= low) & (t <= high)).all()) for t in asked)


def test_an_operation_that_cannot_be_batched() -> None:
    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x**2

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            return 2 * g * ctx.saved_tensors[0] * (1.0 if float(g.detach().sum()) < math.inf else 0.0)

    field, span, y, slope = around(lambda t, y: y @ A.T + t**2 * Square.apply(y), Y, (0.7, 1.5))
    linear = linearise(field, span, y, slope)
    assert not field.counts.batched
    torch.testing.assert_close(linear.matrix.entries[0], expected(torch.tensor(0.7), Y)[0])


def test_the_same_point_is_looked_at_once() -> None:
    field, span, y, slope = around(quadratic, Y, (0.7, 1.5))
    evaluations = field.evaluations
    first = linearise(field, span, y, slope)
    assert linearise(field, span, y, slope) is first
    assert linearise(field, span, y.clone(), slope) is not first
    assert field.evaluations == evaluations + 5  # three of them look once, whether f hides its time


class TestGiven:
    @pytest.mark.parametrize("times", [(0.7, 1.5), (0.7, -1.0)], ids=["forwards", "backwards"])
    def test_the_users_function(self, times: tuple[float, float]) -> None:
        field, span, y, slope = around(quadratic, Y, times)
        by_autograd = linearise(field, span, y, slope)
        field, span, y, slope = around(quadratic, Y, times)
        field.jacobian = Given(lambda t, y: expected(t, y)[0])
        given = linearise(field, span, y, slope)
        torch.testing.assert_close(given.matrix.entries, by_autograd.matrix.entries)
        torch.testing.assert_close(given.at_time, by_autograd.at_time)

    def test_one_buffer_every_time(self) -> None:
        """Jacobians are kept: a step of Radau that is differentiated holds one at each of its stages."""

        def gradient(jac: Any) -> Tensor:
            y0 = Y.clone().requires_grad_()
            sol = solve(quadratic, y0, (0.0, 0.3), method="radau5", jac=jac, gradient="direct")
            return torch.autograd.grad(sol.y[-1].sum(), y0)[0]

        out = torch.empty(3, 3, dtype=torch.float64)
        in_buffer = gradient(lambda t, y: out.copy_(expected(t, y.detach())[0]))
        assert torch.equal(in_buffer, gradient(lambda t, y: expected(t, y.detach())[0]))

    def test_a_complex_one(self) -> None:
        y = torch.tensor([1.0 + 2.0j, -0.5 + 0.3j], dtype=torch.complex128)
        m = torch.tensor([[1.0 + 1.0j, 2.0], [0.5j, -1.0]], dtype=torch.complex128)
        field, span, row, slope = around(lambda t, y: m @ y, y, (0.0, 1.0))
        by_autograd = linearise(field, span, row, slope)
        field.linearised, field.jacobian = None, Given(lambda t, y: m)
        torch.testing.assert_close(linearise(field, span, row, slope).matrix.entries, by_autograd.matrix.entries)

    def test_a_wrong_shape(self) -> None:
        field, span, y, slope = around(quadratic, Y, (0.7, 1.5))
        field.jacobian = Given(lambda t, y: y)
        with pytest.raises(InputError, match=r"jac\(t, y\) returned shape \(3,\).*Return a tensor of shape \(3, 3\)"):
            linearise(field, span, y, slope)


class TestGradients:
    """A function of J and of f_t is differentiated by the state and by what f closes over."""

    def test_against_a_formula(self) -> None:
        w = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
        y0 = Y.clone().requires_grad_()
        field, span, y, slope = around(lambda t, y: w * t**2 * y**3, y0, (0.7, 1.5))
        linear = linearise(field, span, y, slope)
        (linear.matrix.entries.sum() + linear.at_time.sum()).backward()
        t = 0.7
        torch.testing.assert_close(y0.grad, w.detach() * (6 * t**2 * Y + 6 * t * Y**2))
        torch.testing.assert_close(w.grad, (3 * t**2 * Y**2 + 2 * t * Y**3).sum())

    def test_nothing_is_recorded_where_nobody_waits(self) -> None:
        field, span, y, slope = around(quadratic, Y, (0.7, 1.5))
        linear = linearise(field, span, y, slope)
        assert not linear.matrix.entries.requires_grad
        assert not linear.at_time.requires_grad

    @pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
    def test_without_gradients(self, mode: Any) -> None:
        with mode():
            linear = linearise(*around(quadratic, Y, (0.7, 1.5)))
        torch.testing.assert_close(linear.matrix.entries[0], expected(torch.tensor(0.7), Y)[0])

    def test_inside_transforms(self) -> None:
        def total(y: Tensor) -> Tensor:
            linear = linearise(*around(quadratic, y, (0.7, 1.5)))
            return (linear.matrix.entries**2).sum() + linear.at_time.sum()

        y0 = Y.clone().requires_grad_()
        (wanted,) = torch.autograd.grad(total(y0), y0)
        torch.testing.assert_close(torch.func.grad(total)(Y), wanted)
        along = torch.func.jvp(total, (Y,), (torch.ones_like(Y),))[1]
        torch.testing.assert_close(along, wanted.sum())
