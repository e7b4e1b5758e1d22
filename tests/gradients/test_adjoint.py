"""The continuous adjoint against ``direct``: to the tolerance of the solves, and better with tighter ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import torchivp
from gradients.comparison import gradients, weighted
from torchivp.gradients import Adjoint
from torchivp.methods import METHODS

F64 = torch.float64


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 2)).double()

    def forward(self, t: Tensor, y: Tensor, w: Tensor) -> Tensor:
        return self.net(y) * torch.sin(w * t) - y / 2


def difference(times: list[float], way: dict[str, Any], reference: dict[str, Any], **kw: Any) -> float:
    """Norm of the difference between the adjoint's gradient and an exact one, relative to its norm."""
    torch.manual_seed(3)
    f = Net()
    y0 = torch.tensor([0.6, -0.9], dtype=F64, requires_grad=True)
    t = torch.tensor(times, dtype=F64, requires_grad=True)
    w = torch.tensor(2.0, dtype=F64, requires_grad=True)
    inputs = [y0, t, w, *f.parameters()]
    found, exact = (
        torch.cat([g.reshape(-1) for g in gradients(weighted(torchivp.solve(f, y0, t, w, **kw, **settings).y), inputs)])
        for settings in ({"gradient": "adjoint"} | way, {"gradient": "direct"} | reference)
    )
    return float(torch.linalg.vector_norm(found - exact) / torch.linalg.vector_norm(exact))


WITH_SLOPES = [m for m in METHODS if METHODS[m]().carries == "slopes"]
TIGHT = {"method": "dopri8", "rtol": 1e-10, "atol": 1e-10}
FORWARD, BACKWARD = [0.0, 0.3, 1.1, 1.5], [1.5, 1.1, 0.3, 0.0]


@pytest.mark.parametrize("times", [FORWARD, BACKWARD], ids=["increasing", "decreasing"])
@pytest.mark.parametrize("method", [m for m in WITH_SLOPES if METHODS[m]().adaptive])
def test_adaptive_methods(method: str, times: list[float]) -> None:
    """y0, times, args and parameters at once. Where the error estimate is of a higher order q than the method's p, steps h of
    tol^(1 / q) leave errors of the size h^p."""
    order, exponent = METHODS[method]().order, min(1.0, METHODS[method]().order / METHODS[method]().error_order)
    coarse, fine = {2: (1e-3, 1e-5), 3: (1e-3, 1e-6)}.get(order, (1e-4, 1e-8))
    errors = [difference(times, {"method": method, "rtol": tol, "atol": tol}, TIGHT) for tol in (coarse, fine)]
    slack = 1000 if method == "fehlberg2" else 100  # its error estimate is a small fraction of its error
    assert errors[1] < (slack * fine if exponent == 1 else 10 * fine**exponent)
    assert errors[1] < errors[0] or errors[0] < coarse


@pytest.mark.parametrize("method", [m for m in WITH_SLOPES if not METHODS[m]().adaptive])
def test_fixed_steps(method: str) -> None:
    """Converges with the order of the method (euler: of its values)."""
    errors = [difference(FORWARD, {"method": method, "dt": dt}, TIGHT) for dt in (0.1, 0.05)]
    assert errors[1] < 0.7 * errors[0]
    assert errors[1] < (0.2 if METHODS[method]().order == 1 else 0.02)


@pytest.mark.parametrize("save", ["t", "end"])
def test_what_is_saved(save: str) -> None:
    way = {"rtol": 1e-9, "atol": 1e-9, "save": save}
    assert difference(FORWARD, way, {**TIGHT, "save": save}) < 1e-7


def test_stops_and_jumps() -> None:
    kw = {"jump_times": [0.7], "stop_times": [0.2]}
    assert difference(FORWARD, {"rtol": 1e-9, "atol": 1e-9}, TIGHT, **kw) < 1e-7


def test_complex_states_and_pytrees() -> None:
    z0 = torch.tensor([0.5 + 0.4j, -0.1j], requires_grad=True, dtype=torch.complex128)
    x0 = torch.tensor(0.3, dtype=F64, requires_grad=True)
    w = torch.tensor(0.7 - 0.9j, requires_grad=True, dtype=torch.complex128)

    def f(t: Tensor, y: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"z": w * y["z"] * torch.cos(t) - y["x"] * y["z"] ** 2, "x": y["z"].abs().square().sum() - y["x"]}

    found = {}
    for gradient, tol in (("adjoint", 1e-9), ("direct", 1e-11)):
        sol = torchivp.solve(f, {"z": z0, "x": x0}, (0.0, 0.4, 1.2), gradient=gradient, rtol=tol, atol=tol)
        found[gradient] = gradients(weighted(sol.y["z"], sol.y["x"]), [z0, x0, w])
    for a, b in zip(*found.values()):
        assert torch.allclose(a, b, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("method", [m for m in METHODS if m not in WITH_SLOPES])
def test_methods_that_carry_something_else(method: str) -> None:
    """They cannot take the integral of the parameters along; another method does it for them."""
    way = {"method": method, "rtol": 1e-7, "atol": 1e-7}
    with pytest.raises(torchivp.InputError, match=r"cannot take an integral along.*Adjoint\(method='tsit5'\)"):
        difference([0.0, 0.4], way, TIGHT)
    assert difference([0.0, 0.4], {**way, "gradient": Adjoint(method="tsit5")}, TIGHT) < 1e-5
