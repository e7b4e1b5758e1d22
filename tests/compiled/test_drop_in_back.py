"""``odeint_adjoint``: its backward solve through the compiled loop."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import torchivp
from compiled.pairs import TIMES, Y0, Swing, torch64
from compiled.test_undone import Turned
from torchivp import odeint_adjoint
from torchivp.compat.torchdiffeq import backward

pytestmark = pytest.mark.compiled

UNEVEN = torch.tensor([0.0, 0.13, 0.4, 1.1, 3.0], dtype=torch64)


@pytest.fixture
def f(python_loops: None) -> Swing:
    return Swing()


def gradients(f: nn.Module, runner: str, y0: Any = Y0, t: Tensor = UNEVEN, **settings: Any) -> list[Tensor]:
    """By start, times and parameters."""
    given = settings.pop("options", {})
    t = t.clone().requires_grad_()
    parts = [y.clone().requires_grad_() for y in (y0 if isinstance(y0, tuple) else (y0,))]
    start = tuple(parts) if isinstance(y0, tuple) else parts[0]
    settings = {"method": "bosh3", "rtol": 1e-5, "atol": 1e-6, **settings}
    out = odeint_adjoint(f, start, t, options={"runner": runner, **given}, **settings)
    values = torch.cat([y.flatten() for y in (out if isinstance(out, tuple) else (out,))])
    loss = (values * torch.linspace(0.5, 1.5, len(values), dtype=torch64)).sum()
    wanted = [*parts, t, *f.parameters()]
    return list(torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True))


def assert_same(f: nn.Module, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> None:
    """As eagerly, without a step backwards in plain PyTorch."""
    eager = gradients(f, "eager", **settings)
    monkeypatch.setattr(backward, "march", None)
    torch.testing.assert_close(gradients(f, "compiled", **settings), eager, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"t": -UNEVEN},
        {"t": UNEVEN[[0, -1]]},
        {"options": {"step_t": UNEVEN[:3] + 0.05, "jump_t": UNEVEN[:2] + 0.7, "first_step": 0.01}},
        {"options": {"norm": lambda y: y.abs().amax()}},
        {"options": {"norm": "rows"}},
        {"method": "rk4", "options": {"step_size": 0.1}},
        {"method": "dopri5", "adjoint_rtol": 1e-6, "adjoint_atol": 1e-7},
        {"adjoint_options": {"max_step": 0.2}},
        {"adjoint_method": "dopri5", "adjoint_options": {}},
        {"rtol": torch.tensor([1e-5, 1e-3], dtype=torch64), "atol": torch.tensor([1e-6, 1e-4], dtype=torch64)},
        {"adjoint_rtol": (1e-3, 1e-5, 1e-5, 1e-3, 1e-3)},
    ],
    ids=[
        "plain", "backwards in time", "one interval", "stops and jumps", "norm", "rows", "fixed", "tolerances", "options",
        "another method", "a tolerance for each", "a tolerance for each part",
    ],
)  # fmt: skip
def test_the_same_gradients(f: Swing, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    assert_same(f, monkeypatch, **settings)


class Pair(nn.Module):
    """Of a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([0.7, 1.3], dtype=torch64))

    def forward(self, t: Tensor, y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        x, v = y
        return v * self.w[0], -x * self.w[1] + torch.cos(t)


@pytest.mark.parametrize(
    "settings", [{"y0": (Y0, Y0 / 3)}, {"y0": (Y0[:1], Y0[1:]), "adjoint_params": ()}], ids=["pairs", "no parameters"]
)
def test_a_tuple(python_loops: None, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    assert_same(Pair(), monkeypatch, **settings)


def test_only_the_parameters_that_are_asked_for(f: Swing, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others get no gradient."""
    found = []
    for runner in ("eager", "compiled"):
        y0 = Y0.clone().requires_grad_()
        out = odeint_adjoint(f, y0, UNEVEN, method="bosh3", options={"runner": runner}, adjoint_params=(f.drive,))
        found.append(torch.autograd.grad(out.sum(), [y0, f.drive, f.turn], allow_unused=True))
        monkeypatch.setattr(backward, "march", None)
    assert found[0][2] is found[1][2] is None
    torch.testing.assert_close(found[1][:2], found[0][:2], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(
    "settings",
    [
        {"adjoint_options": {"norm": lambda parts: torch.stack([x.abs().amax() for x in parts]).amax()}},
        {"adjoint_options": {"max_num_steps": 1000}},
        {"adjoint_options": {"runner": "eager"}},
        {"method": "trapezoid", "options": {"step_size": 0.1}},
        {"adjoint_method": "scipy_solver", "adjoint_options": {"solver": "RK45"}, "adjoint_rtol": 1e-4},
    ],
    ids=["norm", "max_num_steps", "asked for", "implicit", "scipy"],
)
def test_other_backward_solves_go_on_in_plain_pytorch(f: Swing, settings: dict[str, Any]) -> None:
    eager, compiled = (gradients(f, runner, **settings) for runner in ("eager", "compiled"))
    torch.testing.assert_close(compiled, eager, rtol=1e-9, atol=1e-10)


def test_a_runner_that_nobody_knows() -> None:
    with pytest.raises(torchivp.InputError, match="Did you mean 'compiled'"):
        odeint_adjoint(Swing(), Y0, UNEVEN, adjoint_options={"runner": "compile"})


def test_a_failure_is_torchdiffeqs(f: Swing) -> None:
    for runner in ("eager", "compiled"):
        y0 = Y0.clone().requires_grad_()
        out = odeint_adjoint(f, y0, UNEVEN, method="bosh3", options={"runner": runner})
        with pytest.raises(torchivp.SolveError, match="non-finite values in state"):
            out.backward(torch.full_like(out, torch.inf))


@pytest.mark.slow
def test_compiled() -> None:
    """Twice, the second time with other numbers and without a compilation."""
    f = Turned(2, 2, dtype=torch64)
    for t in (TIMES, TIMES * 0.9):
        before = len(torchivp.compilations())
        eager, compiled = (gradients(f, runner, t=t) for runner in ("eager", "compiled"))
        torch.testing.assert_close(compiled, eager, rtol=1e-9, atol=1e-10)
    assert len(torchivp.compilations()) == before
