"""Methods that take one part of ``f`` implicitly and the other explicitly, in compiled loops."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import torchivp
from compiled.pairs import assert_same, both, gradients, torch64
from torchivp import Event
from torchivp.gradients import Discrete
from torchivp.manifolds import Sphere
from torchivp.methods import Projected

pytestmark = pytest.mark.compiled

Y0 = torch.tensor([1.0, 0.5], dtype=torch64)
ROWS = torch.tensor([[1.0, 0.5], [2.0, -0.3], [0.1, 0.9]], dtype=torch64)
T = torch.tensor([0.0, 0.13, 0.4, 0.77, 1.0], dtype=torch64)
METHODS = ["kencarp4", "kencarp3", "kencarp5"]


class Stiff(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pull = nn.Parameter(torch.tensor([[30.0, 1.0], [0.5, 50.0]], dtype=torch64))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        t = t.unsqueeze(-1) if y.dim() > 1 and t.dim() else t
        return -(y - torch.cos(6 * t)) @ self.pull - 0.3 * y**2


class Slow(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.drive = nn.Parameter(torch.tensor(1.5, dtype=torch64))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        t = t.unsqueeze(-1) if y.dim() > 1 and t.dim() else t
        return self.drive * torch.sin(5 * t) * y.flip(-1)


def split() -> torchivp.Split:
    return torchivp.Split(Stiff(), Slow())


def solved(runner: str, y0: Tensor, method: Any, **settings: Any) -> list[Tensor]:
    """Values and gradients."""
    f, start = split(), y0.clone().requires_grad_()
    settings = {"rtol": 1e-4, "atol": 1e-5, "batch_dims": y0.dim() - 1, **settings}
    sol = torchivp.solve(f, start, T, method=method, runner=runner, **settings)
    values = sol.y.flatten()
    loss = (values * torch.linspace(0.5, 1.5, len(values), dtype=torch64)).sum()
    return [loss.detach(), *gradients(lambda: loss, [start, f.implicit.pull, f.explicit.drive])]


@pytest.mark.usefixtures("python_loops")
class TestWithoutCompiling:
    @pytest.mark.parametrize(
        "settings",
        [
            {},
            pytest.param({"save": "steps"}, marks=pytest.mark.slow),
            {"t": -0.05 * T},
            {"dense": True, "events": [Event(lambda t, y: y[..., 0] - 0.6)]},
            {"dt": 0.02, "controller": torchivp.FixedSteps(0.02)},
            {"jump_times": [0.31]},
        ],
        ids=["inside", "steps", "backwards", "dense and events", "fixed", "jump"],
    )
    @pytest.mark.parametrize("y0", [Y0, ROWS], ids=["one", "rows"])
    @pytest.mark.parametrize("method", METHODS)
    def test_the_same_steps(self, method: str, y0: Tensor, settings: dict[str, Any]) -> None:
        settings = {"t": T, "rtol": 1e-4, "atol": 1e-5, "batch_dims": y0.dim() - 1, **settings}
        if "controller" in settings:
            del settings["dt"]
        eager, compiled = both(split(), y0, method=method, **settings)
        assert_same(eager, compiled, nfe="jump_times" not in settings or not settings["batch_dims"])
        assert sum(torch.as_tensor(eager.stats.accepted).flatten().tolist()) >= 3

    @pytest.mark.parametrize("y0", [Y0, pytest.param(ROWS, marks=pytest.mark.slow)], ids=["one", "rows"])
    @pytest.mark.parametrize("method", METHODS)
    def test_the_gradient(self, method: str, y0: Tensor) -> None:
        eager, compiled = (solved(runner, y0, method) for runner in ("eager", "compiled"))
        torch.testing.assert_close(compiled, eager, rtol=1e-9, atol=1e-10)

    def test_the_gradient_with_fewer_checkpoints(self) -> None:
        found = [solved(runner, Y0, "kencarp4", gradient=Discrete(every=3)) for runner in ("eager", "compiled")]
        torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=1e-10)

    def test_the_jacobian_of_the_implicit_part(self) -> None:
        f = split()
        how = {"jac": lambda t, y: -f.implicit.pull.T - torch.diag(0.6 * y)}
        assert_same(*both(f, Y0, T, method="kencarp4", rtol=1e-4, **how))

    def test_a_projection_behind_it(self) -> None:
        f = torchivp.Split(lambda t, y: torch.stack([-9 * y[1], 9 * y[0]]), lambda t, y: torch.cos(t) * y.flip(0))
        start = torch.tensor([0.6, 0.8], dtype=torch64)
        assert_same(*both(f, start, T, method=Projected("kencarp4", Sphere()), rtol=1e-4))

    def test_the_sum_where_nobody_takes_it_apart(self) -> None:
        for method in ("tsit5", "trbdf2"):
            assert_same(*both(split(), Y0, T, method=method, rtol=1e-4))


@pytest.mark.slow
def test_compiled() -> None:
    before = len(torchivp.compilations())
    eager, compiled = (solved(runner, Y0, "kencarp4") for runner in ("eager", "compiled"))
    torch.testing.assert_close(compiled, eager, rtol=1e-9, atol=1e-10)
    assert [c.what for c in torchivp.compilations()[before:]] == ["loop", "gradient"]
