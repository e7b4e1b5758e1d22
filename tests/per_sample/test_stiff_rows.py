"""Rows that run out of steps: those of them that are stiff say so."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import torchivp
from stiff_problems import STIFF as PROBLEMS
from torchivp import Status, StiffnessWarning, out_of_steps
from torchivp.controllers import PID
from torchivp.methods import Tsit5
from torchivp.methods.base import Step
from torchivp.per_sample.problem import make_rows_problem
from torchivp.per_sample.stiffness import WatchedRows
from torchivp.plan import Plan

F64 = torch.float64
RATES = torch.tensor([1e4, 0.1, 1e3, 1.0, 3e4], dtype=F64)
Y0 = torch.ones(5, 2, dtype=F64)


def rows(t: Tensor, y: Tensor, rate: Tensor) -> Tensor:
    """Decay, at a rate of each row; and a spring that takes many steps, in the fourth row."""
    a, b = y.unbind(-1)
    spring = torch.stack([300 * b, -300 * a], -1)
    decay = rate.unsqueeze(-1) * (torch.cos(t).unsqueeze(-1) - y)
    return torch.where((rate == 1.0).unsqueeze(-1), spring, decay)


def run_out(stiff: str = "", f: Any = rows, y0: Any = Y0, t: Any = (0.0, 20.0), **settings: Any) -> Any:
    """A solve that warns once, of so many rows."""
    how = {"method": "bosh3", "batch_dims": 1, "max_steps": 300, "rtol": 1e-4, "atol": 1e-6, "throw": False, **settings}
    args = how.pop("args", RATES)
    with torch.no_grad():
        if not stiff:
            return torchivp.solve(f, y0, t, args, **how)
        with pytest.warns(StiffnessWarning, match=stiff) as found:
            sol = torchivp.solve(f, y0, t, args, **how)
    assert len(found) == 1
    return sol


STIFF = [Status.STIFF, Status.SUCCESS, Status.STIFF, Status.MAX_STEPS, Status.STIFF]


@pytest.mark.parametrize("method", ["bosh3", "tsit5", "dop853"])
@pytest.mark.parametrize("compact", [False, True], ids=["all", "compact"])
def test_each_row_for_itself(compact: bool, method: str) -> None:
    sol = run_out("of 5 rows" if method == "tsit5" else "in 3 of 5 rows", method=method, compact=compact, save="steps")
    assert sol.status == STIFF
    assert sorted(sol.messages) == [0, 2, 3, 4]
    for b, status in enumerate(sol.status):
        assert ("The problem is stiff" in sol.messages.get(b, "")) == (status is Status.STIFF)
        assert sol[b].status is status
        assert len(sol[b].t) == sol[b].stats.accepted + 1
    assert sol.stats.attempted[[0, 2, 3, 4]].tolist() == [300] * 4


def test_coupled_rows_share_their_steps() -> None:
    """And why these are short."""
    sol = run_out("in 2 of 2 rows", y0=Y0[:2], args=RATES[:2], couple=True)
    assert sol.status == [Status.STIFF] * 2


def test_different_times_and_directions() -> None:
    t = torch.tensor([[0.0, 20.0], [0.0, 30.0], [1.0, 21.0], [0.0, 20.0], [5.0, 25.0]], dtype=F64)
    t[0] *= -1

    def f(t: Tensor, y: Tensor, rate: Tensor) -> Tensor:
        slope = rows(t, y, rate)
        return torch.cat([-slope[:1], slope[1:]])

    assert run_out("in 3 of 5 rows", f=f, t=t).status == STIFF


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex128], ids=str)
def test_other_numbers(dtype: torch.dtype) -> None:
    f = lambda t, y, rate: rate.to(y.dtype).unsqueeze(-1) * (torch.cos(t).to(y.dtype).unsqueeze(-1) - y)
    sol = run_out("in 2 of 3 rows", f=f, y0=Y0[:3].to(dtype), args=RATES[:3])
    assert sol.status == STIFF[:3]


def test_nothing_is_left_of_the_question(monkeypatch: pytest.MonkeyPatch) -> None:
    sol = run_out("in 3 of 5 rows")
    monkeypatch.setattr("torchivp.per_sample.out_of_steps.asked", lambda *question: None)
    plain = run_out()
    assert plain.status == [s if s is not Status.STIFF else Status.MAX_STEPS for s in STIFF]
    assert sol.stats.nfe == plain.stats.nfe
    for name in ("attempted", "accepted", "rejected"):
        assert torch.equal(getattr(sol.stats, name), getattr(plain.stats, name))
    assert torch.equal(sol.ends.y, plain.ends.y)
    assert torch.equal(sol.ends.t, plain.ends.t)


def test_rows_that_do_what_they_should_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(out_of_steps, "asked", None)
    monkeypatch.setattr("torchivp.per_sample.out_of_steps.asked", None)
    assert run_out(t=(0.0, 0.01)).success


def solve_hires(**settings: Any) -> Any:
    """Three rows, one of which ends before its problem is stiff."""
    hires = PROBLEMS["HIRES"]
    ends = torch.tensor([[0.0, 12.0], [0.0, 1.0], [0.0, 12.0]], dtype=F64)
    how = {"method": "tsit5", "batch_dims": 1, "rtol": 1e-6, "atol": 1e-10, **settings}
    with torch.no_grad():
        return torchivp.solve(hires.f, hires.start.expand(3, 8).clone(), ends, **how)


@pytest.mark.parametrize("settings", [{}, {"compact": True}], ids=["all", "compact"])
def test_rows_are_watched_and_nothing_is_altered(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """One warning that says how many rows; the steps that are taken unwatched, bit by bit."""
    with pytest.warns(StiffnessWarning, match="2 of 3 rows, which go on") as found:
        sol = solve_hires(save="steps", **settings)
    assert len(found) == 1
    monkeypatch.setattr(WatchedRows, "of", lambda problem, plan: None)
    alone = solve_hires(save="steps", **settings)
    assert sol.success
    assert sol.stats.nfe == alone.stats.nfe
    for a, b in zip(sol, alone):
        assert torch.equal(a.t, b.t)
        assert torch.equal(a.y, b.y)


def test_rows_warn_once_before_they_run_out() -> None:
    sol = run_out("of 5 rows, which go on", method="tsit5", max_steps=400)
    assert sol.status == STIFF


def test_each_row_has_its_own_looks() -> None:
    """Rows are not stiff together: none of these is for long enough, though all looks find one that is."""
    watched = WatchedRows.of(*problem_and_plan(rows=2))  # type: ignore[arg-type]
    assert watched is not None
    turns = iter([[1.0, 0.2], [0.2, 1.0]] * 20)
    watched.twins = _Told(turns)  # type: ignore[assignment]
    everyone = torch.ones(2, dtype=torch.bool)
    looks = [watched.look(*look_of(rows=2), everyone) for _ in range(4)]
    assert not torch.stack(looks).any()
    assert watched.stiff.tolist() == [2, 2]
    watched.twins = _Told(iter([[0.2, 1.0]] * 3))  # type: ignore[assignment]
    looks = [watched.look(*look_of(rows=2), everyone) for _ in range(3)]
    assert looks[-1].tolist() == [False, True]
    assert watched.stiff.tolist() == [0, 5]


class _Told:
    """Twins that say what they are told."""

    def __init__(self, turns: Any):
        self.turns = turns

    def stiffness_of_rows(self, *step: Any) -> Tensor:
        return torch.tensor(next(self.turns), dtype=F64)


def problem_and_plan(rows: int) -> tuple[Any, Any]:
    problem = make_rows_problem(
        lambda t, y: -y, Y0[:rows], (0.0, 1.0), None, batch_dims=1, couple=False, rtol=1e-3, atol=1e-6
    )
    return problem, Plan(Tsit5(), PID(), None, None, watch_stiffness=True, run=lambda: None)


def look_of(rows: int) -> tuple[Any, Step]:
    problem, _ = problem_and_plan(rows)
    return problem, Step(problem.y0, problem.y0, problem.y0, None, ())
