"""``odeint_adjoint`` beside torchdiffeq's, and where it deliberately does better."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from parity.side_by_side import (
    ADAPTIVE,
    FIXED_RK,
    Count,
    Net,
    Pair,
    close,
    gradients,
    ours,
    outcome,
    pair_state,
    state,
    theirs,
    times,
)

both = (ours, theirs)


def adjoint(**how: Any) -> Any:
    return lambda lib, func, y0, t: lib.odeint_adjoint(func, y0, t, **how)


@cache
def direct(reverse: bool, n: int = 4) -> list[Tensor]:
    """Gradients of the computed solution at tight tolerances: what every adjoint should come close to."""
    how = {"rtol": 1e-11, "atol": 1e-11}
    return gradients(
        ours, lambda lib, f, y0, t: lib.odeint(f, y0, t, **how), Net, state(3, 2), times(n, reverse=reverse)
    )


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize(("method", "tol", "bound"), [("dopri8", 1e-9, 1e-7), ("dopri5", 1e-8, 1e-6), ("tsit5", 1e-8, 1e-6),
                                                      ("bosh3", 1e-6, 1e-4), ("adaptive_heun", 1e-4, 2e-2)])  # fmt: skip
def test_adaptive_methods(method: str, tol: float, bound: float, reverse: bool) -> None:
    a = gradients(ours, adjoint(method=method, rtol=tol, atol=tol), Net, state(3, 2), times(4, reverse=reverse))
    close(a, direct(reverse), bound)


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "backward"])
def test_beside_torchdiffeq(reverse: bool) -> None:
    a, b = (gradients(lib, adjoint(rtol=1e-8, atol=1e-8), Net, state(3, 2), times(4, reverse=reverse)) for lib in both)
    close(a, b, 1e-5)


@pytest.mark.parametrize("options", [{}, {"step_size": 0.1}], ids=str)
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("method", FIXED_RK)
def test_fixed_methods_solve_each_interval_on_the_same_grid(
    method: str, reverse: bool, options: dict[str, Any]
) -> None:
    """The same numbers as torchdiffeq's; but for t[0], which it integrates and ours needs no integral for."""
    a, b = (
        gradients(
            lib,
            adjoint(method=method, options={**options, "interp": "cubic"}),
            Net,
            state(3, 2),
            times(5, reverse=reverse),
        )
        for lib in both
    )
    a[2], b[2] = a[2][1:], b[2][1:]
    close(a, b, 1e-10)


@pytest.mark.parametrize("method", ["explicit_adams", "implicit_adams"])
def test_adams(method: str) -> None:
    how = {"method": method, "options": {"step_size": 0.02}, "rtol": 1e-9, "atol": 1e-11}
    a = gradients(ours, adjoint(**how), Net, state(3, 2), times(4))
    close(a, direct(False), 1e-4)


@pytest.mark.parametrize(("method", "adjoint_method"), [("dopri5", "rk4"), ("rk4", "dopri5"), ("dopri8", "bosh3"),
                                                        ("dopri5", "scipy_solver"), ("scipy_solver", "dopri5")])  # fmt: skip
def test_another_method_backwards(method: str, adjoint_method: str) -> None:
    how = adjoint(method=method, rtol=1e-7, atol=1e-7, adjoint_method=adjoint_method)
    t = times(21)
    a, b = (outcome(lambda lib=lib: gradients(lib, how, Net, state(3, 2), t))[1] for lib in both)
    a[2], b[2] = a[2][1:], b[2][1:]
    close(a, b, 1e-3)


def test_tuple_state() -> None:
    a, b = (gradients(lib, adjoint(rtol=1e-8, atol=1e-8), Pair, pair_state(), times(4)) for lib in both)
    close(a, b, 1e-5)


def test_complex_state() -> None:
    class Spin(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rate = nn.Parameter(torch.tensor(0.8, dtype=torch.float64))

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return 1j * self.rate * (1 + t) * y

    y0 = state(2, dtype=torch.complex128)
    how = {"rtol": 1e-9, "atol": 1e-9}
    a = gradients(ours, adjoint(**how), Spin, y0, times(4))
    b = gradients(ours, lambda lib, f, y0, t: lib.odeint(f, y0, t, **how), Spin, y0, times(4))
    close(a, b, 1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_low_precision(dtype: torch.dtype) -> None:
    a = gradients(
        ours, adjoint(rtol=1e-2, atol=1e-2), lambda: Net(dtype), state(3, 2, dtype=dtype), times(4, dtype=dtype)
    )
    assert [x.dtype for x in a] == [dtype] * 5
    close([x.double() for x in a], direct(False), 0.3)


def test_state_and_parameters_of_different_dtypes() -> None:
    weight = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    y0 = state(2, dtype=torch.float32).requires_grad_()
    y = ours.odeint_adjoint(lambda t, y: -y * weight.float(), y0, times(3), adjoint_params=(weight,))
    y.sum().backward()
    assert (y.dtype, y0.grad.dtype, weight.grad.dtype) == (torch.float32, torch.float32, torch.float64)
    assert weight.grad != 0


def test_autocast() -> None:
    net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2))
    how = {"rtol": 1e-2, "atol": 1e-2, "adjoint_params": tuple(net.parameters())}
    grads = []
    for lib in both:
        y0 = state(4, 2, dtype=torch.float32).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            y = lib.odeint_adjoint(lambda t, y: net(y), y0, times(3), **how)
        assert y.dtype == torch.float32
        grads.append(torch.autograd.grad(y.square().sum(), [y0, *net.parameters()]))
    close(*grads, 5e-2)


@pytest.mark.parametrize("seminorm", [False, True])
def test_parameters_have_the_same_gradients_whether_or_not_t_requires_grad(seminorm: bool) -> None:
    grads = []
    for t_requires_grad in (False, True):
        net, t = Net(), times(4).requires_grad_(t_requires_grad)
        options = {"adjoint_options": {"norm": "seminorm"}} if seminorm else {}
        y = ours.odeint_adjoint(net, state(3, 2), t, rtol=1e-5, atol=1e-6, **options)
        grads.append(torch.autograd.grad((y**2).sum(), list(net.parameters())))
    assert all(torch.equal(x, y) for x, y in zip(*grads))


def test_first_order_only() -> None:
    for lib in both:
        net, y0 = Net(), state(2).requires_grad_()
        y = lib.odeint_adjoint(net, y0, times(3), rtol=1e-5, atol=1e-5)
        (g,) = torch.autograd.grad(y.sum(), y0, create_graph=True)
        assert not g.requires_grad


# --- parameters ---------------------------------------------------------------------------------------------------


def test_params_given_by_hand() -> None:
    a, b = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (0.5, 0.7))

    def f(t: Tensor, y: Tensor) -> Tensor:
        return -a * y + b

    for params, wanted in (((a,), 1), ((a, b), 2), ((p for p in (a, b)), 2), ((), 0)):
        y = ours.odeint_adjoint(f, state(2).requires_grad_(), times(3), adjoint_params=params)
        grads = torch.autograd.grad(y.sum(), [a, b], allow_unused=True)
        assert sum(g is not None for g in grads) == wanted


def test_frozen_and_unused_parameters() -> None:
    class Half(Net):
        def __init__(self) -> None:
            super().__init__()
            self.bias.requires_grad_(False)
            self.unused = nn.Parameter(torch.ones(3))

    for lib in both:
        net = Half()
        error, y, texts = outcome(
            lambda lib=lib, net=net: lib.odeint_adjoint(net, state(2), times(3), rtol=1e-4, atol=1e-4)
        )
        assert error is None
        assert texts == []
        y.sum().backward()
        assert net.bias.grad is None
        assert torch.equal(net.unused.grad, torch.zeros(3))


def test_replicas_of_data_parallel() -> None:
    """Their parameters are plain attributes."""
    net = Net()
    replica = net._replicate_for_data_parallel()
    replica.weight, replica.bias = net.weight * 1, net.bias * 1
    found = {id(p) for p in ours._impl.adjoint.find_parameters(replica)}
    assert found == {id(replica.weight), id(replica.bias)}
    assert len(theirs._impl.adjoint.find_parameters(replica)) == 2


# --- options and norms --------------------------------------------------------------------------------------------


def rms(x: Tensor) -> Tensor:
    return x.abs().pow(2).mean().sqrt()


def shapes(tensors: Any) -> list[tuple[int, ...]]:
    assert isinstance(tensors, tuple)
    return [tuple(x.shape) for x in tensors]


def test_a_callable_norm_sees_time_state_adjoint_and_parameters() -> None:
    for lib in both:
        seen = []

        def norm(tensors: Any, seen: list[Any] = seen) -> Tensor:
            seen.append(shapes(tensors))
            return max(rms(x) for x in tensors)

        y = lib.odeint_adjoint(Net(), state(3, 2), times(3), rtol=1e-4, atol=1e-4, adjoint_options={"norm": norm})
        assert seen == []
        y.sum().backward()
        assert seen
        assert all(s == [(), (3, 2), (3, 2), (2, 2), (2,)] for s in seen)


def test_a_callable_norm_sees_a_tuple_state_unpacked() -> None:
    for lib in both:
        seen = []

        def norm(tensors: Any, seen: list[Any] = seen) -> Tensor:
            seen.append(shapes(tensors))
            return max(rms(x) for x in tensors)

        a, b = lib.odeint_adjoint(Pair(), pair_state(), times(3), rtol=1e-4, atol=1e-4, adjoint_options={"norm": norm})
        (a.sum() + b.sum()).backward()
        assert all(s == [(), (2,), (3, 1), (2,), (3, 1), (2,)] for s in seen)


@pytest.mark.parametrize("given", [None, "seminorm"])
def test_the_norm_can_be_replaced_at_backward_time(given: str | None) -> None:
    """Programs wrap ``grad_fn.adjoint_options["norm"]`` between forward and backward."""
    for lib in both:
        net, calls = Net(), []
        options = {} if given is None else {"norm": given}
        y = lib.odeint_adjoint(net, state(3, 2), times(3), rtol=1e-4, atol=1e-4, adjoint_options=options)
        norm = y.grad_fn.adjoint_options["norm"]

        def spy(tensors: Any, norm: Any = norm, calls: list[Any] = calls) -> Any:
            calls.append(shapes(tensors))
            result = norm(tensors)
            _, y, adj_y, *_ = tensors
            assert isinstance(result, Tensor)
            assert result.shape == ()
            assert result >= max(rms(y), rms(adj_y)) * (1 - 1e-6)
            return result

        y.grad_fn.adjoint_options["norm"] = spy
        y.sum().backward()
        assert calls
        assert calls[0] == [(), (3, 2), (3, 2), (2, 2), (2,)]


def test_the_norm_of_a_tuple_state_is_where_programs_look_for_it() -> None:
    for lib in both:
        calls = []
        xs = lib.odeint_adjoint(Pair(), pair_state(), times(3), rtol=1e-4, atol=1e-4)
        options = xs[0].grad_fn.next_functions[0][0].next_functions[0][0].adjoint_options
        norm = options["norm"]

        def spy(tensors: Any, norm: Any = norm, calls: list[Any] = calls) -> Any:
            calls.append(shapes(tensors))
            return norm(tensors)

        options["norm"] = spy
        (xs[0].sum() + xs[1].sum()).backward()
        assert calls
        assert calls[0] == [(), (5,), (5,), (2,)]


def test_the_default_norm_leaves_parameters_out() -> None:
    """A documented difference: torchdiffeq's default takes them in, and needs many times the evaluations."""
    norms = []
    for lib in both:
        y = lib.odeint_adjoint(Net(), state(3, 2), times(3))
        tensors = (torch.zeros(()), state(3, 2), state(3, 2) * 2, torch.full((2, 2), 1e3), torch.full((2,), 1e4))
        norms.append(float(y.grad_fn.adjoint_options["norm"](tensors)))
    assert norms[0] == pytest.approx(float(rms(state(3, 2)) * 2))
    assert norms[1] == pytest.approx(1e4)


def test_the_default_norm_uses_the_forward_norm() -> None:
    for lib in both:
        seen = []

        def norm(x: Any, seen: list[Any] = seen) -> Tensor:
            seen.append(x.shape)
            return x.abs().max()

        y = lib.odeint_adjoint(Net(), state(3, 2), times(3), rtol=1e-4, atol=1e-4, options={"norm": norm})
        forward = len(seen)
        y.sum().backward()
        assert len(seen) > forward
        assert set(seen) == {torch.Size([3, 2])}


def test_a_norm_of_another_kind_is_refused() -> None:
    """At once; torchdiffeq raises (the same type) when it calls it in the backward solve."""
    for lib in (ours, theirs):
        with pytest.raises(TypeError):
            lib.odeint_adjoint(Net(), state(2), times(3), adjoint_options={"norm": "semi"}).sum().backward()


def test_jumps_and_grids_of_the_backward_solve() -> None:
    """jump_t of the user's time, also where time decreases (torchdiffeq negates neither; a list least of all)."""
    for reverse in (False, True):
        for jumps in ([0.5, 0.75], torch.tensor([0.5, 0.75])):
            grads = []
            for solve in ("odeint", "odeint_adjoint"):
                rate = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)

                def f(t: Tensor, y: Tensor, rate: Tensor = rate) -> Tensor:
                    return y * rate * (1.0 if t < 0.5 else -2.0 if t < 0.75 else 3.0)

                extra = {} if solve == "odeint" else {"adjoint_params": (rate,)}
                t = torch.tensor([0.0, 0.6, 1.0], dtype=torch.float64)
                y = getattr(ours, solve)(f, state(2), t.flip(0) if reverse else t, options={"jump_t": jumps}, **extra)
                grads.append(torch.autograd.grad((y**2).sum(), rate)[0])
            close(*grads, 1e-6)


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "backward"])
def test_the_grid_constructor_sees_the_users_times_once_per_interval(reverse: bool) -> None:
    seen = []

    def grid(func: Any, y0: Tensor, t: Tensor) -> Tensor:
        seen.append(t.tolist())
        return (
            torch.stack([t[0], (t[0] + t[1]) / 2, t[1], *t[2:]]) if len(t) > 2 else torch.stack([t[0], t.mean(), t[1]])
        )

    t = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)
    t = t.flip(0) if reverse else t
    y = ours.odeint_adjoint(Net(), state(2).requires_grad_(), t, method="euler", options={"grid_constructor": grid})
    assert seen == [t.tolist()]
    y.sum().backward()
    assert seen[1:] == [t[1:].flip(0).tolist(), t[:2].flip(0).tolist()]


def test_euler_gradient_is_eulers() -> None:
    """torchdiffeq's own test of the grid constructor: 10 steps of y' = y give y0 * 1.1^10 and the gradient 1.1^10."""

    def grid(func: Any, y0: Tensor, t: Tensor) -> Tensor:
        assert t.shape == (2,)
        return torch.linspace(float(t[0]), float(t[1]), 11)

    x0 = torch.tensor([1.0, 2.0], requires_grad=True)
    xs = ours.odeint_adjoint(
        lambda t, x: x,
        x0,
        torch.tensor([0.0, 1.0]),
        method="euler",
        options={"grid_constructor": grid},
        adjoint_params=(),
    )
    assert (xs[1] - x0 * 1.1**10).abs().max() < 1e-5
    xs[1].sum().backward()
    assert (x0.grad - 1.1**10).abs().max() < 1e-5


@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_one_time(method: str) -> None:
    for lib in both:
        net, y0 = Net(), state(2).requires_grad_()
        y = lib.odeint_adjoint(net, y0, torch.tensor([0.3]), method=method)
        assert torch.equal(y, y0[None])
        y.sum().backward()
        assert torch.equal(y0.grad, torch.ones(2))
        assert torch.equal(net.weight.grad, torch.zeros(2, 2))


def test_max_num_steps_counts_per_interval_backwards_too() -> None:
    y = ours.odeint_adjoint(Net(), state(2).requires_grad_(), torch.linspace(0, 20, 21), options={"max_num_steps": 30})
    y.sum().backward()
    y = ours.odeint_adjoint(Net(), state(2).requires_grad_(), times(2), adjoint_options={"max_num_steps": 2})
    with pytest.raises(AssertionError, match=r"max_num_steps exceeded \(2>=2\)"):
        y.sum().backward()


# --- one solve ----------------------------------------------------------------------------------------------------


class Spiral(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor([[-0.1, 2.0], [-2.0, -0.1]]))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return y**3 @ self.a


def backward_evaluations(net: nn.Module, y0: Tensor, t: Tensor, **how: Any) -> int:
    f = Count(net)
    y = ours.odeint_adjoint(f, y0.requires_grad_(), t, adjoint_params=tuple(net.parameters()), **how)
    calls = f.calls
    (y**2).mean().backward()
    return f.calls - calls


def test_outputs_cost_little_on_the_spiral() -> None:
    """101 outputs cost at most 1.3 times the backward evaluations of 2 (torchdiffeq: 1.95 times)."""
    few, many = (backward_evaluations(Spiral(), torch.tensor([[2.0, 0.0]]), torch.linspace(0, 25, n), rtol=1e-4, atol=1e-6)
                 for n in (2, 101))  # fmt: skip
    assert many <= 1.3 * few, (few, many)


def test_a_short_interval_costs_one_step_and_one_evaluation() -> None:
    weight = nn.Linear(8, 8, bias=False)

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = weight

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return torch.tanh(self.w(y))

    for n in (51, 101):
        assert backward_evaluations(Layer(), torch.randn(16, 8), torch.linspace(0, 1, n)) <= 7 * (n - 1) + 10


@pytest.mark.parametrize("method", [*ADAPTIVE, "rk4", "implicit_adams"])
def test_the_adjoint_never_leaves_the_interval(method: str) -> None:
    f = Count(Net())
    y = ours.odeint_adjoint(
        f,
        state(2).requires_grad_(),
        torch.tensor([0.2, 0.7, 1.0]),
        adjoint_params=(),
        method=method,
        rtol=1e-3,
        atol=1e-3,
    )
    y.sum().backward()
    low, high = float(torch.tensor(0.2)), 1.0
    assert all(low <= t <= high for t in f.times)
