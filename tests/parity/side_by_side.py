"""What the parity tests share: both libraries, small problems, and comparisons."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

theirs = pytest.importorskip("torchdiffeq", reason="torchdiffeq is not installed")
ours = importlib.import_module("torchivp.compat.torchdiffeq")

ADAPTIVE = ("dopri8", "dopri5", "bosh3", "fehlberg2", "adaptive_heun")
FIXED_RK = ("euler", "midpoint", "heun2", "heun3", "rk4")
ADAMS = ("explicit_adams", "implicit_adams", "fixed_adams")
FIXED = (*FIXED_RK, *ADAMS)
# Second-order methods need too many steps for tight tolerances.
TOLERANCE = {"dopri8": 1e-9, "dopri5": 1e-8, "tsit5": 1e-8, "bosh3": 1e-6, "fehlberg2": 1e-5, "adaptive_heun": 1e-5}


class Net(nn.Module):
    """A small non-autonomous, nonlinear vector field on ``[..., 2]``."""

    def __init__(self, dtype: torch.dtype = torch.float64):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[-0.3, 1.1], [-0.9, -0.2]], dtype=dtype))
        self.bias = nn.Parameter(torch.tensor([0.1, -0.4], dtype=dtype))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return torch.tanh(y @ self.weight + self.bias) * (1 + 0.5 * torch.cos(2 * t)) - 0.2 * y


class Pair(nn.Module):
    """The same on a tuple of a ``[2]`` and a ``[3, 1]``."""

    def __init__(self, dtype: torch.dtype = torch.float64):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.7, -0.4], dtype=dtype))

    def forward(self, t: Tensor, y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        a, b = y
        return torch.sin(t) * self.weight * a - b.mean(), torch.cos(b) * self.weight[0] - 0.1 * a.sum()


def state(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Fixed numbers of size one in any shape."""
    n = torch.Size(shape).numel()
    real = torch.linspace(-0.8, 1.2, n, dtype=torch.float64).reshape(shape) + 0.1
    return (torch.complex(real, real.flip(0) if shape else real * 0.3) if dtype.is_complex else real).to(dtype)


def pair_state(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    return state(2, dtype=dtype), state(3, 1, dtype=dtype)


def times(n: int = 4, *, end: float = 1.5, dtype: torch.dtype = torch.float64, reverse: bool = False) -> Tensor:
    """Uneven times from 0.1 to ``end``."""
    t = 0.1 + (end - 0.1) * torch.linspace(0, 1, n, dtype=torch.float64) ** 1.5
    return (t.flip(0) if reverse else t).to(dtype)


def close(a: Any, b: Any, tol: float) -> None:
    """Same structure, shapes and dtypes; values within ``tol`` of each other, relative to 1 + the value."""
    if isinstance(b, tuple | list):
        assert type(a) is type(b)
        assert len(a) == len(b)
        for x, y in zip(a, b):
            close(x, y, tol)
        return
    assert a.shape == b.shape
    assert a.dtype == b.dtype
    error = ((a - b).abs() / (1 + b.abs())).max().item() if b.numel() else 0.0
    assert error <= tol, f"{error:.2e} > {tol:.0e}"


def reference(func: Callable[..., Any], y0: Tensor, t: Tensor) -> Tensor:
    """The solution to about 1e-11. Small steps of order 5, because torchdiffeq's interpolation is less exact than they."""
    with torch.no_grad():
        return theirs.odeint(func, y0, t, rtol=1e-12, atol=1e-12, options={"max_step": 0.05})


def as_good(a: Tensor, b: Tensor, exact: Tensor, tol: float) -> None:
    """``a`` is within 10 tolerances of the exact solution, or at least about as close to it as torchdiffeq's ``b``."""
    assert a.shape == b.shape
    assert a.dtype == b.dtype
    size = 1 + exact.abs()
    error, their_error = (((x.detach() - exact).abs() / size).max().item() for x in (a, b))
    assert error <= max(10 * tol, 2 * their_error), f"{error:.2e}, theirs {their_error:.2e}, tolerance {tol:.0e}"


def gradients(library: ModuleType, run: Callable[[ModuleType, nn.Module, Any, Tensor], Any], net: Callable[[], nn.Module],
              y0: Any, t: Tensor) -> list[Tensor]:  # fmt: skip
    """Values of ``run``, and gradients of a weighted sum of them with respect to y0, t and the parameters."""
    func = net()
    y0 = tuple(x.clone().requires_grad_() for x in y0) if isinstance(y0, tuple) else y0.clone().requires_grad_()
    t = t.clone().requires_grad_()
    out = run(library, func, y0, t)
    parts = out if isinstance(out, tuple) else (out,)
    loss = sum(
        ((1 + torch.arange(x.numel(), dtype=x.real.dtype).view(x.shape)).cos() * x.abs() ** 2).sum() for x in parts
    )
    wrt = [*(y0 if isinstance(y0, tuple) else (y0,)), t, *func.parameters()]
    grads = torch.autograd.grad(loss, wrt, allow_unused=True)
    return [*(x.detach() for x in parts), *(torch.zeros_like(x) if g is None else g for x, g in zip(wrt, grads))]


def outcome(call: Callable[[], Any]) -> tuple[BaseException | None, Any, list[str]]:
    """Exception, result, and texts of the warnings of a call."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            return None, call(), [str(w.message) for w in caught]
        except Exception as error:
            return error, None, [str(w.message) for w in caught]


class Count:
    """Counts the evaluations of a function and remembers the times."""

    def __init__(self, func: Callable[..., Any]):
        self.func = func
        self.times: list[float] = []

    def __call__(self, t: Tensor, y: Any) -> Any:
        self.times.append(t.item())
        return self.func(t, y)

    @property
    def calls(self) -> int:
        return len(self.times)
