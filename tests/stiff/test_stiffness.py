"""Explicit methods on stiff problems: one warning, no other difference, and a status that says what to do."""

from __future__ import annotations

import warnings
from itertools import islice
from typing import Any

import pytest
import torch
from torch import Tensor

import torchivp
from stiff_problems import STIFF
from torchivp import StiffnessWarning, stiffness
from torchivp.controllers import PID, Limits
from torchivp.loop import LoopState, march
from torchivp.methods import METHODS, ExplicitRungeKutta
from torchivp.methods.stability import Twins, stability_size
from torchivp.plan import Plan
from torchivp.problem import Problem, make_problem

WITH_TWINS = [
    name for name, m in METHODS.items() if issubclass(m, ExplicitRungeKutta) and m().adaptive and Twins.of(m())
]
LATE = ["dop853"]


def solve(name: str, **settings: Any) -> torchivp.Solution:
    problem, rtol = STIFF[name], settings.pop("rtol", 1e-6)
    t = (0.0, settings.pop("t1", problem.t1))
    with torch.no_grad():
        return torchivp.solve(problem.f, problem.start, t, rtol=rtol, atol=problem.atol(rtol), **settings)


def plan_of(problem: Problem, method: str) -> Plan:
    limits = Limits(problem.t[-1], [], [], torch.float64)
    return Plan(METHODS[method](), PID(), limits, None, watch_stiffness=True, run=lambda: None)


def test_stability_sizes() -> None:
    """Against those that OrdinaryDiffEq switches by."""
    sizes = {"tsit5": 3.5068, "dopri5": 3.3066, "vern6": 4.8553, "vern7": 4.64, "vern8": 5.8641, "vern9": 4.4762}
    for name, size in sizes.items():
        assert stability_size(METHODS[name].tableau) == pytest.approx(size, abs=1e-4)  # type: ignore[attr-defined]


@pytest.mark.parametrize("method", ["dopri5", "tsit5", "vern6", "vern7", "vern8", "vern9", "dopri8"])
def test_twins_find_the_eigenvalue(method: str) -> None:
    """Exactly, where there is one only."""
    assert method in WITH_TWINS
    twins = Twins.of(METHODS[method]())
    assert twins is not None
    problem = (lambda t, y: -50 * y, torch.ones(2, dtype=torch.float64), (0.0, 1.0))
    seen: list[Tensor] = []
    step = METHODS[method].step

    def spy(self: Any, *args: Any) -> Any:
        out = step(self, *args)
        seen.append(out.k)
        return out

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(METHODS[method], "step", spy)
        torchivp.solve(*problem, method=method, controller=torchivp.FixedSteps(dt=0.02))
    assert twins.stiffness(seen[0], torch.ones(1, 2)) * twins.size == pytest.approx(50 * 0.02, rel=1e-6)


@pytest.mark.parametrize("method", LATE)
def test_late_twins_find_the_eigenvalue(method: str) -> None:
    """With the slope that the next step begins with."""
    twins, tableau = Twins.of(METHODS[method]()), METHODS[method].tableau  # type: ignore[attr-defined]
    assert twins is not None
    assert twins.late
    k = [torch.ones(2, dtype=torch.float64)]
    for row in (*tableau.a[1:], tableau.b):  # of f = -50 y, in steps of 0.02
        stage = sum((0.02 * float(a) * slope for a, slope in zip(row, k)), torch.tensor(-1 / 50, dtype=torch.float64))
        k.append(-50 * stage)
    assert twins.stiffness(torch.stack(k), torch.ones(1, 2)) * twins.size == pytest.approx(50 * 0.02, rel=1e-6)


def test_who_has_late_twins() -> None:
    """Those of fehlberg2 and adaptive_heun are close to each other."""
    assert [name for name in WITH_TWINS if Twins.of(METHODS[name]()).late] == LATE  # type: ignore[union-attr]
    assert "fehlberg2" not in WITH_TWINS


@pytest.mark.parametrize("method", LATE)
def test_a_state_changed_between_two_steps_tells_nothing(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The slope at the start is then that of another state."""
    looks: list[float] = []
    monkeypatch.setattr(stiffness.Watched, "BEGIN", 0)
    monkeypatch.setattr(stiffness.Watched, "EVERY", 1)
    monkeypatch.setattr(stiffness.Watched, "look", lambda self, found: looks.append(found))
    problem = make_problem(lambda t, y: torch.cos(t) - y, torch.ones(1, dtype=torch.float64), (0.0, 900.0))
    plan = plan_of(problem, method)
    state = LoopState(0.0, problem.y0, 0.1)
    for n, _ in enumerate(islice(march(problem, plan, state), 20)):
        if n >= 10:
            state.y = state.y + 1e-3
    assert len(looks) == 10


@pytest.mark.parametrize("method", ["dopri5", "dop853"])
def test_watching_alters_nothing(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One warning, and bit by bit the steps that are taken unwatched."""
    with pytest.warns(StiffnessWarning, match="kvaerno5.*auto") as found:
        watched = solve("HIRES", method=method, save="steps", t1=12.0)
    assert len(found) == 1
    monkeypatch.setattr(stiffness.Watched, "after", lambda self, taken: 1.0)
    alone = solve("HIRES", method=method, save="steps", t1=12.0)
    assert torch.equal(watched.t, alone.t)
    assert torch.equal(watched.y, alone.y)
    assert watched.stats == alone.stats


@pytest.mark.slow
def test_dopri5_solves_hires() -> None:
    """In 18,000 steps."""
    with pytest.warns(StiffnessWarning):
        sol = solve("HIRES", method="dopri5", save="end")
    assert STIFF["HIRES"].error(sol.y[-1], 1e-6) < 100


def test_a_short_solve_is_not_worth_a_word() -> None:
    """Stiff from the start, and done after 90 steps."""
    assert solve("van der Pol, 1000", method="tsit5", t1=0.08).stats.attempted in range(60, 100)


ORBIT = 2 * torch.pi


def kepler(t: Tensor, y: Tensor) -> Tensor:
    q, v = y[:2], y[2:]
    return torch.cat([v, -q / torch.linalg.vector_norm(q) ** 3])


def lorenz(t: Tensor, y: Tensor) -> Tensor:
    a, b, c = y.unbind()
    return torch.stack([10 * (b - a), a * (28 - c) - b, a * b - 8 / 3 * c])


@pytest.mark.parametrize("method", WITH_TWINS)
def test_problems_that_are_not_stiff(method: str) -> None:
    """Many steps, an eccentric orbit, chaos: nobody warns (warnings are errors here)."""
    rtol = 1e-7
    orbit = torch.tensor([0.3, 0.0, 0.0, (1.7 / 0.3) ** 0.5], dtype=torch.float64)
    assert torchivp.solve(kepler, orbit, (0.0, ORBIT), method=method, rtol=rtol, atol=rtol / 100).success
    start = torch.tensor([1.0, 1.0, 1.0], dtype=torch.float64)
    assert torchivp.solve(lorenz, start, (0.0, 6.0), method=method, rtol=10 * rtol, atol=rtol / 10).success


def test_torchdiffeq_does_not_warn() -> None:
    problem = STIFF["van der Pol, 1000"]
    t = torch.tensor([0.0, 0.2], dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torchivp.odeint(problem.f, problem.start, t, rtol=1e-6, atol=1e-9, method="dopri5")


def test_backward_solves_do_not_warn() -> None:
    assert Plan.watch_stiffness is False
