"""Ensembles: the same numbers as one solve of all members, whatever the chunks."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import torchivp
from torchivp import BatchSolution, InputError, InputTypeError, SolveError, Status, ensemble, solve
from torchivp.ensemble import chunk_size_for
from torchivp.state import Layout

F64 = torch.float64
N = 23
T = torch.linspace(0.0, 2.0, 5, dtype=F64)


def pendulum(t: Tensor, y: Tensor, args: Any) -> Tensor:
    """States [b, 2]; each with its own drive ``args["drive"] [b]``, all with the same ``args["damping"]``."""
    x, v = y.unbind(-1)
    return torch.stack([v, -x.sin() - args["damping"] * v + args["drive"] * t.cos()], dim=-1)


def states(n: int = N) -> Tensor:
    return torch.randn(n, 2, dtype=F64, generator=torch.Generator().manual_seed(1))


def sweep(n: int = N) -> dict[str, Tensor]:
    return {"drive": torch.linspace(0.0, 3.0, n, dtype=F64), "damping": torch.tensor(0.2, dtype=F64)}


def assert_same(a: BatchSolution, b: BatchSolution, tolerance: float = 1e-12) -> None:
    assert a.status == b.status
    for name in ("attempted", "accepted", "rejected"):
        assert torch.equal(getattr(a.stats, name), getattr(b.stats, name)), name
    assert torch.equal(a.lengths, b.lengths)
    torch.testing.assert_close(a.outputs.t, b.outputs.t, rtol=0, atol=0)
    torch.testing.assert_close(a.outputs.y, b.outputs.y, rtol=0, atol=tolerance, equal_nan=True)
    for x, y in zip(a.ends, b.ends):
        torch.testing.assert_close(x, y, rtol=0, atol=tolerance, equal_nan=True)


# ---- the same as one solve


@pytest.mark.parametrize("chunk_size", [1, 5, 22, 23, 100, None])
@pytest.mark.parametrize("save", ["t", "steps", "end"])
def test_chunks_change_nothing(chunk_size: int | None, save: str) -> None:
    sol = ensemble(pendulum, states(), T, sweep(), chunk_size=chunk_size, save=save)
    assert_same(sol, solve(pendulum, states(), T, sweep(), batch_dims=1, save=save))
    assert len(sol) == N
    if save != "steps":
        assert sol.y.shape == (N, {"t": 5, "end": 1}[save], 2)
    assert "All 23 members" in sol.message


def test_member_by_member_and_in_order() -> None:
    sol, args = ensemble(pendulum, states(), T, sweep(), chunk_size=4), sweep()
    for i in (0, 3, 4, 22):
        alone = solve(lambda t, y: pendulum(t, y, {**args, "drive": args["drive"][i]}), states()[i], T)  # noqa: B023
        torch.testing.assert_close(sol.y[i], alone.y, rtol=0, atol=1e-12)
        torch.testing.assert_close(sol[i].y, alone.y, rtol=0, atol=1e-12)
        assert sol[i].stats.accepted == alone.stats.accepted


@pytest.mark.parametrize("method", ["dopri5", "bosh3", "dopri8", "rk4"])
def test_other_methods(method: str) -> None:
    settings: dict[str, Any] = {"method": method, "dt": 0.05} if method == "rk4" else {"method": method}
    assert_same(
        ensemble(pendulum, states(), T, sweep(), chunk_size=7, **settings),
        solve(pendulum, states(), T, sweep(), batch_dims=1, **settings),
    )


@dataclass
class Body:
    x: Tensor
    v: Tensor


def fall(t: Tensor, y: Body, args: tuple[Tensor, Tensor]) -> Body:
    drag, gravity = args
    return Body(y.v, gravity - drag[:, None] * y.v)


def test_pytrees() -> None:
    """A dataclass as the state, a tuple as args; the parts of the state have different shapes."""
    start = Body(states().repeat(1, 2)[:, :3], torch.zeros(N, 3, dtype=F64))
    args = (torch.linspace(0.1, 2.0, N, dtype=F64), torch.tensor([0.0, 0.0, -9.81], dtype=F64))
    sol = ensemble(fall, start, T, args, chunk_size=6)
    exact = args[1] / args[0][:, None] * (1 - (-args[0][:, None] * 2).exp())
    torch.testing.assert_close(sol.y.v[:, -1], exact, rtol=1e-4, atol=1e-4)
    assert_same(sol, solve(fall, start, T, args, batch_dims=1))
    again = pickle.loads(pickle.dumps(sol))
    assert torch.equal(again.y.x, sol.y.x)


def test_parts_of_a_state_lie_row_by_row() -> None:
    """What `solve` does with the slopes of a batch of pytrees."""
    y0 = {"a": states(), "b": torch.arange(1.0, N + 1, dtype=F64)}
    sol = solve(lambda t, y: {"a": -y["a"], "b": y["b"]}, y0, (0.0, 1.0), batch_dims=1, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(sol.y["a"][:, -1], y0["a"] * np.exp(-1), rtol=0, atol=1e-7)
    torch.testing.assert_close(sol.y["b"][:, -1], y0["b"] * np.exp(1), rtol=0, atol=1e-6)


def test_times_of_their_own() -> None:
    """Also in both directions at once."""
    ends = torch.linspace(-1.0, 2.0, N, dtype=F64)
    whole = solve(pendulum, states(), (0.5, ends), sweep(), batch_dims=1)
    assert_same(ensemble(pendulum, states(), (0.5, ends), sweep(), chunk_size=4), whole)
    times = T * torch.linspace(0.5, 1.0, N, dtype=F64)[:, None]
    sol = ensemble(pendulum, states(), times, sweep(), chunk_size=4)
    assert torch.equal(sol.t, times)
    assert_same(sol, solve(pendulum, states(), times, sweep(), batch_dims=1))
    assert_same(
        ensemble(pendulum, states(), 2.0, sweep(), chunk_size=9), solve(pendulum, states(), 2.0, sweep(), batch_dims=1)
    )


def test_tolerances_of_their_own() -> None:
    rtol = torch.logspace(-9, -3, N, dtype=F64)[:, None]
    sol = ensemble(pendulum, states(), T, sweep(), chunk_size=4, rtol=rtol, atol=torch.tensor([1e-7, 1e-6]))
    whole = solve(pendulum, states(), T, sweep(), batch_dims=1, rtol=rtol, atol=torch.tensor([1e-7, 1e-6]))
    assert_same(sol, whole)
    assert sol.stats.accepted[0] > 2 * sol.stats.accepted[-1]


def test_a_function_of_the_state() -> None:
    sol = ensemble(pendulum, states(), T, sweep(), chunk_size=4, save=lambda t, y: y[..., 0] ** 2)
    whole = ensemble(pendulum, states(), T, sweep(), chunk_size=4)
    assert torch.equal(sol.y, whole.y[..., 0] ** 2)


# ---- who has what for himself


def test_one_state_for_all() -> None:
    start = torch.tensor([1.0, 0.0], dtype=F64)
    sol = ensemble(pendulum, start, T, sweep(), members=N, chunk_size=5)
    assert_same(sol, solve(pendulum, start.expand(N, 2), T, sweep(), batch_dims=1))
    number = ensemble(lambda t, y, k: -k * y, 1.0, (0, 1), torch.arange(5.0), members=5, chunk_size=2)
    torch.testing.assert_close(number.y[:, -1], (-torch.arange(5.0)).exp(), rtol=1e-4, atol=1e-5)


def test_what_is_shared() -> None:
    seen: list[dict[str, Any]] = []

    def f(t: Tensor, y: Tensor, args: dict[str, Any]) -> Tensor:
        seen.append(args)
        return -y

    args = {
        "own": torch.arange(4.0),
        "array": np.arange(4.0),
        "square": torch.eye(4),
        "other": torch.ones(3),
        "number": 2.0,
        "text": "as it is",
    }
    ensemble(f, torch.ones(4, 2), (0.0, 1.0), args, chunk_size=3, shared="square")
    assert [x.tolist() for x in (seen[0]["own"], seen[-1]["own"])] == [[0, 1, 2], [3]]
    assert seen[-1]["array"].tolist() == [3]
    assert seen[-1]["square"] is args["square"]
    assert seen[-1]["other"] is args["other"]
    assert seen[-1]["number"] == 2.0
    ensemble(f, torch.ones(4, 2), (0.0, 1.0), args, chunk_size=3, shared=["square", "own"])
    assert seen[-1]["own"] is args["own"]
    ensemble(f, torch.ones(4, 2), (0.0, 1.0), args, chunk_size=3, shared=True)
    assert seen[-1]["array"] is args["array"]
    ensemble(f, torch.ones(4, 2), (0.0, 1.0), (args["own"], args["square"]), chunk_size=3, shared=1)
    assert seen[-1][1] is args["square"]
    ensemble(f, torch.ones(4, 2), (0.0, 1.0), args["square"], chunk_size=3, shared=True)
    assert seen[-1] is args["square"]


# ---- members that fail


def blow_up(t: Tensor, y: Tensor, args: Tensor) -> Tensor:
    """Members with ``args > 0`` leave for infinity before t = 1."""
    return args[:, None] * y**2 - y


BAD = [2, 3, 17]


def bad_members() -> Tensor:
    args = torch.zeros(N, dtype=F64)
    args[BAD] = 5.0
    return args


@pytest.mark.parametrize("chunk_size", [4, 100])
def test_members_that_fail(chunk_size: int) -> None:
    y0 = torch.ones(N, 1, dtype=F64)
    with pytest.raises(SolveError, match=r"3 of 23 members failed \(2, 3, 17\)") as caught:
        ensemble(blow_up, y0, (0.0, 1.0), bad_members(), chunk_size=chunk_size)
    assert "member 2: " in str(caught.value)
    assert "member 17: " in str(caught.value)
    sol = ensemble(blow_up, y0, (0.0, 1.0), bad_members(), chunk_size=chunk_size, throw=False)
    for s in (sol, caught.value.solution):
        assert s.failed == BAD
        assert not s.success
        assert sorted(s.messages) == BAD
        assert s[17].status is s.status[17]
        assert s[18].status is Status.SUCCESS
        torch.testing.assert_close(s[18].y[-1], torch.tensor([np.exp(-1)], dtype=F64), rtol=1e-4, atol=0)
        assert [len(x) for x in s.y] == [1 if i in BAD else 2 for i in range(N)]
    assert_same(sol, solve(blow_up, y0, (0.0, 1.0), bad_members(), batch_dims=1, throw=False))
    end = ensemble(blow_up, y0, (0.0, 1.0), bad_members(), chunk_size=chunk_size, throw=False, save="end")
    assert end.y.shape == (N, 1, 1)


def test_an_exception_of_f_says_which_members() -> None:
    def f(t: Tensor, y: Tensor, args: Tensor) -> Tensor:
        if 9.0 in args:
            raise ZeroDivisionError("no way")
        return -y

    with pytest.raises(ZeroDivisionError, match="no way") as caught:
        ensemble(f, torch.ones(N, 1), (0.0, 1.0), torch.arange(float(N)), chunk_size=4)
    if hasattr(caught.value, "__notes__"):
        assert "members 8 to 11 of 23" in caught.value.__notes__[0]
        assert "each member has its own args; all share nothing" in caught.value.__notes__[0]


def interrupt_at(member: float) -> Any:
    def f(t: Tensor, y: Tensor, args: Tensor) -> Tensor:
        if member in args and float(t.max()) > 0.5:
            raise KeyboardInterrupt
        return -y

    return f


def test_interrupted() -> None:
    args = torch.arange(float(N))
    with pytest.raises(KeyboardInterrupt):
        ensemble(interrupt_at(9.0), torch.ones(N, 1), (0.0, 1.0), args, chunk_size=4)
    sol = ensemble(interrupt_at(9.0), torch.ones(N, 1), (0.0, 1.0), args, chunk_size=4, throw=False)
    assert sol.status == [Status.SUCCESS] * 8 + [Status.INTERRUPTED] * 15
    assert [len(x) for x in sol.y] == [2] * 8 + [1] * 4 + [0] * 11
    assert "interrupted" in sol.messages[22]
    assert "interrupted" in sol[22].message
    assert len(sol) == N


# ---- gradients, the bar, memory


def test_gradients_flow_through_the_chunks() -> None:
    def loss(solver: Any, **settings: Any) -> tuple[Tensor, ...]:
        y0, drive, damping = states().requires_grad_(), sweep()["drive"].requires_grad_(), torch.tensor(0.2, dtype=F64)
        damping.requires_grad_()
        sol = solver(pendulum, y0, T, {"drive": drive, "damping": damping}, **settings)
        return torch.autograd.grad((sol.y**2).sum(), (y0, drive, damping))

    for a, b in zip(loss(ensemble, chunk_size=5), loss(solve, batch_dims=1)):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_progress(capsys: pytest.CaptureFixture[str]) -> None:
    ensemble(pendulum, states(), T, sweep(), chunk_size=5)
    assert capsys.readouterr().err == ""
    ensemble(pendulum, states(), T, sweep(), chunk_size=5, progress=True)
    shown = capsys.readouterr().err
    assert "ensemble: 100%" in shown
    assert "23.0/23.0" in shown


def test_default_chunks() -> None:
    """256 KiB of states, in equal parts."""
    small, large = (Layout(torch.zeros(1, width).expand(100_000, width), 1) for width in (2, 10**6))
    assert chunk_size_for(small, None, None) == 25_000  # of at most 32768
    assert chunk_size_for(small, None, None, processes=3) == 16_667  # two turns
    assert chunk_size_for(small, None, None, processes=8) == 12_500
    assert chunk_size_for(small, "cuda", None) == 100_000
    assert chunk_size_for(large, None, None) == 1
    assert chunk_size_for(small, None, 7, processes=3) == 7


def test_a_result_of_many_members_holds_no_object_for_each() -> None:
    n = 100_000
    y0 = torch.ones(n, 1)
    y0[5] = float("nan")
    sol = ensemble(lambda t, y: -y, y0, (0.0, 1e-3), throw=False)
    assert sol.failed == [5]
    assert "y" not in vars(sol)  # 99999 tensors [2, 1] and one [1, 1], made when somebody asks
    assert sol[n - 1].y.shape == (2, 1)
    assert len(sol.y) == n


# ---- nonsense


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"y0": 1.0}, ["tensor without axes", "members="]),
        ({"y0": torch.ones(0, 2)}, ["holds no member"]),
        ({"y0": {"a": torch.ones(3, 2), "b": torch.ones(4)}}, ["y0['b']", "leading axes"]),
        ({"y0": torch.ones(3, dtype=torch.int64)}, ["dtype torch.int64"]),
        ({"members": 0}, ["members=0", "at least 1"]),
        ({"members": 2.5}, ["members=2.5"]),
        ({"chunk_size": 0}, ["chunk_size=0", "at least 1"]),
        ({"chunk_size": 2.5}, ["chunk_size=2.5"]),
        ({"chunk_size": True}, ["chunk_size=True"]),
        ({"args": {"k": torch.ones(4)}, "shared": "rate"}, ["shared='rate'", "'rate'", "'k'", "shared=True"]),
        ({"args": torch.ones(4), "shared": 0}, ["shared=0", "it has none", "shared=True"]),
        ({"t": torch.zeros(3, 2)}, ["(3, 2)", "(4,)"]),
        ({"t": torch.tensor([[0.0, 1.0]] * 3 + [[0.0, float("nan")]])}, ["nan"]),
        ({"t": torch.tensor([[0.0, 1.0, 2.0]] * 3 + [[0.0, 2.0, 1.0]])}, ["row 3", "strictly"]),
        ({"rtol": {"a": 1e-3}}, ["rtol"]),
        ({"dense": True}, ["dense=True", "save at the times"]),
        ({"couple": True}, ["couple=True", "batch_dims=1"]),
        ({"batch_dims": 2}, ["batch_dims=2", "[N, ...]"]),
        ({"method": "rk5"}, ["rk5", "rk4"]),
        ({"save": "sometimes"}, ["sometimes", "'end'"]),
        ({"group": 5}, ["group=", "init_process_group"]),
    ],
)
def test_nonsense_is_refused(settings: dict[str, Any], words: list[str]) -> None:
    call = {"y0": torch.ones(4, 2), "t": (0.0, 1.0), **settings}
    with pytest.raises((InputError, InputTypeError)) as caught:
        ensemble(lambda t, y, args=None: -y, **call, **({} if "chunk_size" in call else {"chunk_size": 2}))
    missing = [word for word in words if word not in str(caught.value)]
    assert not missing, f"{missing} not in: {caught.value}"


def test_start_is_refused() -> None:
    start = solve(lambda t, y: -y, torch.ones(2), 1.0)
    with pytest.raises(InputError, match=r"y0=solution\.y\[:, -1\]"):
        ensemble(lambda t, y: -y, torch.ones(4, 2), 1.0, start=start)


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(TypeError, match="metod"):
        ensemble(lambda t, y: -y, torch.ones(4, 2), 1.0, metod="rk4")


def test_a_wrong_slope_names_the_members() -> None:
    with pytest.raises(SolveError, match="4 of 4 members failed"):
        ensemble(lambda t, y: y[:, 0], torch.ones(4, 2), 1.0, chunk_size=3)


def test_it_is_public() -> None:
    assert torchivp.ensemble is ensemble
    assert "ensemble" in torchivp.__all__
