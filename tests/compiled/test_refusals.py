"""What is not compiled: an error that names it, before anything is compiled."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import torchivp
from compiled.pairs import SWING, Y0, torch64
from torchivp import NotCompilable, odeint

pytestmark = pytest.mark.compiled


def solve(f: Any = SWING, y0: Any = Y0, **settings: Any) -> Any:
    with torch.no_grad():
        return torchivp.solve(f, y0, (0.0, 1.0), runner="compiled", **settings)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"method": "bdf"}, "explicit and diagonally implicit Runge-Kutta"),
        ({"y0": Y0 * 1j, "f": lambda t, y: 1j * y}, "complex"),
        ({"on_step": lambda t, y: None}, "on_step"),
        ({"norm": lambda y: y.abs().max() if y[0] > 0 else y.abs().sum()}, "norm"),
    ],
    ids=["bdf", "complex", "on_step", "norm"],
)
def test_settings(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(NotCompilable, match=f"runner='compiled' does not go with.*{named}"):
        solve(**settings)


def test_transforms() -> None:
    with pytest.raises(NotCompilable, match=r"torch\.func"):
        torch.func.grad(lambda y: torchivp.solve(SWING, y, (0.0, 1.0), runner="compiled").y.sum())(Y0)


class Norm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(2).double()

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.norm(y)


class Remembers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("last", torch.zeros(2, dtype=torch64))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        self.last.copy_(y)
        return -y


@pytest.mark.parametrize(
    ("f", "y0", "named"),
    [
        (lambda t, y: -y if y.sum() > 0 else y, Y0, "cannot compile this solve.*(branch|control flow)"),
        (lambda t, y: -y * math.exp(y.sum().item()), Y0, "cannot compile this solve"),
        (lambda t, y: torch.as_tensor(np.sin(y.numpy())), Y0, "cannot compile this solve|writes"),
        (lambda t, y: -y * torch.rand(()), Y0, "random numbers"),
        (lambda t, y: nn.functional.dropout(y, 0.5), Y0, "random numbers"),
        (Norm(), torch.ones(3, 2, dtype=torch64), "writes into its tensors"),
        (Remembers(), Y0, "writes into its tensors"),
        (lambda t, y: -y.double(), torch.ones(2), None),
    ],
    ids=["branch", "item", "numpy", "rand", "dropout", "batch norm", "buffer", "dtype"],
)
def test_functions(f: Any, y0: Tensor, named: str | None) -> None:
    if named is None:
        with pytest.raises(NotCompilable, match="very shape and dtype"):
            solve(f, y0)
        return
    with pytest.raises(NotCompilable, match=f"(?s){named}") as refused:
        solve(f, y0)
    assert "runner='eager'" in str(refused.value)


def test_the_generator_is_left_alone() -> None:
    state = torch.get_rng_state()
    with pytest.raises(NotCompilable):
        solve(lambda t, y: -y * torch.rand(()))
    assert not torch.equal(state, torch.zeros_like(state))


def test_no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    import torch._inductor.config as inductor

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    nowhere = inductor.patch({"cpp.cxx": (None, "/nowhere/g++")})
    with nowhere, pytest.raises(NotCompilable, match=r"C\+\+ compiler"):
        solve(lambda t, y: -0.123 * y, method="euler", dt=0.1, save="end")


class TestDropIn:
    T = torch.tensor([0.0, 0.5, 1.0], dtype=torch64)

    @pytest.mark.parametrize(
        ("method", "options", "named"),
        [
            ("dopri5", {"norm": lambda y: y.abs().mean().item()}, "norm"),
            ("scipy_solver", {}, "takes its steps itself"),
        ],
    )
    def test_options(self, method: str, options: dict[str, Any], named: str) -> None:
        with pytest.raises(NotCompilable, match=named):
            odeint(SWING, Y0, self.T, method=method, options={"runner": "compiled", **options})

    def test_callbacks(self) -> None:
        f = nn.Linear(2, 2).double()
        call = lambda t, y: -y
        call.callback_step = lambda t, y, dt: None  # type: ignore[attr-defined]
        with pytest.raises(NotCompilable, match="callbacks"):
            odeint(call, Y0, self.T, options={"runner": "compiled"})
        del f

    def test_a_name_that_nobody_knows(self) -> None:
        with pytest.raises(torchivp.InputError, match=r"Did you mean 'compiled'"):
            odeint(SWING, Y0, self.T, options={"runner": "compile"})
