"""Steps that end on a manifold, in compiled loops."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

import torchivp
from compiled.pairs import assert_same, both, gradients, torch64
from torchivp import Event, NotCompilable, SecondOrder
from torchivp.gradients import Discrete
from torchivp.manifolds import Orthogonal, Sphere
from torchivp.methods import Projected
from torchivp.runners import cuda_graph

pytestmark = pytest.mark.compiled

T = torch.tensor([0.0, 0.13, 0.4, 0.77, 1.1, 1.5], dtype=torch64)
Y0 = torch.tensor([0.6, 0.0, 0.8], dtype=torch64)
ROWS = normalize(torch.tensor([[0.6, 0.0, 0.8], [1.0, 2.0, -1.0]], dtype=torch64), dim=-1)
CIRCLE = (torch.tensor([1.0, 0.0], dtype=torch64), torch.tensor([0.0, 1.0], dtype=torch64))
CROSSING = Event(lambda t, y: y[..., 0] - 0.1)


class Turning(nn.Module):
    """Around an axis, not quite on the sphere."""

    def __init__(self) -> None:
        super().__init__()
        self.axis = nn.Parameter(torch.tensor([0.3, -0.4, 1.2], dtype=torch64))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        t = t.unsqueeze(-1) if y.dim() > 1 and t.dim() else t
        return torch.linalg.cross((self.axis * torch.cos(t)).expand_as(y), y, dim=-1) + 0.01 * y


METHODS: dict[str, dict[str, Any]] = {
    "tsit5": {"method": Projected("tsit5", Sphere()), "rtol": 1e-4, "atol": 1e-5, "dt": 0.1},
    "rk4": {"method": Projected("rk4", Sphere()), "dt": 0.1},
    "rodas4": {"method": Projected("rodas4", Sphere()), "rtol": 1e-4, "atol": 1e-5, "dt": 0.1},
    "trbdf2": {"method": Projected("trbdf2", Sphere()), "rtol": 1e-4, "atol": 1e-5, "dt": 0.1},
    "implicit_midpoint": {"method": Projected("implicit_midpoint", Sphere()), "dt": 0.1},
    "dop853": {"method": Projected("dop853", Sphere()), "rtol": 1e-4, "atol": 1e-5, "dt": 0.4},
}
methods = pytest.mark.parametrize("how", METHODS.values(), ids=METHODS)


def implicit(how: dict[str, Any]) -> bool:
    return bool(how["method"].base.uses_jacobian)


def assert_same_gradient(f: nn.Module, y0: Tensor, **settings: Any) -> None:
    y0, found, counts = y0.clone().requires_grad_(), [], []
    for runner in ("eager", "compiled"):
        sol = torchivp.solve(f, y0, T, runner=runner, **settings)
        values = sol.y.flatten()
        loss = (values * torch.linspace(0.5, 1.5, len(values), dtype=torch64)).sum()
        found.append([loss.detach(), *gradients(lambda loss=loss: loss, [y0, *f.parameters()])])  # type: ignore[misc]
        counts.append(sol.stats.replayed)
    torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=1e-10)
    assert counts[0] == counts[1] or implicit(settings)  # which need no iterations on the way back


@pytest.mark.usefixtures("python_loops")
class TestWithoutCompiling:
    @pytest.mark.parametrize(
        "settings",
        [{}, {"save": "steps"}, {"jump_times": [-0.7], "t": -T}, {"dense": True, "events": [CROSSING]}],
        ids=["inside", "steps", "jump", "dense and events"],
    )
    @pytest.mark.parametrize("y0", [Y0, ROWS], ids=["one", "rows"])
    @methods
    def test_the_same_steps(self, how: dict[str, Any], y0: Tensor, settings: dict[str, Any]) -> None:
        settings = {"t": T, "batch_dims": y0.dim() - 1, **how, **settings}
        eager, compiled = both(Turning(), y0, **settings)
        assert_same(
            eager, compiled, nfe=("jump_times" not in settings or not settings["batch_dims"]) and not implicit(how)
        )
        if settings.get("save") == "steps" and y0.dim() == 1:
            assert float((compiled.y.norm(dim=-1) - 1).abs().max()) < 1e-15

    @pytest.mark.parametrize("settings", [{}, {"jump_times": [0.7]}, {"save": "steps"}], ids=["times", "jump", "steps"])
    @methods
    def test_the_gradient(self, how: dict[str, Any], settings: dict[str, Any]) -> None:
        assert_same_gradient(Turning(), Y0, **how, **settings)

    @methods
    def test_the_gradient_of_rows(self, how: dict[str, Any]) -> None:
        assert_same_gradient(Turning(), ROWS, batch_dims=1, **how)

    def test_rotations_and_trees(self) -> None:
        f = Turning()
        rotating = lambda t, s: {"r": f(t, s["r"]), "n": torch.cos(t) + 0 * s["n"]}
        start = {"r": torch.eye(3, dtype=torch64).flip(0), "n": torch.zeros(2)}
        rotations = Orthogonal()
        method = Projected("bosh3", lambda s: {"r": rotations(s["r"]), "n": s["n"]})
        assert_same(*both(rotating, start, T, method=method))

    def test_a_tensor_that_the_projection_holds(self) -> None:
        """Its value is an argument of the program."""
        size = torch.tensor(2.0, dtype=torch64)
        method = Projected("bosh3", lambda y: size * normalize(y, dim=-1))
        for factor in (1.0, 1.5):
            size.mul_(factor)
            eager, compiled = both(Turning(), Y0, T, method=method)
            assert_same(eager, compiled)
            torch.testing.assert_close(compiled.y[-1].norm(), size)

    @pytest.mark.parametrize("base", ["tsit5", "kvaerno5"])
    def test_a_radius_that_is_learnt(self, base: str) -> None:
        class OnASphere(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.radius = nn.Parameter(torch.tensor(1.5, dtype=torch64))

            def forward(self, y: Tensor) -> Tensor:
                return self.radius * normalize(y, dim=-1)

        f = Turning()
        f.onto = OnASphere()
        assert_same_gradient(f, Y0, method=Projected(base, f.onto), rtol=1e-4, atol=1e-5, dt=0.1)

    @pytest.mark.parametrize("base", ["tsit5", "trbdf2"])
    def test_the_gradient_with_fewer_checkpoints(self, base: str) -> None:
        how = {**METHODS[base], "gradient": Discrete(every=3)}
        found = []
        for runner in ("eager", "compiled"):
            y0 = Y0.clone().requires_grad_()
            y = torchivp.solve(Turning(), y0, T, runner=runner, **how).y
            found.append(torch.autograd.grad((y * torch.linspace(0.5, 1.5, 18, dtype=torch64).view_as(y)).sum(), y0)[0])
        torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=1e-10)

    def test_the_gradient_of_times(self) -> None:
        found = []
        for runner in ("eager", "compiled"):
            t = T.clone().requires_grad_()
            y = torchivp.solve(Turning(), Y0, t, method=Projected("bosh3", Sphere()), rtol=1e-4, runner=runner).y
            found.append(torch.autograd.grad((y * torch.linspace(0.5, 1.5, 18, dtype=torch64).view_as(y)).sum(), t)[0])
        torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=1e-10)

    def test_rkn4(self) -> None:
        onto = Projected("rkn4", lambda s: tuple(normalize(x, dim=-1) for x in s))
        assert_same(*both(SecondOrder(lambda t, x: -x), CIRCLE, T, method=onto, dt=0.1))

    @pytest.mark.parametrize("how", [METHODS[x] for x in ("tsit5", "rk4", "rodas4")], ids=["tsit5", "rk4", "rodas4"])
    def test_attempts_of_a_cuda_graph(self, how: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cuda_graph, "_KIND", cuda_graph.kind_of(4, captured=False))
        monkeypatch.setattr(cuda_graph, "on_a_gpu", lambda problem: None)
        with torch.no_grad():
            eager, graph = (torchivp.solve(Turning(), Y0, T, runner=r, **how) for r in ("eager", "cuda_graph"))
        assert_same(eager, graph, nfe=not implicit(how))


@pytest.mark.slow
def test_compiled() -> None:
    assert_same_gradient(Turning(), Y0, method=Projected("bosh3", Sphere()))


@pytest.mark.parametrize(
    ("method", "named"),
    [
        (Projected("tsit5", lambda y: y if y.sum() > 0 else -y), "this projection.*(branch|control flow)"),
        (Projected("tsit5", lambda y: y[:2]), "like the one it gets"),
    ],
    ids=["branch", "shape"],
)
def test_what_is_refused(method: Projected, named: str) -> None:
    with torch.no_grad(), pytest.raises(NotCompilable, match=f"(?s){named}"):
        torchivp.solve(Turning(), Y0, T, method=method, runner="compiled")
