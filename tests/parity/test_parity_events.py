"""Events beside torchdiffeq's: ``odeint`` with event_fn, ``odeint_event`` and its gradients."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from parity.side_by_side import ADAPTIVE, FIXED, Count, close, ours, outcome, state, theirs

both = (ours, theirs)
TIGHT = {"rtol": 1e-9, "atol": 1e-10}


class Fall(nn.Module):
    """A falling ball: height and speed, as a tensor ``[2]``."""

    def __init__(self) -> None:
        super().__init__()
        self.gravity = nn.Parameter(torch.tensor(9.8, dtype=torch.float64))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return torch.stack([y[1], -self.gravity + 0 * y[0]])


def start(height: float = 10.0) -> Tensor:
    return torch.tensor([height, 2.0], dtype=torch.float64)


def ground(t: Tensor, y: Tensor) -> Tensor:
    return y[0]


LANDING = (2 + math.sqrt(4 + 2 * 9.8 * 10)) / 9.8
SPAN = torch.tensor([0.0, 1.0], dtype=torch.float64)


@pytest.mark.parametrize("method", [*ADAPTIVE, "tsit5"])
def test_adaptive_methods(method: str) -> None:
    """There is no end time: the landing is after t[1]."""
    t, y = ours.odeint(Fall(), start(), SPAN, event_fn=ground, method=method, rtol=1e-5, atol=1e-5)
    assert t.shape == ()
    assert not t.requires_grad
    assert float(t) == pytest.approx(LANDING, abs=1e-3)
    assert y.shape == (2, 2)
    assert torch.equal(y[0], start())
    assert abs(y[1, 0].item()) < 1e-4


@pytest.mark.parametrize("interp", ["linear", "cubic"])
@pytest.mark.parametrize("method", FIXED)
def test_fixed_methods(method: str, interp: str) -> None:
    options = {"step_size": 0.05, "interp": interp}
    a, b = (lib.odeint(Fall(), start(), SPAN, event_fn=ground, method=method, options=options) for lib in both)
    close(a, b, 1e-6)


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_direction_and_dtype_of_the_time(dtype: torch.dtype, reverse: bool) -> None:
    span = torch.tensor([0.5, -1.0 if reverse else 1.0], dtype=dtype)
    a, b = (
        lib.odeint(lambda t, y: torch.stack([y[1], -y[0]]), state(2), span, event_fn=ground, **TIGHT) for lib in both
    )
    close(a, b, 1e-6 if dtype == torch.float32 else 1e-8)
    assert (a[0] < 0.5) == reverse


def test_several_entries_the_first_sign_change_counts() -> None:
    def walls(t: Tensor, y: Tensor) -> Tensor:
        return torch.stack([y[0], 10.15 - y[0], torch.tensor(5.0) - t])

    a, b = (
        lib.odeint(Fall(), start(), SPAN, event_fn=walls, options={"max_step": 0.02}, rtol=1e-4, atol=1e-9)
        for lib in both
    )
    close(a, b, 1e-7)
    assert a[1][1, 0].item() == pytest.approx(10.15)


def test_tuple_state() -> None:
    def f(t: Tensor, y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return y[1], torch.full_like(y[1], -9.8)

    y0 = (start()[:1], start()[1:])
    a, b = (lib.odeint(f, y0, SPAN, event_fn=lambda t, y: y[0], **TIGHT) for lib in both)
    close(a, b, 1e-8)


def test_zero_at_the_start_is_an_event() -> None:
    for lib in both:
        t, y = lib.odeint(Fall(), start(0.0), SPAN, event_fn=ground)
        assert float(t) == 0
        assert torch.equal(y, torch.stack([start(0.0)] * 2))
    t, _ = ours.odeint(Fall(), start(0.0), SPAN, event_fn=ground, method="rk4", options={"step_size": 0.1})
    assert float(t) == 0  # torchdiffeq steps 20000 times and raises


def test_two_crossings_inside_one_step_are_found() -> None:
    """torchdiffeq looks at the ends of steps only, and takes the third crossing for the first."""
    span = torch.tensor([0.0, 1.0], dtype=torch.float64)

    def band(t: Tensor, y: Tensor) -> Tensor:
        return (y[0] - 0.501) * (y[0] - 0.52) * (y[0] - 3.0)

    how = {"event_fn": band, "options": {"first_step": 0.4}, "rtol": 1e-6, "atol": 1e-6}
    t, _ = ours.odeint(lambda t, y: torch.ones_like(y), torch.zeros(1, dtype=torch.float64), span, **how)
    assert float(t) in (pytest.approx(0.501, abs=1e-6), pytest.approx(3.0, abs=1e-6))


@pytest.mark.parametrize("interface", ["odeint", "odeint_adjoint"])
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "backward"])
def test_gradients_of_time_and_state(interface: str, reverse: bool) -> None:
    results = []
    for lib in both:
        net = Fall()
        y0, t0 = start().requires_grad_(), torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
        t, y = lib.odeint_event(net, y0, t0, event_fn=lambda t, y: y[0] - 1 + 0.3 * t * y[1], reverse_time=reverse,
                                odeint_interface=getattr(lib, interface), **TIGHT)  # fmt: skip
        assert t.shape == ()
        grads = torch.autograd.grad(t.sin() + (y[-1] * torch.tensor([0.5, 0.7])).sum(), [y0, t0, net.gravity])
        results.append([t.detach(), y.detach(), *grads])
    close(*results, 1e-6)


def test_gradients_of_a_tuple_state() -> None:
    results = []
    for lib in both:
        y0 = (start()[:1].requires_grad_(), start()[1:].requires_grad_())
        g = torch.tensor(9.8, dtype=torch.float64, requires_grad=True)

        def fall(t: Tensor, y: tuple[Tensor, Tensor], g: Tensor = g) -> tuple[Tensor, Tensor]:
            return y[1], -g * torch.ones_like(y[1])

        t, (h, v) = lib.odeint_event(fall, y0, SPAN[0], event_fn=lambda t, y: y[0], **TIGHT)
        results.append([t.detach(), h.detach(), v.detach(), *torch.autograd.grad(t + 3 * v[-1].sum(), [*y0, g])])
    close(*results, 1e-6)


def test_parameters_of_the_event_function_get_gradients() -> None:
    """dt/dh = -1 / speed at the landing; torchdiffeq gives None unless h is part of the state."""
    h = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    t, y = ours.odeint_event(
        Fall(), start(), torch.tensor(0.0, dtype=torch.float64), event_fn=lambda t, y: y[0] - h, **TIGHT
    )
    (grad,) = torch.autograd.grad(t, h, retain_graph=True)
    assert float(grad) == pytest.approx(1 / y[-1, 1].item(), rel=1e-6)
    (grad,) = torch.autograd.grad(y[-1, 0], h)
    assert float(grad) == pytest.approx(1.0, rel=1e-6)


def test_the_time_of_odeint_adjoint_has_a_grad_fn() -> None:
    for lib in both:
        t, y = lib.odeint_adjoint(Fall(), start().requires_grad_(), SPAN, event_fn=ground, **TIGHT)
        assert t.grad_fn is not None
        assert y.grad_fn.adjoint_options["norm"]


def test_state_at_the_event_has_the_gradient_at_a_fixed_time() -> None:
    results = []
    for lib in both:
        net, y0 = Fall(), start().requires_grad_()
        _, y = lib.odeint(net, y0, SPAN, event_fn=ground, **TIGHT)
        results.append(list(torch.autograd.grad(y[-1].sum(), [y0, net.gravity])))
    close(*results, 1e-6)


def test_float_start_and_kwargs() -> None:
    t, _ = ours.odeint_event(
        Fall(), start(), torch.tensor([0.0]), event_fn=ground, method="rk4", options={"step_size": 0.05}
    )
    assert t.item() == pytest.approx(LANDING, abs=1e-5)


def test_callbacks_are_not_called_in_the_fixed_event_loop() -> None:
    for lib, method, options in (
        (ours, "rk4", {"step_size": 0.1}),
        (theirs, "rk4", {"step_size": 0.1}),
        (ours, "dopri5", {}),
    ):
        f, calls = Count(Fall()), []
        f.callback_step = lambda t0, y0, dt, calls=calls: calls.append(t0)  # type: ignore[attr-defined]
        lib.odeint(f, start(), SPAN, event_fn=ground, method=method, options=options)
        assert bool(calls) == (method == "dopri5")


@pytest.mark.parametrize(("how", "type_", "text"), [
    ({"method": "rk4"}, AssertionError, "Event handling for fixed step solvers currently requires `step_size`"),
    ({"method": "scipy_solver"}, AttributeError, "integrate_until_event"),
    ({"options": {"max_num_steps": 5}, "event_fn": lambda t, y: y[0] ** 2 + 1.0}, AssertionError, "exceeded (5>=5)"),
    ({"t": torch.linspace(0, 1, 3)}, ValueError, "We require len(t) == 2 when in event handling mode, but got len(t)=3."),
])  # fmt: skip
def test_errors(how: dict[str, Any], type_: type[Exception], text: str) -> None:
    how = {"event_fn": ground, "t": SPAN, **how}
    t = how.pop("t")
    for lib in both:
        error, _, _ = outcome(lambda lib=lib: lib.odeint(Fall(), start(), t, **how))
        assert isinstance(error, type_)
        assert text in str(error)


def test_fixed_steps_give_up_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchdiffeq's words, after its 20000 steps; fewer here, to save time."""
    assert ours.fixed.MAX_EVENT_STEPS == 20000
    monkeypatch.setattr(ours.fixed, "MAX_EVENT_STEPS", 50)
    with pytest.raises(RuntimeError, match=r"Reached maximum number of iterations 50\."):
        ours.odeint(
            Fall(), start(), SPAN, event_fn=lambda t, y: y[0] ** 2 + 1, method="rk4", options={"step_size": 0.1}
        )
