"""Methods that carry more than a state and its slope in compiled loops: Adams and reversible ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import torchivp
from compiled.pairs import ROWS, SWING, TIMES, Y0, Swing, assert_same, both, gradients, torch64
from torchivp import Event
from torchivp.gradients import Discrete, Interpolated
from torchivp.methods import ExplicitAdams, ImplicitAdams, Reversible
from torchivp.runners import cuda_graph
from torchivp.runners.compiled import march

pytestmark = pytest.mark.compiled

UNEVEN = torch.tensor([0.0, 0.13, 0.4, 0.77, 1.1, 1.5, 1.55, 2.2, 3.0], dtype=torch64)
CROSSING = Event(lambda t, y: y[..., 0])
END = Event(lambda t, y: t - 2.5 + 0.01 * y[..., 0], terminal=True)
ADAMS: dict[str, Any] = {
    "explicit_adams": {"method": "explicit_adams", "dt": 0.1},
    "implicit_adams": {"method": "implicit_adams", "dt": 0.1},
}
REVERSIBLE: dict[str, Any] = {
    "reversible_heun": {"method": "reversible_heun", "rtol": 1e-2, "atol": 1e-3},
    "alf": {"method": "alf", "rtol": 1e-2, "atol": 1e-3},
    "Reversible": {"method": Reversible("bosh3")},
}
ALL = {**ADAMS, **REVERSIBLE}


def of(methods: dict[str, Any]) -> Any:
    return pytest.mark.parametrize("how", methods.values(), ids=methods)


@pytest.fixture
def f(python_loops: None) -> Swing:
    return Swing()


def loss(f: Swing, runner: str, y0: Tensor, t: Tensor, **settings: Any) -> tuple[Tensor, Any]:
    sol = torchivp.solve(f, y0, t, runner=runner, **settings)
    rows = sol.y if isinstance(sol.y, list) else [sol.y]
    values = torch.cat([y.nan_to_num(0.0).flatten() for y in rows])
    if settings.get("dense"):
        values = torch.cat([values, sol(torch.linspace(0.1, 2.9, 7, dtype=torch64)).flatten()])
    if sol.t_events is not None and not settings.get("batch_dims"):
        values = torch.cat([values, *sol.t_events, *(y.flatten() for y in sol.y_events)])
    return (values * torch.linspace(0.5, 1.5, len(values), dtype=torch64)).sum(), sol


def assert_same_gradient(f: Swing, y0: Tensor, t: Tensor = UNEVEN, **settings: Any) -> None:
    """The same loss, gradients, and evaluations in both directions."""
    y0 = y0.clone().requires_grad_()
    found, counts = [], []
    for runner in ("eager", "compiled"):
        value, sol = loss(f, runner, y0, t, **settings)
        found.append([value.detach(), *gradients(lambda value=value: value, [y0, *f.parameters()])])  # type: ignore[misc]
        counts.append((sol.stats.nfe, sol.stats.replayed))
    torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=1e-10)
    assert counts[0] == counts[1]


class TestWithoutCompiling:
    @pytest.mark.parametrize(
        "settings",
        [{}, {"jump_times": [-0.7], "t": -UNEVEN}, {"save": "steps"}],
        ids=["inside", "jump", "steps"],
    )
    @of(ALL)
    def test_outputs(self, f: Swing, how: dict[str, Any], settings: dict[str, Any]) -> None:
        """At a jump a method starts afresh; what is inside of a step is that method's own interpolant."""
        assert_same(*both(f, Y0, **{"t": UNEVEN, **how, **settings}))

    @of(ALL)
    def test_a_state_in_columns(self, f: Swing, how: dict[str, Any]) -> None:
        def lorenz(t: Tensor, y: Tensor) -> Tensor:
            a, b, c = y.unbind(-1)
            return torch.stack((10 * (b - a), a * (28 - c) - b, a * b - 8 / 3 * c), -1)

        y0 = torch.tensor([1.0, 1.0, 20.0], dtype=torch64)
        how = {**how, "dt": 0.02} if "dt" in how else how
        assert_same(*both(lorenz, y0, UNEVEN[:4], **how))

    @of(REVERSIBLE)
    def test_attempts_of_a_cuda_graph(self, f: Swing, how: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cuda_graph, "_KIND", cuda_graph.kind_of(4, captured=False))
        monkeypatch.setattr(cuda_graph, "on_a_gpu", lambda problem: None)
        with torch.no_grad():
            eager, graph = (torchivp.solve(f, Y0, UNEVEN, runner=r, **how) for r in ("eager", "cuda_graph"))
        assert_same(eager, graph)

    @pytest.mark.parametrize("options", [{}, {"step_size": 0.1}], ids=str)
    def test_the_drop_in(self, f: Swing, options: dict[str, Any]) -> None:
        with torch.no_grad():
            eager, compiled = (
                torchivp.odeint(f, Y0, UNEVEN, method="explicit_adams", options={"runner": runner, **options})
                for runner in ("eager", "compiled")
            )
        torch.testing.assert_close(compiled, eager, rtol=1e-10, atol=1e-10)

    @pytest.mark.slow
    @of(ALL)
    def test_dense_output_and_events(self, f: Swing, how: dict[str, Any]) -> None:
        eager, compiled = both(f, Y0, (0.0, 3.0), dense=True, events=[CROSSING], **how)
        assert_same(eager, compiled)
        assert len(eager.t_events[0])
        times = torch.linspace(0.0, 3.0, 40, dtype=torch64)
        torch.testing.assert_close(compiled(times), eager(times), rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(compiled.t_events[0], eager.t_events[0], rtol=1e-9, atol=1e-9)

    @of(ALL)
    def test_a_solve_that_goes_on(self, f: Swing, how: dict[str, Any]) -> None:
        pair = both(f, Y0, (0.0, 1.0), **how)
        assert_same(*(both(f, None, 2.0, start=sol, **how)[i] for i, sol in enumerate(pair)))

    @pytest.mark.slow
    @of(ALL)
    def test_many_calls_of_the_loop(self, f: Swing, how: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
        """The second call finds the past as the first one left it."""
        monkeypatch.setattr(march, "_FIRST", 2)
        monkeypatch.setattr(march, "_LEAST", 3)
        monkeypatch.setattr(march, "_SECONDS", 0.0)
        assert_same(*both(f, Y0, (0.0, 3.0), save="steps", **how))
        assert_same_gradient(f, Y0, **how)
        assert_same_gradient(f, Y0, gradient=Discrete(every="sqrt"), **how)

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("method", "dt"),
        [
            (ExplicitAdams(1), 0.1),
            (ExplicitAdams(2), 0.1),
            (ExplicitAdams(7), 0.05),
            (ExplicitAdams(12), 0.01),
            (ImplicitAdams(2, corrections=1), 0.1),
            (ImplicitAdams(9, corrections=3), 0.1),
        ],
        ids=repr,
    )
    def test_orders_of_adams(self, f: Swing, method: Any, dt: float) -> None:
        """Also in so few steps that all are the starter's."""
        assert_same(*both(f, Y0, UNEVEN * 0.9, method=method, dt=dt))
        assert_same(*both(f, Y0, UNEVEN[:3], method=method, dt=dt * 4))
        assert_same_gradient(f, Y0, UNEVEN[:4], method=method, dt=dt)

    @pytest.mark.slow
    @pytest.mark.parametrize("base", ["rk4", "dop853", "tsit5"])
    def test_reversible_forms(self, f: Swing, base: str) -> None:
        """Of a base without the slope at the end, with two error estimates, and with an interpolant that is free."""
        how = {"method": Reversible(base, lam=0.9), "dt": {"rk4": 0.2, "dop853": 0.5, "tsit5": None}[base]}
        assert_same(*both(f, Y0, UNEVEN, **how))
        assert_same_gradient(f, Y0, **how)

    def test_of_a_failure_the_same_is_said(self, f: Swing) -> None:
        how = {**REVERSIBLE["reversible_heun"], "max_steps": 12, "throw": False}
        eager, compiled = both(f, Y0, (0.0, 20.0), **how)
        assert_same(eager, compiled)
        assert "max_steps" in str(eager.message)

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "settings",
        [{}, {"dense": True}, {"events": [CROSSING]}, {"events": [END]}],
        ids=["times", "dense", "event", "end"],
    )
    @of(REVERSIBLE)
    def test_rows(self, f: Swing, how: dict[str, Any], settings: dict[str, Any]) -> None:
        assert_same(*both(f, ROWS, UNEVEN, batch_dims=1, **how, **settings))

    @pytest.mark.parametrize(
        "settings",
        [
            {},
            *(
                pytest.param(x, marks=pytest.mark.slow)
                for x in ({"dense": True}, {"jump_times": [0.7]}, {"save": "end"}, {"events": [CROSSING, END]})
            ),
        ],
        ids=["times", "dense", "jump", "end", "events"],
    )
    @of(ALL)
    def test_the_gradient(self, f: Swing, how: dict[str, Any], settings: dict[str, Any]) -> None:
        assert_same_gradient(f, Y0, **how, **settings)

    @pytest.mark.parametrize(
        "settings", [{}, {"jump_times": [0.7], "events": [CROSSING, END]}], ids=["times", "jump and events"]
    )
    @of(REVERSIBLE)
    def test_steps_taken_back(self, f: Swing, how: dict[str, Any], settings: dict[str, Any]) -> None:
        assert_same_gradient(f, Y0, gradient="reversible", **how, **settings)

    @pytest.mark.slow
    @pytest.mark.parametrize("gradient", [Discrete(every="sqrt"), Interpolated("tsit5", every="sqrt")], ids=repr)
    @of(ALL)
    def test_steps_taken_again(self, f: Swing, how: dict[str, Any], gradient: Any) -> None:
        """Plain PyTorch takes them from what the loop wrote down: it has slopes and weights of its own."""
        assert_same_gradient(f, Y0, gradient=gradient, **how)

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "settings",
        [{}, {"gradient": "reversible"}, {"gradient": "reversible", "events": [END]}, {"gradient": Discrete("sqrt")}],
        ids=["discrete", "reversible", "event", "sqrt"],
    )
    @of(REVERSIBLE)
    def test_the_gradient_of_rows(self, f: Swing, how: dict[str, Any], settings: dict[str, Any]) -> None:
        assert_same_gradient(f, ROWS, batch_dims=1, **how, **settings)

    def test_the_gradient_through_a_past_of_another_solve_is_refused(self, f: Swing) -> None:
        y0 = Y0.clone().requires_grad_()
        first = torchivp.solve(f, y0, (0.0, 1.0), runner="compiled", **ADAMS["explicit_adams"])
        with pytest.raises(torchivp.GradientError, match="resumed"):
            torchivp.solve(f, None, 2.0, start=first, runner="compiled", **ADAMS["explicit_adams"])


def test_adams_in_a_compiled_loop() -> None:
    assert_same(*both(SWING, Y0, UNEVEN, method="explicit_adams"))


@pytest.mark.slow
@of({**REVERSIBLE, **ADAMS})
def test_compiled(how: dict[str, Any]) -> None:
    """Values, then the gradient, then steps that plain PyTorch takes again or back."""
    assert_same(*both(SWING, Y0, UNEVEN, jump_times=[0.7], **how))
    assert_same_gradient(SWING, Y0, jump_times=[0.7], **how)
    if how in REVERSIBLE.values():
        assert_same_gradient(SWING, Y0, gradient="reversible", **how)


@pytest.mark.slow
@pytest.mark.parametrize("steps", [3, 2200])
def test_loops_that_make_no_turn(steps: int) -> None:
    """Few steps are all those of the opening; a second call has none of them."""
    assert_same_gradient(SWING, Y0, TIMES[[0, -1]], method="explicit_adams", dt=3.0 / steps, save="steps")


@pytest.mark.slow
@of({"reversible_heun": REVERSIBLE["reversible_heun"], "Reversible": REVERSIBLE["Reversible"]})
def test_compiled_rows(how: dict[str, Any]) -> None:
    assert_same(*both(SWING, ROWS, TIMES, batch_dims=1, **how))
    assert_same_gradient(SWING, ROWS, batch_dims=1, **how)


@pytest.mark.slow
@pytest.mark.parametrize("gradient", ["adjoint", "interpolated"])
def test_continuous_adjoints(gradient: str) -> None:
    assert_same_gradient(SWING, Y0, gradient=gradient, **ADAMS["explicit_adams"])
