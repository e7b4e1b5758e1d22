"""Mixed precision around a solve, or inside ``f``: the state, its error and its time stay what they are."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import torchivp
from gradients.comparison import gradients, weighted

BF16 = torch.bfloat16
WAYS = ["direct", "discrete", "adjoint", "interpolated", "gauss", "forward", "reversible"]


class Net(nn.Module):
    """Notes the dtypes it meets; with ``inside`` it switches autocast on by itself."""

    def __init__(self, inside: bool = False):
        super().__init__()
        torch.manual_seed(1)
        self.net = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 3))
        self.inside = inside
        self.seen: set[tuple[torch.dtype, torch.dtype, torch.dtype]] = set()

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        if self.inside:
            with torch.autocast("cpu", BF16):
                slope = self.net(y)
        else:
            slope = self.net(y)
        self.seen.add((t.dtype, y.dtype, slope.dtype))
        return slope


def solve(f: nn.Module, y0: Tensor, gradient: str, **kw: Any) -> torchivp.Solution:
    method = torchivp.methods.Reversible("tsit5") if gradient == "reversible" else "tsit5"
    return torchivp.solve(
        f, y0, (0.0, 0.4, 1.0), method=method, gradient=gradient, **{"rtol": 1e-2, "atol": 1e-2, **kw}
    )


@pytest.mark.parametrize("inside", [False, True], ids=["around", "inside f"])
@pytest.mark.parametrize("gradient", WAYS)
def test_backward_runs_under_the_same_autocast(gradient: str, inside: bool) -> None:
    """Also where it starts outside: f is evaluated again in bfloat16, everything else in float32."""
    f = Net(inside)
    y0 = torch.tensor([[0.5, -0.2, 0.9]], requires_grad=True)
    with torch.autocast("cpu", BF16, enabled=not inside):
        sol = solve(f, y0, gradient)
    assert sol.y.dtype == torch.float32
    found = gradients(weighted(sol.y), [y0, *f.parameters()])
    assert f.seen == {(torch.float32, torch.float32, BF16)}
    assert {g.dtype for g in found} == {torch.float32}
    with torch.autocast("cpu", BF16, enabled=not inside):
        same_way = solve(f, y0, "direct") if gradient != "reversible" else solve(f, y0, "reversible")
    expected = gradients(weighted(same_way.y), [y0, *f.parameters()])
    exact = gradient in ("direct", "discrete", "reversible")
    for a, b in zip(found, expected):
        assert float(torch.linalg.vector_norm(a - b)) <= (2e-2 if exact else 0.1) * float(torch.linalg.vector_norm(b))


def test_where_the_backward_pass_is_called_from_does_not_matter() -> None:
    """f is under the autocast of the forward pass, and nothing else is under any. (Under an outer autocast torch keeps the
    weights it has cast, and adds up their gradients in bfloat16.)"""
    f, y0 = Net(), torch.tensor([[0.5, -0.2, 0.9]], requires_grad=True)
    found = []
    for enabled in (False, True):
        with torch.autocast("cpu", BF16):
            sol = solve(f, y0, "discrete")
        loss = weighted(sol.y)
        with torch.autocast("cpu", BF16, enabled=enabled):
            found.append(gradients(loss, [y0, *f.parameters()]))
    for a, b in zip(*found):
        assert float(torch.linalg.vector_norm(a - b)) <= 0.01 * float(torch.linalg.vector_norm(b))


def caught(run: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("default")
        for _ in range(3):
            run()
    return [str(w.message) for w in found if issubclass(w.category, torchivp.PrecisionWarning)]


def test_a_tolerance_below_the_rounding_is_said_once() -> None:
    f, y0 = Net(), torch.tensor([[0.5, -0.2, 0.9]])
    block = torchivp.nn.ODEBlock(f, (0.0, 0.1), rtol=1e-4, atol=1e-4)

    def under_autocast() -> None:
        with torch.autocast("cpu", BF16):
            block(y0)

    (text,) = caught(under_autocast)
    assert "rtol=0.0001 is below what torch.bfloat16 resolves" in text
    assert "Write rtol=0.008 or more" in text
    (text,) = caught(lambda: torchivp.solve(lambda t, y: -y, y0, (0.0, 0.01), rtol=1e-9, atol=1e-9))
    assert "the state is held in it" in text
    assert "torch.float32" in text


def test_what_is_no_reason_to_warn() -> None:
    f, y0 = Net(), torch.tensor([[0.5, -0.2, 0.9]])

    def quiet() -> None:
        torchivp.solve(f, y0, (0.0, 0.1))  # the defaults
        torchivp.solve(f, y0, (0.0, 0.1), rtol=1e-7, atol=1e-9)  # the drop-in's, in float32
        torchivp.solve(f, y0, (0.0, 0.1), rtol=0.0, atol=1e-4)
        torchivp.solve(f, y0, (0.0, 0.1), method="rk4", rtol=1e-12, atol=1e-12)
        torchivp.odeint(f, y0, torch.tensor([0.0, 0.1]))
        with torch.autocast("cpu", BF16):
            torchivp.solve(f, y0, (0.0, 0.1), rtol=1e-2, atol=1e-2)
            torchivp.odeint(f, y0, torch.tensor([0.0, 0.01]), rtol=1e-4, atol=1e-4)
            torchivp.odeint_adjoint(f, y0, torch.tensor([0.0, 0.01]), rtol=1e-4, atol=1e-4)

    assert caught(quiet) == []
