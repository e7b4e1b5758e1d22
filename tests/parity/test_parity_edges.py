"""Corners that an audit against torchdiffeq found: moving jumps, rounded times, settings at their limits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import torchivp
from parity.side_by_side import Count, Net, Pair, close, ours, pair_state, state, theirs, times

both = (ours, theirs)
F64 = torch.float64


def f(t: Tensor, y: Any) -> Any:
    return -y


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("option", ["jump_t", "step_t"])
@pytest.mark.parametrize("end", [0.4, 0.7, 1.0], ids=["at the last time", "at an output", "between"])
def test_times_to_land_on_have_a_gradient(option: str, end: float, reverse: bool) -> None:
    """Also where an output time meets one: it moves with its own time alone."""
    results = []
    for lib in both:
        a, b, tau = (torch.tensor(x, dtype=F64, requires_grad=True) for x in (0.5, 2.0, [0.4]))
        t = torch.tensor([0.0, end / 2, 0.4, end] if end == 0.7 else [0.0, end], dtype=F64)
        t = (t[[0, 2, 3]] if end == 0.7 else t).flip(0) if reverse else t
        t = t.clone().requires_grad_()

        def jumps(t: Any, y: Any, a: Any = a, b: Any = b) -> Any:
            return torch.where(t < 0.4, a, b) * torch.ones_like(y)

        options = {option: tau, "first_step": 0.03, "max_step": 0.05}
        y = lib.odeint(
            jumps if option == "jump_t" else lambda t, y: t * y, torch.ones(1, dtype=F64), t, options=options
        )
        wrt = (a, b, tau, t)
        grads = torch.autograd.grad((y[:, 0] * torch.arange(1.0, len(t) + 1)).sum(), wrt, allow_unused=True)
        results.append(tuple(torch.zeros_like(x) if g is None else g for x, g in zip(wrt, grads)))
    if end == 0.7 and option == "jump_t":
        results = [r[:3] for r in results]  # torchdiffeq asks func on either side at an output time
    close(*results, 1e-4)


def test_the_gradient_of_a_jump() -> None:
    a, b, tau = (torch.tensor(x, dtype=F64, requires_grad=True) for x in (0.5, 2.0, [0.4]))
    t = torch.tensor([0.0, 1.0], dtype=F64)
    y = ours.odeint(lambda t, y: torch.where(t < tau[0], a, b) * torch.ones_like(y), torch.zeros(1, dtype=F64), t,
                    options={"jump_t": tau})  # fmt: skip
    grads = torch.autograd.grad(y[-1, 0], (a, b, tau))
    close(torch.stack([x.reshape(()) for x in grads]), torch.tensor([0.4, 0.6, -1.5], dtype=F64), 1e-12)


def test_events_see_full_precision() -> None:
    """float64 times with adaptive steps also where the state is float32; with fixed steps the state's."""
    for method, options, dtype in (("dopri5", {}, F64), ("rk4", {"step_size": 0.1}, torch.float32)):
        found = []
        for lib in both:
            seen = set()

            def event_fn(t: Any, y: Any, seen: Any = seen) -> Any:
                seen.add(t.dtype)
                return t - 1000.3000001 + 0 * y[0]

            event_t, _ = lib.odeint_event(f, torch.ones(1), torch.tensor(1000.0, dtype=F64), event_fn=event_fn, atol=1e-9,
                                          method=method, options=options)  # fmt: skip
            found.append(event_t)
            assert seen >= {F64, dtype}
        close(*found, 1e-10 if dtype == F64 else 1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "backward"])
def test_the_same_number_of_fixed_steps(dtype: torch.dtype, reverse: bool) -> None:
    for start in (0.0, 0.1, -1.0, 5.0, 100.0):
        for size in (0.1, 0.01, 0.3, 1 / 3, 0.7, 0.025):
            for n in (1, 3, 7, 10.5, 30):
                t = torch.tensor([start, start + n * size], dtype=dtype)
                counts = []
                for lib in both:
                    func = Count(f)
                    options = {"step_size": size}
                    lib.odeint(
                        func, torch.ones(1, dtype=dtype), t.flip(0) if reverse else t, method="euler", options=options
                    )
                    first, last = t.flip(0).tolist() if reverse else t.tolist()
                    inside = {x for x in func.times if abs(x - first) < abs(last - first)}
                    counts.append(len(inside))  # theirs may also have steps of no, or of negative, length
                assert counts[0] == counts[1], f"{t.tolist()}, {size}"


def test_no_crumb_after_times_of_float32() -> None:
    """Of ``solve`` as well; but a step that is meant stays."""
    t = torch.tensor([0.1, 0.2])
    assert torchivp.solve(f, torch.ones(1), t, dt=0.1, method="euler").stats.accepted == 1
    assert torchivp.solve(f, torch.ones(1), t.flip(0), dt=0.01, method="euler").stats.accepted == 10
    assert torchivp.solve(f, torch.ones(1), (0.0, 1.0), dt=0.4999, method="euler").stats.accepted == 3
    assert torchivp.solve(f, torch.ones(1), (0.0, 1e-5), dt=1.0000001e-8, method="euler").stats.accepted == 1000


@pytest.mark.parametrize("solve", ["odeint", "odeint_adjoint"])
def test_fixed_steps_call_the_callbacks_they_have(solve: str) -> None:
    logs = []
    for lib in both:
        net, log = Net(), []
        for name in ("callback_step", "callback_accept_step", "callback_reject_step"):
            for kind in ("", "_adjoint"):
                setattr(net, name + kind, lambda t, y, dt, call=name + kind, log=log: log.append((call, float(t))))
        with pytest.warns(UserWarning, match="does not support callbacks"):
            y = getattr(lib, solve)(net, state(2), times(), method="rk4")
        if solve == "odeint_adjoint":
            with pytest.warns(UserWarning, match="does not support callbacks"):
                y.sum().backward()
        logs.append(log)
    assert logs[0] == logs[1]
    assert {call for call, _ in logs[0]} <= {"callback_step", "callback_step_adjoint"}


def test_the_result_can_be_changed_in_place() -> None:
    for y0, func in ((state(3, 2), Net()), (pair_state(), Pair())):
        results = []
        for lib in both:
            y = lib.odeint_adjoint(func, y0, times())
            for part in y if isinstance(y, tuple) else (y,) * 1:
                assert part.requires_grad
            if not isinstance(y, tuple):
                y.clamp_(-1, 0.5)
            results.append(y)
        close(*results, 1e-6)


SETTINGS: dict[str, dict[str, Any]] = {
    "constant steps": {"ifactor": 1.0, "dfactor": 1.0, "first_step": 0.01},
    "no growth": {"ifactor": 1.0, "first_step": 0.01},
    "least above largest": {"min_step": 1.0, "max_step": 0.1},
    "no safety": {"safety": 0.0, "first_step": 0.01},
    "less than no safety": {"safety": -1.0, "first_step": 0.01},
    "just as long as can be": {"safety": 1.0},
    "no smallest step": {"min_step": -1.0, "dfactor": 0.0},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_of_the_control(name: str) -> None:
    """Steps and values as torchdiffeq has them, up to the one that the end cuts short."""
    steps, values = [], []
    for lib in both:
        net, log = Net(), []
        net.callback_accept_step = lambda t, y, dt, log=log: log.append((t.item(), dt.item()))
        values.append(lib.odeint(net, state(2), times(2), rtol=1e-6, atol=1e-6, options=SETTINGS[name]))
        steps.append(torch.tensor(log, dtype=F64))
    close(*values, 1e-5)
    n = min(map(len, steps)) - 1
    assert abs(len(steps[0]) - len(steps[1])) <= 1
    close(steps[0][:n], steps[1][:n], 1e-6)


def test_constant_steps_that_fail_shrink() -> None:
    """torchdiffeq tries the same step for ever."""
    options = {"ifactor": 1.0, "dfactor": 1.0, "first_step": 1.0}
    y = ours.odeint(f, torch.ones(1, dtype=F64), torch.tensor([0.0, 2.0], dtype=F64), options=options)
    close(y[-1], torch.tensor([-2.0], dtype=F64).exp(), 1e-7)


def test_a_negative_rtol() -> None:
    a, b = (lib.odeint(f, torch.ones(1, dtype=F64), times(2), rtol=-1e-3, atol=2e-3, options={"first_step": 0.01})
            for lib in both)  # fmt: skip
    close(a, b, 2e-3)
    with pytest.raises(ValueError, match="no tolerance"):
        ours.odeint(f, torch.ones(1), times(2), atol=-1e-3)


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("perturb", [False, True])
def test_a_grid_with_repeated_points(perturb: bool, reverse: bool) -> None:
    options = {"grid_constructor": lambda f, y0, t: t.repeat_interleave(2), "perturb": perturb}
    results = []
    for lib in both:
        y0 = state(2).requires_grad_()
        y = lib.odeint(Net(), y0, times(reverse=reverse), method="rk4", options=options)
        results.append((y.detach(), *torch.autograd.grad((y**2).sum(), y0)))
    close(*results, 1e-9)


@pytest.mark.parametrize("kind", [torch.tensor, tuple, list])
def test_an_adjoint_tolerance_for_each_part(kind: Any) -> None:
    """Of ``(t, y, adj_y, *params)``: also in a tensor."""
    results = []
    for lib in both:
        net = Net()
        tols = {"adjoint_rtol": kind([1e-8] * 5), "adjoint_atol": kind([1e-9, 1e-9, 1e-8, 1e-8, 1e-8])}
        y = lib.odeint_adjoint(net, state(3, 2), times(), **tols)
        results.append(torch.autograd.grad((y**2).sum(), list(net.parameters())))
    close(*results, 1e-6)


def test_a_dense_solution_between_times_of_one_element() -> None:
    t0, t1, t = (torch.tensor([x], dtype=F64) for x in (0.1, 1.5, 0.8))
    close(*(lib.odeint_dense(Net(), state(2), t0, t1)(t[0]) for lib in both), 1e-6)
