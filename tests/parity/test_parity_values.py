"""Values, shapes and dtypes of ``odeint`` beside torchdiffeq's."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from parity.side_by_side import (
    ADAMS,
    ADAPTIVE,
    FIXED,
    FIXED_RK,
    TOLERANCE,
    Net,
    Pair,
    as_good,
    close,
    ours,
    outcome,
    pair_state,
    reference,
    state,
    theirs,
    times,
)

both = (ours, theirs)


@cache
def solution(reverse: bool) -> torch.Tensor:
    return reference(Net(), state(3, 2), times(reverse=reverse))


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("method", ADAPTIVE)
def test_adaptive_methods(method: str, reverse: bool) -> None:
    net, y0, t, tol = Net(), state(3, 2), times(reverse=reverse), TOLERANCE[method]
    with torch.no_grad():
        a, b = (lib.odeint(net, y0, t, rtol=tol, atol=tol, method=method) for lib in both)
    as_good(a, b, solution(reverse), tol)
    assert torch.equal(a[0], y0)


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "backward"])
def test_tsit5_which_torchdiffeq_on_pypi_lacks(reverse: bool) -> None:
    a = ours.odeint(Net(), state(3, 2), times(reverse=reverse), rtol=1e-8, atol=1e-8, method="tsit5")
    close(a.detach(), solution(reverse), 1e-7)


@pytest.mark.parametrize("method", ["dopri8", "dopri5", "bosh3"])
@pytest.mark.parametrize("shape", [(), (1,), (2, 2), (2, 1, 3)], ids=str)
def test_any_shape(method: str, shape: tuple[int, ...]) -> None:
    def f(t, y):
        return torch.cos(y) * torch.sin(3 * t)

    a, b = (lib.odeint(f, state(*shape), times(), rtol=1e-6, atol=1e-6, method=method) for lib in both)
    as_good(a, b, reference(f, state(*shape), times()), 1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("t_dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("method", ["dopri5", "bosh3", "rk4", "implicit_adams"])
def test_dtypes_of_state_and_times(method: str, dtype: torch.dtype, t_dtype: torch.dtype) -> None:
    a, b = (lib.odeint(Net(dtype), state(2, dtype=dtype), times(20, dtype=t_dtype), rtol=1e-5, atol=1e-5, method=method)
            for lib in both)  # fmt: skip
    as_good(a, b, reference(Net(), state(2), times(20)), 1e-5)
    assert a.dtype == dtype


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("method", FIXED_RK)
def test_fixed_steps_on_the_times_are_the_same_numbers(method: str, reverse: bool) -> None:
    a, b = (lib.odeint(Net(), state(2), times(6, reverse=reverse), method=method) for lib in both)
    close(a, b, 1e-13)


@pytest.mark.parametrize("interp", ["linear", "cubic"])
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("method", FIXED_RK)
def test_step_size_and_interpolation(method: str, reverse: bool, interp: str) -> None:
    options = {"step_size": 0.11, "interp": interp}
    t = times(5, reverse=reverse)
    a, b = (lib.odeint(Net(), state(2), t, method=method, options=options) for lib in both)
    close(a, b, 1e-12)
    assert options == {"step_size": 0.11, "interp": interp}


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("method", ["euler", "rk4"])
def test_grid_constructor(method: str, reverse: bool) -> None:
    t = times(3, reverse=reverse)
    results = []
    for lib in both:
        calls = []

        def grid(func, y0, t, calls=calls):
            calls.append(t.clone())
            return torch.cat([t[:1], t[0] + (t[-1] - t[0]) * torch.tensor([0.2, 0.5, 0.6]), t[-1:]])

        options = {"grid_constructor": grid, "interp": "linear"}
        results.append(lib.odeint(Net(), state(2), t, method=method, options=options))
        assert len(calls) == 1
        assert torch.equal(calls[0], t)
    close(*results, 1e-12)


@pytest.mark.parametrize("method", FIXED_RK)
def test_perturb(method: str) -> None:
    """``perturb=True`` asks f at the neighbours of the ends of each step: the same times, one by one."""
    asked = []
    for lib in both:
        seen: list[float] = []

        def f(t, y, seen=seen):
            seen.append(t.item())
            return -y * t

        lib.odeint(f, state(2), times(3), method=method, options={"perturb": True})
        asked.append(seen)
    assert asked[0] == pytest.approx(asked[1], abs=3e-16)
    assert asked[0][0] > 0.1


@pytest.mark.parametrize("max_order", [4, 5, 6, 8, None])
@pytest.mark.parametrize("method", ADAMS)
def test_adams_on_an_even_grid(method: str, max_order: int | None) -> None:
    """torchdiffeq starts with rk4 whatever the order, and its default order is unstable; the errors of ours are no larger."""
    t = torch.linspace(0, 1, 41, dtype=torch.float64)
    how = {
        "rtol": 1e-9,
        "atol": 1e-12,
        "method": method,
        "options": {} if max_order is None else {"max_order": max_order},
    }
    with torch.no_grad():
        a, b = (lib.odeint(Net(), state(2), t, **how) for lib in both)
    as_good(a, b, reference(Net(), state(2), t), 1e-11)


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("solver", ["LSODA", "RK45", "RK23", "DOP853", "Radau", "BDF"])
def test_scipy_solver(solver: str, reverse: bool) -> None:
    how = {"rtol": 1e-7, "atol": 1e-8, "method": "scipy_solver", "options": {"solver": solver}}
    with torch.no_grad():
        (_, a, _), (_, b, _) = (
            outcome(lambda lib=lib: lib.odeint(Net(), state(3, 2), times(reverse=reverse), **how)) for lib in both
        )
    close(a, b, 1e-8)


@cache
def pair_solution(reverse: bool) -> tuple[torch.Tensor, torch.Tensor]:
    return reference(Pair(), pair_state(), times(30, reverse=reverse))


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("method", ["dopri5", "dopri8", "bosh3", "rk4", "euler", "implicit_adams", "scipy_solver"])
def test_tuple_state(method: str, reverse: bool) -> None:
    with torch.no_grad():
        t = times(30, reverse=reverse)
        a, b = (lib.odeint(Pair(), pair_state(), t, rtol=1e-6, atol=1e-6, method=method) for lib in both)
    for x, y, exact in zip(a, b, pair_solution(reverse)):
        as_good(x, y, exact, 1e-6)


def test_tuple_of_one_and_of_mixed_dtypes() -> None:
    a, b = (lib.odeint(lambda t, y: (-y[0],), (state(2),), times()) for lib in both)
    close(a, b, 1e-6)
    mixed = (state(2, dtype=torch.float32), state(3))
    a, b = (lib.odeint(lambda t, y: (-y[0], t * y[1]), mixed, times()) for lib in both)
    close(a, b, 1e-6)


@pytest.mark.parametrize("method", ["dopri5", "rk4"])
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=str)
def test_complex_state(method: str, dtype: torch.dtype) -> None:
    a, b = (lib.odeint(lambda t, y: 1j * y * (1 + t), state(3, dtype=dtype), times(20), rtol=1e-5, atol=1e-5, method=method)
            for lib in both)  # fmt: skip
    close(a, b, 1e-4)


@pytest.mark.parametrize("method", ["dopri5", "bosh3", "rk4", "explicit_adams"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("half_times", [False, True])
def test_half_precision(method: str, dtype: torch.dtype, half_times: bool) -> None:
    t = times(6, dtype=dtype if half_times else torch.float64)
    a, b = (
        lib.odeint(lambda t, y: -y * t, state(3, dtype=dtype), t, rtol=1e-2, atol=1e-2, method=method) for lib in both
    )
    exact = state(3) * torch.exp((0.01 - times(6) ** 2) / 2)[:, None]
    as_good(a, b, exact, torch.finfo(dtype).eps)


@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_autocast(method: str) -> None:
    """A float32 state stays float32 to its own precision; only f runs in bfloat16."""
    net = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
    with torch.autocast("cpu", torch.bfloat16):
        a, b = (lib.odeint(lambda t, y: net(y), state(4, 2, dtype=torch.float32), times(3), rtol=1e-2, atol=1e-2, method=method)
                for lib in both)  # fmt: skip
        still = ours.odeint(
            lambda t, y: torch.full_like(y, 1 / 3), torch.ones(2), torch.tensor([0.0, 1.0]), method=method
        )
    close(a.detach(), b.detach(), 2e-2)
    assert (still[1] - 4 / 3).abs().max() < 1e-6


@pytest.mark.parametrize("method", ["dopri5", "rk4", "scipy_solver", "implicit_adams"])
def test_one_time(method: str) -> None:
    for lib in both:
        assert torch.equal(lib.odeint(lambda t, y: -y, state(2), torch.tensor([0.3]), method=method), state(2)[None])


@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_an_empty_batch_gives_an_empty_result(method: str) -> None:
    """torchdiffeq's adaptive methods raise "underflow in dt 0.0"."""
    assert ours.odeint(lambda t, y: -y, torch.zeros(0, 2), times(3), method=method).shape == (3, 0, 2)


def test_func_gets_the_time_in_the_dtype_of_the_state() -> None:
    for lib in both:
        seen = set()

        def f(t, y, seen=seen):
            seen.add((t.dtype, t.shape))
            return -y

        for method in ("dopri5", "rk4"):
            lib.odeint(f, state(2, dtype=torch.complex64), times(3), method=method, rtol=1e-3, atol=1e-3)
        assert seen == {(torch.float32, torch.Size([]))}


def test_func_may_use_autograd_inside() -> None:
    def field(t, y):
        with torch.enable_grad():
            y = y.requires_grad_(True)
            return torch.autograd.grad(-(y**2).sum() / 2, y)[0]

    for method in ("dopri5", "rk4"):
        with torch.no_grad():
            a, b = (lib.odeint(field, state(2), times(20), rtol=1e-6, atol=1e-6, method=method) for lib in both)
        close(a, b, 1e-5)


def test_func_may_return_what_broadcasts_to_the_state_or_another_dtype() -> None:
    a = ours.odeint(lambda t, y: torch.ones((), dtype=torch.int64), state(2), times(3))
    close(a, state(2) + (times(3) - 0.1)[:, None], 1e-9)
    a, b = (lib.odeint(lambda t, y: -y.double(), state(2, dtype=torch.float32), times(3)) for lib in both)
    close(a, b, 1e-5)


@pytest.mark.parametrize("method", ["dopri5", "rk4", "explicit_adams"])
def test_options_are_never_changed(method: str) -> None:
    options: dict = {}
    ours.odeint(Net(), state(2), times(3, reverse=True), method=method, options=options)
    assert options == {}
    options = {"step_t": torch.tensor([0.5]), "jump_t": [0.7]}
    copy = dict(options)
    ours.odeint(Net(), state(2), times(3, reverse=True), options=options)
    ours.odeint_adjoint(
        Net(), state(2), times(3, reverse=True), options=options, adjoint_options=options
    ).sum().backward()
    assert options == copy


def test_public_names() -> None:
    import torchivp

    assert ours.__version__ == theirs.__version__
    for name in ("odeint", "odeint_adjoint", "odeint_event", "odeint_dense"):
        assert getattr(torchivp, name) is getattr(ours, name)


@pytest.mark.parametrize("method", [m for m in FIXED if m != "euler"])
def test_fixed_methods_ignore_norms_and_tolerances(method: str) -> None:
    t = torch.linspace(0, 1, 21, dtype=torch.float64)
    norm = {"norm": lambda x: 1 / 0}
    a = ours.odeint(Net(), state(2), t, method=method, options=norm)
    close(a, ours.odeint(Net(), state(2), t, method=method, rtol=1e-9, atol=1e-11), 1e-7)
