"""Rows of a batch are solved as if each were alone: the same steps, values, statuses, errors."""

from __future__ import annotations

import math
import pickle
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

import torchivp
from torchivp.controllers import PI, Controller
from torchivp.controllers.base import Memory, Verdict
from torchivp.methods import METHODS
from torchivp.solution import Status

F64 = torch.float64
BY_ROWS = [name for name, method in METHODS.items() if method().by_rows]
B = 6


def oscillators(t: Tensor, y: Tensor, stiffness: Tensor) -> Tensor:
    """Van der Pol, driven; ``stiffness [B]`` decides how many steps a row needs."""
    x, v = y.unbind(-1)
    return torch.stack([v, stiffness * (1 - x * x) * v - x + 0.3 * torch.sin(2 * t)], -1)


STIFFNESS = torch.tensor([0.1, 8.0, 1.0, 3.0, 0.5, 5.0], dtype=F64)
Y0 = torch.linspace(-2, 2, 2 * B, dtype=F64).view(B, 2)


def test_rows_of_a_reversible_method_rest_where_they_ended() -> None:
    """Its step of size 0 would draw the two states together."""
    kw = {"method": torchivp.methods.Reversible("bosh3"), "rtol": 1e-4, "atol": 1e-6}
    sol = torchivp.solve(oscillators, Y0, (0.0, 1.0), STIFFNESS, batch_dims=1, **kw)
    for b in range(B):
        assert_same(sol[b], alone(b, (0.0, 1.0), **kw))


def settings_of(method: str) -> dict[str, Any]:
    if not METHODS[method]().adaptive:
        return {"method": method, "dt": 0.13}
    loose = METHODS[method]().order <= 2  # methods of low order, some of them undamped: fewer steps
    return {"method": method, "rtol": 1e-2 if loose else 1e-5, "atol": 1e-3 if loose else 1e-7}


def alone(b: int, t: Any, **kw: Any) -> torchivp.Solution:
    return torchivp.solve(oscillators, Y0[b], t, STIFFNESS[b], **kw)


def assert_same(
    row: torchivp.Solution, solo: torchivp.Solution, tol: float = 1e-12, tol_of_times: float = 1e-7
) -> None:
    assert (row.status, row.stats.attempted, row.stats.accepted) == (
        solo.status,
        solo.stats.attempted,
        solo.stats.accepted,
    )
    # Where an error estimate is next to nothing, rounding decides the next step size: in its seventh digit.
    torch.testing.assert_close(row.t, solo.t, rtol=tol_of_times, atol=tol_of_times)
    close = tol if torch.equal(row.t, solo.t) else 10 * tol_of_times
    torch.testing.assert_close(row.y, solo.y, rtol=close, atol=close)


@pytest.mark.parametrize("save", ["t", "steps", "end"])
@pytest.mark.parametrize("method", BY_ROWS)
def test_rows_are_what_they_are_alone(method: str, save: str) -> None:
    t = torch.linspace(0, 0.7, 9, dtype=F64)
    kw = {**settings_of(method), "save": save, "max_steps": 2_000}
    sol = torchivp.solve(oscillators, Y0, t, STIFFNESS, batch_dims=1, **kw)
    assert len(sol) == B
    # Verner's weights are large: his error estimates and interpolants leave more rounding (docs/design/verner-dense.md).
    close = {"tol": 1e-10, "tol_of_times": 1e-5} if method.startswith("vern") else {}
    for b in range(B):
        assert_same(sol[b], alone(b, t, **kw), **close)
        assert torch.equal(sol.y[b], sol[b].y)
        assert torch.equal(sol.t[b], sol[b].t)
    if METHODS[method]().adaptive:
        assert len(set(sol.stats.accepted.tolist())) > 1  # every row takes steps of its own


@pytest.mark.parametrize(
    "controller",
    [PI(), torchivp.PID(p=0.2, i=0.3, d=0.1), torchivp.PID(min_step=0.02), torchivp.PID(max_step=0.11, safety=0.8)],
)
def test_every_controller(controller: Controller) -> None:
    kw = {"controller": controller, "rtol": 1e-6, "atol": 1e-8}
    sol = torchivp.solve(oscillators, Y0, (0.0, 3.0), STIFFNESS, batch_dims=1, **kw)
    for b in range(B):
        assert_same(sol[b], alone(b, (0.0, 3.0), **kw))


def test_a_controller_of_the_user_needs_no_more_than_judge() -> None:
    class Halving(Controller):
        adaptive = True

        def judge(self, ratio: float, dt: float, memory: Memory, error_order: int) -> Verdict:
            good = ratio <= 1
            return Verdict(good, dt * (1.3 if good else 0.5), (ratio,))

        def grid(self, t: list[float]) -> list[float]:
            return []

    sol = torchivp.solve(oscillators, Y0, (0.0, 1.0), STIFFNESS, batch_dims=1, controller=Halving())
    for b in range(B):
        assert_same(sol[b], alone(b, (0.0, 1.0), controller=Halving()))


def test_times_of_their_own_in_both_directions() -> None:
    t = torch.tensor([[0, 0.3, 1], [1, 0.5, 0], [2, 2.5, 3], [0, -1, -1.5], [0, 1e-3, 2], [5, 6, 7]], dtype=F64)
    sol = torchivp.solve(oscillators, Y0, t, STIFFNESS, batch_dims=1, dense=True)
    assert sol.y.shape == (B, 3, 2)
    for b in range(B):
        solo = alone(b, t[b], dense=True)
        assert_same(sol[b], solo)
        inside = t[b, 0] + (t[b, -1] - t[b, 0]) * torch.tensor([0.0, 0.21, 0.5, 0.99, 1.0], dtype=F64)
        torch.testing.assert_close(sol[b](inside), solo(inside), rtol=1e-12, atol=1e-12)
    at = t[:, :1] + (t[:, -1:] - t[:, :1]) * torch.tensor([[0.0, 0.37, 1.0]], dtype=F64)
    torch.testing.assert_close(sol(at), torch.stack([alone(b, t[b], dense=True)(at[b]) for b in range(B)]))


def test_ends_that_differ_as_a_pair() -> None:
    ends = torch.linspace(0.5, 2, B, dtype=F64)
    sol = torchivp.solve(oscillators, Y0, (0.0, ends), STIFFNESS, batch_dims=1)
    assert torch.equal(sol.t[:, -1], ends)
    for b in range(B):
        assert_same(sol[b], alone(b, (0.0, float(ends[b]))))


def test_a_row_of_no_length_stays_where_it_is() -> None:
    t = torch.tensor([[0.0, 1.0], [2.0, 2.0]], dtype=F64)
    sol = torchivp.solve(oscillators, Y0[:2], t, STIFFNESS[:2], batch_dims=1)
    assert torch.equal(sol.y[1], Y0[1].expand(2, 2))
    assert sol.stats.attempted[1] == 0
    assert_same(sol[0], alone(0, (0.0, 1.0)))


def test_pytrees_with_several_batch_axes() -> None:
    y0 = {"x": torch.rand(2, 3, 4, dtype=F64), "v": (torch.rand(2, 3, dtype=F64), torch.rand(2, 3, 2, 2, dtype=F64))}

    def f(t: Tensor, y: Any) -> Any:
        assert t.shape == (2, 3)
        assert y["x"].shape == (2, 3, 4)
        v, w = y["v"]
        return {"x": -y["x"] * (1 + t)[..., None], "v": (v.cos(), w * v[..., None, None])}

    def one(t: Tensor, y: Any) -> Any:
        v, w = y["v"]
        return {"x": -y["x"] * (1 + t), "v": (v.cos(), w * v)}

    t = torch.linspace(0, 1, 5, dtype=F64)
    sol = torchivp.solve(f, y0, t, batch_dims=2)
    assert sol.y["x"].shape == (2, 3, 5, 4)
    assert sol.y["v"][1].shape == (2, 3, 5, 2, 2)
    assert sol.t.shape == (2, 3, 5)
    for i in range(2):
        for j in range(3):
            start = {"x": y0["x"][i, j], "v": (y0["v"][0][i, j], y0["v"][1][i, j])}
            solo = torchivp.solve(one, start, t)
            torch.testing.assert_close(sol.y["x"][i, j], solo.y["x"], rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(sol[3 * i + j].y["v"], solo.y["v"], rtol=1e-12, atol=1e-12)
            assert sol[3 * i + j].stats.accepted == solo.stats.accepted


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex128, torch.bfloat16])
def test_other_dtypes(dtype: torch.dtype) -> None:
    y0 = torch.linspace(0.5, 1.5, 6).view(3, 2).to(dtype)
    rates = torch.tensor([[0.5], [2.0], [9.0]]).to(dtype)

    def f(t: Tensor, y: Tensor) -> Tensor:
        return -rates * y

    sol = torchivp.solve(f, y0, (0.0, 0.7), batch_dims=1, rtol=1e-3, atol=1e-4)
    assert sol.y.dtype == dtype
    for b in range(3):
        solo = torchivp.solve(lambda t, y, b=b: -rates[b] * y, y0[b], (0.0, 0.7), rtol=1e-3, atol=1e-4)
        assert solo.stats.accepted == sol.stats.accepted[b]
        torch.testing.assert_close(sol.y[b], solo.y, rtol=1e-3, atol=1e-4)


def test_tolerances_that_differ_from_row_to_row() -> None:
    rtol = torch.logspace(-9, -3, B, dtype=F64).unsqueeze(1)
    sol = torchivp.solve(oscillators, Y0, (0.0, 2.0), STIFFNESS, batch_dims=1, rtol=rtol, atol=1e-9)
    for b in range(B):
        assert_same(sol[b], alone(b, (0.0, 2.0), rtol=float(rtol[b]), atol=1e-9))


def test_stop_and_jump_times() -> None:
    def f(t: Tensor, y: Tensor) -> Tensor:
        return torch.where(t < 0.5, 1.0, -2.0).to(y).unsqueeze(-1) * y * torch.linspace(1, 3, B, dtype=F64).unsqueeze(1)

    kw = {"stop_times": [0.3], "jump_times": [0.5], "save": "steps"}
    sol = torchivp.solve(f, Y0, (0.0, 1.0), batch_dims=1, **kw)
    for b in range(B):
        rate = float(torch.linspace(1, 3, B, dtype=F64)[b])
        solo = torchivp.solve(
            lambda t, y, r=rate: (torch.where(t < 0.5, 1.0, -2.0) * r).to(y) * y, Y0[b], (0.0, 1.0), **kw
        )
        assert_same(sol[b], solo)
        assert {0.3, 0.5} <= set(sol[b].t.tolist())


def test_rows_fail_alone() -> None:
    """Blow-up, nan at the start, nan on the way, too many steps: each with its status and the part it did."""

    def f(t: Tensor, y: Tensor, kind: Tensor) -> Tensor:
        slopes = torch.stack(
            [y**2, -y, torch.log(0.5 - t).unsqueeze(1) * y, 1e3 * torch.cos(1e3 * t).unsqueeze(1) + 0 * y]
        )
        return slopes[kind, torch.arange(len(kind))]

    kind = torch.tensor([1, 0, 1, 2, 3, 1])
    y0 = torch.tensor([[1.0], [2.0], [math.nan], [1.0], [1.0], [0.5]], dtype=F64)
    t = torch.linspace(0, 1, 5, dtype=F64)
    kw = {"max_steps": 150, "rtol": 1e-6, "atol": 1e-8}
    sol = torchivp.solve(f, y0, t, kind, batch_dims=1, throw=False, **kw)
    assert sol.failed == [1, 2, 3, 4]
    assert not sol.success
    for b in range(6):
        solo = torchivp.solve(f, y0[b : b + 1], t, kind[b : b + 1], batch_dims=1, throw=False, **kw)
        assert sol.status[b] is solo.status[0]
        assert sol[b].stats.attempted == solo[0].stats.attempted
        torch.testing.assert_close(sol[b].y, solo[0].y, rtol=1e-12, atol=1e-12, equal_nan=True)
    assert sol.status[0] is sol.status[5] is Status.SUCCESS
    assert [sol.status[b] for b in (2, 4)] == [Status.NONFINITE_STATE, Status.MAX_STEPS]
    assert sol.lengths.tolist() == [5, 3, 1, 2, 1, 5]
    assert isinstance(sol.y, list)
    assert all(torch.isfinite(sol.y[b]).all() for b in (0, 1, 3, 4, 5))
    with pytest.raises(
        torchivp.SolveError, match=r"(?s)4 of 6 rows failed \(1, 2, 3, 4\).*row 1: .*row 2: y0 holds nan"
    ) as error:
        torchivp.solve(f, y0, t, kind, batch_dims=1, **kw)
    assert torch.equal(error.value.solution.y[0], sol.y[0])


@pytest.mark.parametrize("recorded", [False, True])
def test_f_never_sees_nan(recorded: bool) -> None:
    """Rows that failed or ended are asked about again with the others, but with numbers."""
    seen: list[Tensor] = []

    def f(t: Tensor, y: Tensor) -> Tensor:
        seen.append(y)
        assert torch.isfinite(t).all()
        return torch.sqrt(1 - y) * torch.tensor([[-1.0], [5.0], [1.0], [0.1]], dtype=F64)

    y0 = torch.tensor([[0.5], [0.99], [math.nan], [0.0]], dtype=F64, requires_grad=recorded)
    sol = torchivp.solve(f, y0, (0.0, 1.0), batch_dims=1, throw=False)
    assert sol.failed
    rows = torch.stack(seen)
    assert torch.isfinite(rows[:, [0, 2, 3]]).all()


def test_frozen_rows_whose_slope_is_nan_stay_finite() -> None:
    """A row that ends where its slope is not finite (1/sqrt at 0): what f is asked afterwards is finite."""
    seen: list[Tensor] = []

    def f(t: Tensor, y: Tensor) -> Tensor:
        seen.append(y)
        return torch.where(t >= 0.5, math.nan, 1.0).unsqueeze(1) * torch.ones_like(y)

    t = torch.tensor([[0.0, 0.4], [0.0, 0.8], [0.0, 0.49]], dtype=F64)
    sol = torchivp.solve(f, torch.zeros(3, 1, dtype=F64), t, batch_dims=1, throw=False, method="rk4", dt=0.1)
    assert sol.status == [Status.SUCCESS, Status.NONFINITE_SLOPE, Status.SUCCESS]
    assert sum(not bool(torch.isfinite(y[[0, 2]]).all()) for y in seen) == 0


def test_coupled_rows_take_the_same_steps() -> None:
    sol = torchivp.solve(oscillators, Y0, (0.0, 2.0), STIFFNESS, batch_dims=1, couple=True, save="steps")
    assert len(set(sol.stats.attempted.tolist())) == 1
    assert isinstance(sol.t, Tensor)
    assert torch.equal(sol.t, sol.t[:1].expand_as(sol.t))
    free = torchivp.solve(oscillators, Y0, (0.0, 2.0), STIFFNESS, batch_dims=1)
    assert int(sol.stats.accepted[0]) >= int(free.stats.accepted.max()) - 1
    with pytest.raises(torchivp.InputError, match="batch_dims=1"):
        torchivp.solve(oscillators, Y0, (0.0, 2.0), STIFFNESS, couple=True)


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_neither_order_nor_company_matters(data: st.DataObject) -> None:
    """Permutations and subsets of a batch give the same rows, to rounding, by the same steps."""
    n = data.draw(st.integers(2, 9))
    seed = data.draw(st.integers(0, 1_000))
    draw = torch.Generator().manual_seed(seed)
    y0 = 2 * torch.randn(n, 2, generator=draw, dtype=F64)
    mu = 6 * torch.rand(n, generator=draw, dtype=F64)
    ends = (0.1 + 2 * torch.rand(n, generator=draw, dtype=F64)) * torch.where(
        torch.rand(n, generator=draw) < 0.3, -0.03, 1.0
    )
    method = data.draw(st.sampled_from(["bosh3", "tsit5", "dopri5", "dopri8", "fehlberg2"]))
    order = data.draw(st.permutations(range(n)))[: data.draw(st.integers(1, n))]

    def solve(rows: list[int]) -> torchivp.BatchSolution:
        return torchivp.solve(
            oscillators,
            y0[rows],
            (0.0, ends[rows]),
            mu[rows],
            batch_dims=1,
            method=method,
            rtol=1e-4,
            atol=1e-6,
            save="steps",
            max_steps=2_000,
        )

    whole, part = solve(list(range(n))), solve(order)
    for i, b in enumerate(order):
        assert_same(part[i], whole[b], 1e-11)


def test_on_step_and_progress(capsys: pytest.CaptureFixture[str]) -> None:
    calls = []

    def stop(t: Tensor, y: Tensor) -> Tensor:
        calls.append(t)
        assert t.shape == (B,)
        assert y.shape == (B, 2)
        return t > 0.5

    sol = torchivp.solve(oscillators, Y0, (0.0, 2.0), STIFFNESS, batch_dims=1, on_step=stop, progress=True, save="end")
    assert set(sol.status) == {Status.STOPPED}
    assert bool((sol.t > 0.5).all())
    assert "solve" in capsys.readouterr().err
    assert len(calls) > 2


def test_save_function() -> None:
    def energy(t: Tensor, y: Tensor) -> dict[str, Tensor]:
        return {"energy": (y**2).sum(-1), "time": t}

    t = torch.linspace(0, 1, 4, dtype=F64)
    sol = torchivp.solve(oscillators, Y0, t, STIFFNESS, batch_dims=1, save=energy)
    plain = torchivp.solve(oscillators, Y0, t, STIFFNESS, batch_dims=1)
    assert torch.equal(sol.y["energy"], (plain.y**2).sum(-1))
    assert torch.equal(sol.y["time"], plain.t)
    torch.testing.assert_close(sol[2].y["energy"], alone(2, t, save=energy).y["energy"], rtol=1e-12, atol=1e-12)


def test_a_solution_moves_and_is_pickled() -> None:
    y0 = Y0.clone().requires_grad_()
    sol = torchivp.solve(oscillators, y0, (0.0, 1.0), STIFFNESS, batch_dims=1, dense=True)
    again = pickle.loads(pickle.dumps(sol))
    assert torch.equal(again.y, sol.y)
    assert not again.y.requires_grad
    assert torch.equal(again(0.5), sol(0.5))
    single = sol.to(torch.float32)
    assert single.y.dtype == single.t.dtype == torch.float32
    assert "6 rows: 6 success" in repr(sol)
    assert sol[-1].stats.accepted == int(sol.stats.accepted[-1])
    assert [row.success for row in sol] == [True] * B
    with pytest.raises(IndexError):
        sol[B]


def test_a_row_goes_on_alone() -> None:
    sol = torchivp.solve(oscillators, Y0, (0.0, 1.0), STIFFNESS, batch_dims=1)
    more = torchivp.solve(oscillators, None, 2.0, STIFFNESS[3], start=sol[3])
    reference = torchivp.solve(oscillators, Y0[3], (0.0, 2.0), STIFFNESS[3], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(more.y[-1], reference.y[-1], rtol=1e-4, atol=1e-4)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no such axis": ({"y0": torch.ones(3), "batch_dims": 2}, "first 2 axes"),
    "axes differ": ({"y0": (torch.ones(3, 2), torch.ones(4, 2))}, "leading axes"),
    "no rows": ({"y0": torch.ones(0, 2)}, "holds no row"),
    "times of another batch": ({"t": torch.zeros(3, 2)}, "for each"),
    "times that turn": ({"t": torch.tensor([[0.0, 1, 2], [0, 2, 1]]), "y0": torch.ones(2, 2)}, "row 1"),
    "nan in times": ({"t": (0.0, math.nan)}, "finite"),
    "no times": ({"t": "soon"}, "times"),
    "multistep": ({"method": "explicit_adams", "dt": 0.1}, "Runge-Kutta"),
    "save": ({"save": "all"}, "'steps'"),
    "dense missing": ({}, ""),
    "dt": ({"dt": -1.0}, "step size"),
    "batch_dims": ({"batch_dims": 1.5}, "batch_dims"),
    "runner": ({"runner": "fast"}, "eager"),
    "shape of the slope": ({"f": lambda t, y: y[0]}, "A slope has the shape"),
}


@pytest.mark.parametrize("case", [name for name in BAD if name != "dense missing"])
def test_bad_input_is_refused_with_a_hint(case: str) -> None:
    changed, hint = BAD[case]
    arguments = {"f": lambda t, y: -y, "y0": torch.ones(4, 2), "t": (0.0, 1.0), "batch_dims": 1, **changed}
    with pytest.raises((torchivp.InputError, torchivp.InputTypeError, torchivp.SolveError), match=hint):
        torchivp.solve(**arguments)


def test_dense_output_refuses_other_times() -> None:
    sol = torchivp.solve(oscillators, Y0, (0.0, torch.linspace(1, 2, B)), STIFFNESS, batch_dims=1, dense=True)
    with pytest.raises(torchivp.InputError, match="row 0"):
        sol(1.5)
    with pytest.raises(torchivp.InputError, match="for each"):
        sol(torch.zeros(3, 2))
    plain = torchivp.solve(oscillators, Y0, (0.0, 1.0), STIFFNESS, batch_dims=1)
    with pytest.raises(torchivp.InputError, match="dense=True"):
        plain(0.5)
    np.testing.assert_allclose(sol(0.0), Y0)
