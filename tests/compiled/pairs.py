"""One function, solved by both runners and compared. Tests share it, because each function and form is compiled once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import torchivp

torch64 = torch.float64


class Swing(nn.Module):
    """A driven, damped oscillator, with parameters; counts its calls as many modules do."""

    def __init__(self, dtype: torch.dtype = torch64):
        super().__init__()
        self.turn = nn.Parameter(torch.tensor([[-0.1, 2.0], [-2.0, -0.1]], dtype=dtype))
        self.drive = nn.Parameter(torch.tensor(0.3, dtype=dtype))
        self.calls = 0

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        self.calls += 1
        t = t.unsqueeze(-1) if y.dim() > 1 else t
        return torch.tanh(y @ self.turn.T) + self.drive * torch.cos(t)


Y0 = torch.tensor([1.0, 0.5], dtype=torch64)
ROWS = torch.tensor([[1.0, 0.5], [3.0, -2.0], [0.1, 0.0]], dtype=torch64)


SWING = Swing()
TIMES = torch.linspace(0.0, 3.0, 7, dtype=torch64)


def both(f: Any, y0: Any, t: Any, args: Any = None, **settings: Any) -> tuple[Any, Any]:
    """Eager and compiled, without gradients."""
    with torch.no_grad():
        return tuple(torchivp.solve(f, y0, t, args, runner=runner, **settings) for runner in ("eager", "compiled"))  # type: ignore[return-value]


def assert_same(eager: Any, compiled: Any, tol: float = 1e-10, nfe: bool = True) -> None:
    """Same times, values, statuses, messages and steps."""
    pairs = zip(torch.utils._pytree.tree_leaves(eager.y), torch.utils._pytree.tree_leaves(compiled.y))
    torch.testing.assert_close(compiled.t, eager.t, rtol=0, atol=1e-9, equal_nan=True)
    for a, b in pairs:
        torch.testing.assert_close(b, a, rtol=tol, atol=tol, equal_nan=True)
    assert compiled.status == eager.status
    assert compiled.message == eager.message
    for name in ("attempted", "accepted", "rejected", *(["nfe", "njev", "nlu"] if nfe else [])):
        a, b = (torch.as_tensor(getattr(sol.stats, name)) for sol in (eager, compiled))
        assert torch.equal(a, b), name


def gradients(loss: Callable[[], Tensor], by: list[Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad(loss(), by))
