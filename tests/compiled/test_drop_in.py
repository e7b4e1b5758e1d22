"""Options of the drop-in, compiled."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from compiled.pairs import SWING, Y0, Swing, torch64
from torchivp import odeint, odeint_dense, odeint_event
from torchivp.compat.torchdiffeq import fixed
from torchivp.compat.torchdiffeq.errors import EventNotFound, MaxStepsExceeded

pytestmark = pytest.mark.compiled

RUNNERS = ("eager", "compiled")
T = torch.tensor([0.0, 0.33, 0.5, 1.27, 1.3, 2.0], dtype=torch64)
METHODS = [
    "rk4", "explicit_adams", "trbdf2",
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("euler", "heun2", "implicit_midpoint", "trapezoid", "sdirk2")),
]  # fmt: skip
CHOICES = [
    {"interp": "linear"}, {"perturb": True}, {"perturb": True, "interp": "linear"},
    {"perturb": True, "interp": "linear", "step_size": None},
]  # fmt: skip


def solved(options: dict[str, Any], **settings: Any) -> list[Tensor]:
    """Values and gradients."""
    f, y0 = Swing(), Y0.clone().requires_grad_()
    y = odeint(f, y0, settings.pop("t", T), options=options, **settings)
    loss = (y * torch.linspace(0.5, 1.5, y.numel(), dtype=torch64).view_as(y)).sum()
    return [y.detach(), *torch.autograd.grad(loss, [y0, *f.parameters()])]


@pytest.mark.parametrize("options", CHOICES, ids=["linear", "perturb", "both", "on the grid of outputs"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.usefixtures("python_loops")
def test_fixed_steps(method: str, options: dict[str, Any]) -> None:
    options = {"step_size": 0.1, **options}
    if options["step_size"] is None:
        del options["step_size"]
    eager, compiled = (solved({"runner": r, **options}, method=method) for r in RUNNERS)
    torch.testing.assert_close(compiled, eager, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("options", [{"interp": "linear"}, {"perturb": True}], ids=["linear", "perturb"])
@pytest.mark.parametrize("method", ["rk4", "explicit_adams"])
@pytest.mark.usefixtures("python_loops")
def test_the_gradient_of_times(method: str, options: dict[str, Any]) -> None:
    found = []
    for runner in RUNNERS:
        t = T.clone().requires_grad_()
        y = odeint(SWING, Y0, t, method=method, options={"step_size": 0.1, "runner": runner, **options})
        found.append(torch.autograd.grad((y * torch.linspace(0.5, 1.5, 12, dtype=torch64).view_as(y)).sum(), t)[0])
    torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("t", [T, -T], ids=["forwards", "backwards"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.usefixtures("python_loops")
def test_f_is_asked_on_the_right_side_of_its_jumps(dtype: torch.dtype, t: Tensor) -> None:
    """Steps end at its jumps; at one itself it would give another value."""
    jump = t[2].to(dtype)

    def f(t: Tensor, y: Tensor) -> Tensor:
        side = torch.sign(t - jump)
        return torch.where(side == 0, torch.full_like(y, torch.nan), side + 0 * y)

    for method in ("rk4", "implicit_euler"):
        found = [
            odeint(f, torch.zeros(1, dtype=dtype), t.to(dtype), method=method, options={"perturb": True, "runner": r})
            for r in RUNNERS
        ]
        assert bool(torch.isfinite(found[1]).all())
        torch.testing.assert_close(found[1], found[0], rtol=1e-6, atol=1e-6)


@pytest.mark.usefixtures("python_loops")
def test_dense_and_events_along_chords() -> None:
    options = {"step_size": 0.1, "interp": "linear"}
    at = torch.linspace(0.05, 1.95, 7, dtype=torch64)
    with torch.no_grad():
        dense = [odeint_dense(SWING, Y0, 0.0, 2.0, method="rk4", options={"runner": r, **options})(at) for r in RUNNERS]
    torch.testing.assert_close(dense[1], dense[0], rtol=1e-10, atol=1e-10)


@pytest.mark.usefixtures("python_loops")
class TestEvents:
    """Steps of one size, without an end."""

    def found(self, runner: str, method: str, **options: Any) -> list[Tensor]:
        f, y0 = Swing(), Y0.clone().requires_grad_()
        options = {"step_size": 0.05, "runner": runner, **options}
        t, y = odeint_event(
            f, y0, torch.tensor(0.0, dtype=torch64), event_fn=lambda t, y: y[0] + 0.1, method=method, options=options,
            odeint_interface=odeint,
        )  # fmt: skip
        return [t.detach(), y.detach(), *torch.autograd.grad(t + y[-1].sum(), [y0, *f.parameters()])]

    @pytest.mark.parametrize(
        "options", [{}, {"interp": "linear"}, {"perturb": True}], ids=["plain", "linear", "perturb"]
    )
    @pytest.mark.parametrize(
        "method", ["rk4", *(pytest.param(x, marks=pytest.mark.slow) for x in ("explicit_adams", "trbdf2"))]
    )
    def test_the_first_one(self, method: str, options: dict[str, Any]) -> None:
        eager, compiled = (self.found(runner, method, **options) for runner in RUNNERS)
        torch.testing.assert_close(compiled, eager, rtol=1e-9, atol=1e-9)

    def test_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(fixed, "MAX_EVENT_STEPS", 100)
        for runner in RUNNERS:
            with pytest.raises(EventNotFound, match="number of iterations 100"), torch.no_grad():
                odeint_event(
                    lambda t, y: 0 * y, Y0, torch.tensor(0.0, dtype=torch64), event_fn=lambda t, y: y[0] + 1, method="euler",
                    options={"step_size": 0.1, "runner": runner},
                )  # fmt: skip


@pytest.mark.usefixtures("python_loops")
class TestBudget:
    """Attempts are counted from output to output."""

    def steps(self, n: int, runner: str, rtol: float = 1e-4, **settings: Any) -> Any:
        options = {"max_num_steps": n, "runner": runner}
        with torch.no_grad():
            return odeint(SWING, Y0, settings.pop("t", T), method="bosh3", rtol=rtol, options=options, **settings)

    def test_enough_for_every_interval(self) -> None:
        least = next(n for n in range(2, 50) if self.works(n, "eager"))
        assert not self.works(least - 1, "compiled")
        assert self.works(least, "compiled")
        pair = [self.steps(least, runner) for runner in RUNNERS]
        torch.testing.assert_close(pair[1], pair[0], rtol=1e-10, atol=1e-10)

    def works(self, n: int, runner: str) -> bool:
        try:
            self.steps(n, runner)
        except MaxStepsExceeded:
            return False
        return True

    @pytest.mark.parametrize("n", [3, 9, 20])
    def test_too_few(self, n: int) -> None:
        said = []
        for runner in RUNNERS:
            with pytest.raises(MaxStepsExceeded) as raised:
                self.steps(n, runner, rtol=1e-9, atol=1e-11)
            said.append(str(raised.value))
        assert said[0] == said[1]

    def test_the_gradient(self) -> None:
        pair = [solved({"max_num_steps": 60, "runner": r}, method="bosh3", rtol=1e-6, atol=1e-7) for r in RUNNERS]
        torch.testing.assert_close(pair[1], pair[0], rtol=1e-9, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["rk4", "implicit_euler"])
def test_compiled(method: str) -> None:
    options = {"interp": "linear", "perturb": True, "step_size": 0.1}
    eager, compiled = (solved({"runner": r, **options}, method=method) for r in RUNNERS)
    torch.testing.assert_close(compiled, eager, rtol=1e-10, atol=1e-10)
