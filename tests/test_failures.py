"""What goes wrong inside a solve: its status, what it says, and what is left of the solve."""

from __future__ import annotations

import math
import re
import signal
import subprocess
import sys
import time
from typing import Any

import pytest
import torch
from torch import Tensor

import torchivp
from torchivp import PID, InputError, SolveError, Status, solve

ONE = torch.ones(1, dtype=torch.float64)
FIXED = [name for name, m in sorted(torchivp.methods.METHODS.items()) if not m().adaptive]
ADAPTIVE = [name for name, m in sorted(torchivp.methods.METHODS.items()) if m().adaptive]


def blows_up(t: Tensor, y: Tensor) -> Tensor:
    """y = 1 / (1 - t)."""
    return y * y


def decay(t: Tensor, y: Tensor) -> Tensor:
    return -y


def fails(status: Status, *args: Any, **options: Any) -> tuple[str, torchivp.Solution]:
    """The message of a failure, checked in both ways of failing."""
    sol = solve(*args, **options, throw=False)
    assert sol.status is status, sol
    assert not sol.success
    with pytest.raises(SolveError) as caught:
        solve(*args, **options)
    assert str(caught.value) == sol.message
    assert isinstance(caught.value, torchivp.TorchIVPError)
    part = caught.value.solution
    assert part.status is status
    assert torch.equal(part.t, sol.t)
    assert "\n" not in sol.message
    return sol.message, sol


def number(text: str, before: str) -> float:
    found = re.search(re.escape(before) + r"([-+0-9.e]+)", text)
    assert found, text
    return float(found[1].rstrip("."))


# ---- max_steps


def test_max_steps() -> None:
    """When, how long the step, how many steps, where in the state, and what to try."""

    def f(t: Tensor, y: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"slow": -y["slow"], "fast": 300 * torch.cos(300 * t) * torch.tensor([0.0, 1.0])}

    y0 = {"slow": torch.ones(3), "fast": torch.zeros(2)}
    text, sol = fails(Status.MAX_STEPS, f, y0, torch.linspace(0, 3, 301), max_steps=50)
    assert "max_steps=50 attempted steps" in text
    assert sol.stats.attempted == 50
    assert f"({sol.stats.accepted} accepted, {sol.stats.rejected} rejected" in text
    assert 0 < number(text, "at t=") < 3
    assert 0 < number(text, "with step size ") < 0.1
    assert "y['fast'][1]" in text
    assert "Loosen rtol and atol, raise max_steps" in text
    assert 2 < len(sol.t) < 301
    torch.testing.assert_close(sol.y["slow"][:, 0], torch.exp(-sol.t).float(), rtol=1e-4, atol=0)
    assert sol.t[-1] <= number(text, "at t=")


@pytest.mark.parametrize("method", FIXED)
def test_max_steps_of_a_fixed_grid(method: str) -> None:
    text, sol = fails(Status.MAX_STEPS, decay, ONE, torch.linspace(0, 1, 101), method=method, max_steps=10)
    assert "max_steps=10" in text
    assert number(text, "at t=") == pytest.approx(0.1)
    assert sol.stats.accepted == 10
    assert len(sol.t) == 11


def test_exactly_enough_steps_are_enough() -> None:
    used = solve(decay, ONE, 1.0).stats.attempted
    assert solve(decay, ONE, 1.0, max_steps=used).success
    assert solve(decay, ONE, 1.0, max_steps=used - 1, throw=False).status is Status.MAX_STEPS


def test_going_on_after_max_steps() -> None:
    """The part done is not lost."""
    whole = solve(decay, ONE, 5.0, save="steps", rtol=1e-8)
    first = solve(decay, ONE, 5.0, save="steps", rtol=1e-8, max_steps=12, throw=False)
    rest = solve(decay, None, 5.0, save="steps", rtol=1e-8, start=first)
    assert torch.equal(torch.cat([first.t, rest.t[1:]]), whole.t)
    assert torch.equal(torch.cat([first.y, rest.y[1:]]), whole.y)


# ---- step too small


@pytest.mark.parametrize("method", ADAPTIVE)
def test_a_singularity(method: str) -> None:
    options: dict[str, Any] = {"rtol": 1e-3, "atol": 1e-3, "max_steps": 3000}
    sol = solve(blows_up, ONE, (0.0, 2.0), method=method, throw=False, save="steps", **options)
    assert sol.status in (Status.STEP_TOO_SMALL, Status.NONFINITE_SLOPE, Status.NEWTON_FAILED)
    assert number(sol.message, "at t=") == pytest.approx(1.0, abs=0.1)
    assert torch.isfinite(sol.y).all()
    assert (sol.t.diff() > 0).all()


def test_a_singularity_backwards_in_time() -> None:
    text, sol = fails(
        Status.STEP_TOO_SMALL, lambda t, y: -y * y, torch.stack([ONE[0], 0 * ONE[0]]), torch.linspace(0, -2, 21)
    )
    assert number(text, "at t=") == pytest.approx(-1.0, abs=1e-4)
    assert "y[0] (1 of 2 entries)" in text
    assert number(text, "with step size ") < 1e-12
    for hint in ("tolerance cannot be met", "singularity", "jump_times", "loosen rtol and atol", "float64"):
        assert hint in text
    assert sol.t.tolist() == torch.linspace(0, -2, 21).double()[: len(sol.t)].tolist()
    torch.testing.assert_close(sol.y[:10, 0], 1 / (1 + sol.t[:10]), rtol=1e-4, atol=0)


# ---- nan and inf


@pytest.mark.parametrize(
    ("method", "bad"),
    [
        *((m, math.nan) for m in (*ADAPTIVE, "euler", "rk4", "explicit_adams", "implicit_adams")),
        ("tsit5", math.inf),
        ("rk4", -math.inf),
    ],
)
def test_a_slope_that_becomes_nan_or_inf(method: str, bad: float) -> None:
    def f(t: Tensor, y: dict[str, Tensor]) -> dict[str, Tensor]:
        spoilt = torch.where(t > 0.5, bad, -1.0) * torch.tensor([[1.0, 1.0], [1.0, 0.0]])
        return {"a": -y["a"], "b": torch.where(spoilt == 0, -1.0, spoilt) if bad == bad else spoilt}

    y0 = {"a": torch.ones(2), "b": torch.ones(2, 2)}
    dt = None if method in ADAPTIVE else 0.05
    loose = {"method": method, "dt": dt, "rtol": 1e-3, "atol": 1e-3}
    text, sol = fails(Status.NONFINITE_SLOPE, f, y0, torch.linspace(0, 1, 11), **loose)
    assert number(text, "at t=") == pytest.approx(0.5, abs=0.051)
    assert number(text, "with step size ") < 0.051
    if not torchivp.methods.METHODS[method].uses_jacobian:  # a linear solve spreads nan over the state
        assert "y['b'][0, 0], y['b'][0, 1], y['b'][1, 0]" in text
    assert "Check f near that time" in text
    assert 5 <= len(sol.t) <= 6
    torch.testing.assert_close(sol.y["a"][:, 0], torch.exp(-sol.t).float(), rtol=0.05, atol=0)
    torch.testing.assert_close(sol.y["b"][:, 0, 0], 1 - sol.t.float(), rtol=0, atol=1e-5)
    for save in ("steps", "end") if method in ("dopri8", "rk4") else ():
        part = solve(f, y0, 1.0, save=save, throw=False, **loose)
        assert all(torch.isfinite(x).all() for x in part.y.values())
        assert 0.4 < part.t[-1] <= 0.551


@pytest.mark.parametrize("method", ["tsit5", "dopri8", "rk4", "explicit_adams"])
@pytest.mark.parametrize("gradient", ["discrete", "direct", "adjoint"])
def test_a_slope_that_is_nan_from_the_start(method: str, gradient: str) -> None:
    w = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    y0 = torch.ones(3, dtype=torch.float64)
    bad = torch.tensor([1.0, math.nan, math.inf], dtype=torch.float64)
    text, sol = fails(
        Status.NONFINITE_SLOPE, lambda t, y: w * bad, y0, torch.linspace(2, 3, 11), method=method, gradient=gradient
    )
    assert number(text, "at t=") == 2
    assert "y[1], y[2] (2 of 3 entries)" in text
    assert sol.t.tolist() == [2.0]
    assert torch.equal(sol.y.detach(), y0.unsqueeze(0))


@pytest.mark.parametrize("method", ["tsit5", "rk4", "implicit_adams"])
@pytest.mark.parametrize("t", [(0.0, 1.0), (1.0, 1.0), (1.0, 0.0)])
def test_a_state_that_is_nan_from_the_start(method: str, t: tuple[float, float]) -> None:
    y0 = {"a": torch.ones(2), "b": torch.tensor([[1.0, math.nan], [math.inf, 1.0]])}
    text, sol = fails(Status.NONFINITE_STATE, lambda t, y: {k: -v for k, v in y.items()}, y0, t, method=method)
    assert "y0['b'][0, 1], y0['b'][1, 0] (2 of 6 entries)" in text
    assert f"at t={t[0]:g}" in text
    assert "isfinite(y0)" in text
    assert sol.stats.accepted == 0
    assert torch.equal(sol.y["a"][0], y0["a"])
    scalar, _ = fails(Status.NONFINITE_STATE, decay, math.nan, 1.0, method=method)
    assert "y0 (1 of 1 entries)" in scalar


def test_many_bad_entries_are_not_all_listed() -> None:
    text, _ = fails(Status.NONFINITE_STATE, decay, torch.full((100,), math.nan), 1.0)
    assert "and 96 more (100 of 100 entries)" in text
    assert len(text) < 400


DOMAINS: dict[str, tuple[Any, float, float, Any]] = {
    # f is nan or inf beyond the domain, and the first steps overshoot it
    "square root": (lambda t, y: -torch.sqrt(y), 1.0, 1.9, lambda t: (1 - t / 2) ** 2),
    "logarithm": (
        lambda t, y: -torch.log(t.new_tensor(2.0)) * torch.exp2(-torch.log2(y)) * y * y,
        1.0,
        3.0,
        lambda t: 2.0**-t,
    ),
    "division": (lambda t, y: -0.5 / y * torch.where(y > 0, 1.0, math.nan), 1.0, 0.99, lambda t: math.sqrt(1 - t)),
    "infinite": (lambda t, y: torch.where(y >= 0, -y, math.inf), 1.0, 3.0, lambda t: math.exp(-t)),
}


@pytest.mark.parametrize("name", DOMAINS)
@pytest.mark.parametrize("method", ["tsit5", "dopri5", "dopri8", "bosh3", "adaptive_heun"])
def test_steps_that_leave_the_domain_are_taken_again(method: str, name: str) -> None:
    f, y0, t1, exact = DOMAINS[name]
    sol = solve(f, y0 * ONE, (0.0, t1), method=method, dt=min(t1, 2.5), rtol=1e-5, atol=1e-5, save="steps")
    assert sol.success
    assert torch.isfinite(sol.y).all()
    assert sol.stats.rejected >= 1
    assert sol.y[-1].item() == pytest.approx(exact(t1), abs=2e-4)


def test_they_are_taken_again_below_min_step_too() -> None:
    sol = solve(DOMAINS["square root"][0], ONE, (0.0, 1.9), controller=PID(min_step=0.5), dt=1.9)
    assert sol.y[-1].item() == pytest.approx(0.0025, abs=0.05)
    nan = lambda t, y: y * math.nan if t > 0.5 else -y
    bad = solve(nan, ONE, 1.0, controller=PID(min_step=0.1), throw=False, max_steps=2000)
    assert bad.status is Status.NONFINITE_SLOPE


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16], ids=str)
@pytest.mark.parametrize("method", ["adaptive_heun", "fehlberg2", "bosh3", "dopri8"])
def test_no_accepted_state_is_infinite(method: str, dtype: torch.dtype) -> None:
    """Overflow in the very last addition of a step: the infinite state makes its own tolerance infinite."""
    start = 1e4 if dtype == torch.float16 else torch.finfo(dtype).max / 1e6
    sol = solve(
        lambda t, y: y, torch.full((1,), start, dtype=dtype), (0.0, 300.0), method=method, rtol=0.1, atol=1.0, save="steps",
        throw=False, max_steps=200,
    )  # fmt: skip
    assert not sol.success
    assert torch.isfinite(sol.y).all()
    assert 0 < number(sol.message, "at t=") < 300


# ---- a slope that is none

WRONG: dict[str, tuple[Any, list[str]]] = {
    "shape": (lambda y: y[:1], ["slope of shape (1,)", "state has shape (2,)", "return a tensor of shape (2,)"]),
    "one more axis": (lambda y: y.unsqueeze(0), ["slope of shape (1, 2)", "state has shape (2,)", "return"]),
    "dtype": (lambda y: y.double(), ["dtype torch.float64", "the state has torch.float32", "Make y0 torch.float64"]),
    "complex": (lambda y: y + 0j, ["dtype torch.complex64", "the state has torch.float32", "Make y0"]),
    "nothing": (lambda y: None, ["returned a NoneType", "tensor of shape (2,)", "Return"]),
    "tuple": (lambda y: (y, y), ["returned a tuple", "tensor of shape (2,)", "Return"]),
    "array": (lambda y: y.numpy(), ["returned a ndarray", "tensor of shape (2,)", "Return"]),
    "text": (lambda y: "y", ["returned a str", "Return"]),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("when", ["always", "later"])
@pytest.mark.parametrize("method", ["tsit5", "dopri8", "rk4", "implicit_adams"])
def test_a_slope_that_is_none(method: str, when: str, name: str) -> None:
    wrong, parts = WRONG[name]

    def f(t: Tensor, y: Tensor) -> Any:
        return wrong(y.detach()) if t > 0.5 or when == "always" else -y

    t = torch.linspace(0, 1, 11)
    text, sol = fails(Status.BAD_OUTPUT, f, torch.ones(2), t, method=method)
    for part in parts:
        assert part in text
    if when == "always":
        assert "at t=0" in text
        assert sol.t.tolist() == [0.0]
    else:
        assert 0.1 <= number(text, "at t=") <= 0.51
        assert 2 <= len(sol.t) <= 6
        torch.testing.assert_close(sol.y[:, 0], torch.exp(-sol.t).float(), rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    ("slope", "parts"),
    [
        (lambda y: {"a": y["a"]}, ["structure", "'b'", "in the same structure"]),
        (lambda y: {"a": y["a"], "c": y["b"]}, ["structure", "'c'", "in the same structure"]),
        (lambda y: [y["a"], y["b"]], ["structure", "'b'", "in the same structure"]),
        (lambda y: y["a"], ["structure", "'b'", "in the same structure"]),
        (lambda y: {"a": y["a"], "b": y["b"][:1]}, ["slope['b'] of shape (1,)", "the state['b'] has shape (2,)"]),
        (lambda y: {"a": y["a"], "b": y["a"].double()}, ["slope['b']", "torch.float64"]),
        (lambda y: {"a": y["a"], "b": None}, ["structure", "in the same structure"]),
    ],
)
@pytest.mark.parametrize("gradient", ["discrete", "direct", "adjoint"])
def test_a_slope_of_another_structure(gradient: str, slope: Any, parts: list[str]) -> None:
    w = torch.ones((), requires_grad=True)
    y0 = {"a": torch.ones(2), "b": torch.ones(2)}

    def f(t: Tensor, y: dict[str, Tensor]) -> Any:
        return slope(y) if t > 0.3 else {k: -w * v for k, v in y.items()}

    text, _ = fails(Status.BAD_OUTPUT, f, y0, (0.0, 1.0), gradient=gradient)
    for part in parts:
        assert part in text


@pytest.mark.parametrize(("method", "asked_at_end_by"), [("euler", "dense output"), ("dopri8", "dense output")])
def test_a_wrong_slope_in_the_stages_of_the_dense_output(method: str, asked_at_end_by: str) -> None:
    def f(t: Tensor, y: Tensor) -> Tensor:
        return -y if t < 1 else -y[:1]

    dt = 0.5 if method == "euler" else None
    text, sol = fails(Status.BAD_OUTPUT, f, torch.ones(2), [0.0, 0.9999, 1.0], method=method, dt=dt)
    assert "shape (1,)" in text
    assert sol.t[0] == 0


def test_the_user_s_own_exceptions_pass() -> None:
    class Mine(Exception):
        pass

    def f(t: Tensor, y: Tensor) -> Tensor:
        if t > 0.5:
            raise Mine("inside")
        return -y

    for gradient in ("discrete", "direct", "adjoint"):
        with pytest.raises(Mine, match="inside"):
            solve(f, ONE, 1.0, throw=False, gradient=gradient)


# ---- what is left


@pytest.mark.parametrize("gradient", ["discrete", "direct", "adjoint"])
@pytest.mark.parametrize(("method", "save"), [("tsit5", "t"), ("tsit5", "steps"), ("rk4", "end")])
def test_the_part_done_has_its_gradients(save: str, method: str, gradient: str) -> None:
    """y = y0 exp(w sin t), until f is nan."""
    w = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    y0 = ONE.clone().requires_grad_()

    def f(t: Tensor, y: Tensor) -> Tensor:
        return w * torch.cos(t) * y + (0.0 if t <= 1 else math.nan)

    options = {"method": method, "dt": 0.02 if method == "rk4" else None, "rtol": 1e-7, "atol": 1e-7}
    sol = solve(f, y0, torch.linspace(0, 2, 21), save=save, gradient=gradient, throw=False, **options)
    assert sol.status is Status.NONFINITE_SLOPE
    assert sol.t[-1].item() == pytest.approx(1.0, abs=0.11 if save == "t" else 1e-2)
    s = math.sin(sol.t[-1].item())
    grads = torch.autograd.grad(sol.y[-1].sum(), (y0, w))
    assert [g.item() for g in grads] == pytest.approx([math.exp(s), s * math.exp(s)], rel=1e-5)


# ---- Ctrl-C


class Interrupted:
    """A slope during whose n-th evaluation Ctrl-C is pressed."""

    def __init__(self, n: int, real: bool):
        self.left = n
        self.real = real

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        self.left -= 1
        if self.left == 0:
            if self.real:
                signal.raise_signal(signal.SIGINT)
            else:
                raise KeyboardInterrupt
        return -y


@pytest.mark.parametrize("real", [True, False], ids=["signal", "exception"])
@pytest.mark.parametrize(
    ("method", "gradient"),
    [
        ("tsit5", "discrete"),
        ("tsit5", "adjoint"),
        ("dopri8", "direct"),
        ("rk4", "discrete"),
        ("explicit_adams", "direct"),
    ],
)
def test_ctrl_c_returns_the_part_done(gradient: str, method: str, real: bool) -> None:
    t = torch.linspace(0, 5, 101, dtype=torch.float64)
    y0 = ONE.clone().requires_grad_()
    sol = solve(Interrupted(60, real), y0, t, method=method, gradient=gradient, throw=False, rtol=1e-8, atol=1e-8)
    assert sol.status is Status.INTERRUPTED
    assert not sol.success
    assert "interrupted from the keyboard (t=" in sol.message
    assert 5 < len(sol.t) < 101
    torch.testing.assert_close(sol.y[:, 0], torch.exp(-sol.t), rtol=1e-5, atol=0)
    (grad,) = torch.autograd.grad(sol.y[-1].sum(), y0)
    torch.testing.assert_close(grad, torch.exp(-sol.t[-1:]), rtol=1e-5, atol=0)
    rest = solve(decay, None, t[len(sol.t) :], start=sol.detach(), method=method, rtol=1e-8, atol=1e-8)
    assert rest.t[-1] == 5
    assert rest.y[-1].item() == pytest.approx(math.exp(-5), rel=1e-4)


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("method", ["tsit5", "rk4"])
@pytest.mark.parametrize("gradient", ["discrete", "direct", "adjoint"])
def test_ctrl_c_in_the_first_evaluations(gradient: str, method: str, n: int) -> None:
    y0 = ONE.clone().requires_grad_()
    try:
        sol = solve(Interrupted(n, False), y0, torch.linspace(0, 1, 11), method=method, gradient=gradient, throw=False)
    except KeyboardInterrupt:
        pytest.fail("Ctrl-C was raised")
    assert sol.status is Status.INTERRUPTED
    assert sol.t.tolist() == [0.0]


def test_ctrl_c_raises_where_failures_raise() -> None:
    for gradient in ("discrete", "direct", "adjoint"):
        with pytest.raises(KeyboardInterrupt):
            solve(Interrupted(60, True), ONE, 100.0, gradient=gradient)


def test_ctrl_c_in_an_event_or_a_callback() -> None:
    def press(t: Any, y: Any) -> Tensor:
        if t > 0.5:
            raise KeyboardInterrupt
        return y[0]

    for options in ({"events": torchivp.Event(press)}, {"on_step": lambda t, y: press(t, y) is None}):
        sol = solve(decay, ONE, torch.linspace(0, 1, 101), throw=False, **options)
        assert sol.status is Status.INTERRUPTED
        torch.testing.assert_close(sol.y[:, 0], torch.exp(-sol.t), rtol=1e-4, atol=0)


def test_ctrl_c_from_outside() -> None:
    """A process that solves for ever, interrupted as from a keyboard."""
    code = (
        "import torch, torchivp\n"
        "print('running', flush=True)\n"
        "sol = torchivp.solve(lambda t, y: torch.cos(t) * y, torch.ones(1).double(), torch.linspace(0, 1e9, 10),\n"
        "                     max_steps=10**9, save='steps', progress=True, throw=False)\n"
        "print(sol.status.name, sol.t.shape == sol.y[:, 0].shape, len(sol.t) > 1, flush=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "running\n"
        assert process.stderr.read(1)  # the bar: steps are being taken
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert out == "INTERRUPTED True True\n", err


# ---- the door itself


def test_nothing_is_computed_for_nonsense() -> None:
    asked = []

    def f(t: Tensor, y: Tensor) -> Tensor:
        asked.append(t)
        return -y

    for nonsense in ({"method": "x"}, {"save": "x"}, {"dt": -1.0}, {"gradient": "x"}, {"runner": "x"}, {"events": 3}):
        with pytest.raises((InputError, TypeError)):
            solve(f, ONE, 1.0, **nonsense)  # type: ignore[arg-type]
    assert not asked


def test_exceptions_are_a_family() -> None:
    for cls in (InputError, torchivp.InputTypeError, SolveError, torchivp.GradientError, torchivp.OutputError):
        assert issubclass(cls, torchivp.TorchIVPError)
    assert issubclass(InputError, ValueError)
    assert issubclass(torchivp.InputTypeError, TypeError)
    assert issubclass(SolveError, RuntimeError)
