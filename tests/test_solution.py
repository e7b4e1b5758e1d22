"""What a solve gives back: its attributes, repr, movements, copies, pickles, pictures, counters."""

from __future__ import annotations

import copy
import io
import math
import pickle
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from torchivp import Event, Solution, SolveError, Stats, Status, solve
from torchivp.state import flatten, tree_map

ONE = torch.ones(2, dtype=torch.float64)


class Pair(NamedTuple):
    x: Tensor
    v: Tensor


def decay(t: Tensor, y: Tensor) -> Tensor:
    return -y


def full(y0: Any = ONE, f: Any = decay, **options: Any) -> Solution:
    """A solution with everything in it."""
    event = Event(lambda t, y: t - 0.6)
    return solve(f, y0, torch.linspace(0, 1, 5), dense=True, events=[event], **options)


def tensors(sol: Solution) -> list[Tensor]:
    """Every tensor a solution holds, wherever."""
    found, todo, seen = [], [sol], set()
    while todo:
        x = todo.pop()
        if id(x) in seen:
            continue
        seen.add(id(x))
        if isinstance(x, Tensor):
            found.append(x)
        elif isinstance(x, dict):
            todo.extend(x.values())
        elif isinstance(x, list | tuple):
            todo.extend(x)
        elif hasattr(x, "__dict__") and type(x).__module__.startswith("torchivp"):
            todo.extend(vars(x).values())
    return found


def test_what_a_solution_has() -> None:
    sol = full()
    assert sol.t.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert sol.y.shape == (5, 2)
    assert sol.status is Status.SUCCESS
    assert sol.success is True
    assert "reached the end" in sol.message
    assert "t=1" in sol.message
    assert [t.tolist() for t in sol.t_events] == [[0.6]]
    assert sol.y_events[0].shape == (1, 2)
    plain = solve(decay, ONE, 1.0)
    assert plain.t_events is None
    assert plain.y_events is None


def test_counters() -> None:
    sol = solve(lambda t, y: torch.cos(10 * t) * y * 10, ONE, 3.0, rtol=1e-7, atol=1e-7, dt=1.0)
    stats = sol.stats
    assert isinstance(stats, Stats)
    assert stats.attempted == stats.accepted + stats.rejected
    assert stats.rejected >= 1
    assert stats.nfe == 6 * stats.attempted + 1
    assert (stats.replayed, stats.backward_attempted) == (0, 0)


def test_replays_are_counted_apart() -> None:
    y0 = ONE.clone().requires_grad_()
    sol = solve(decay, y0, 1.0)
    before = sol.stats
    sol.y[-1].sum().backward()
    assert sol.stats.nfe == before.nfe
    assert sol.stats.replayed > 0 == before.replayed
    adjoint = solve(decay, y0, 1.0, gradient="adjoint")
    adjoint.y[-1].sum().backward()
    assert adjoint.stats.backward_attempted > 0


@pytest.mark.parametrize(
    ("sol", "text"),
    [
        (lambda: solve(decay, ONE, 1.0), r"^Solution\(success: t=0\.\.1, y=float64\[2, 2\], nfe=\d+, steps=\d+\+\d+ rejected\)$"),
        (lambda: solve(decay, torch.ones(()), (1, 0)), r"success: t=1\.\.0, y=float32\[2\]"),
        (
            lambda: solve(lambda t, y: {"a": y["b"], "b": y["a"]}, {"a": ONE, "b": ONE}, 1.0),
            r"y=\{'a': 'float64\[2, 2\]', 'b': 'float64\[2, 2\]'\}",
        ),
        (lambda: solve(lambda t, y: y * y, ONE, 2.0, throw=False), r"^Solution\(step_too_small: t=0\.\.0, "),
        (lambda: solve(decay, ONE, 1.0, save=lambda t, y: y.sum()), r"y=float64\[2\]"),
        (lambda: solve(decay, ONE, 1.0, events=Event(lambda t, y: t - 0.5, terminal=True)), r"^Solution\(event: t=0\.\.0\.5,"),
    ],
)  # fmt: skip
def test_repr_is_one_readable_line(sol: Any, text: str) -> None:
    import re

    line = repr(sol())
    assert re.search(text, line), line
    assert "\n" not in line
    assert len(line) < 160


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_to_another_precision(dtype: torch.dtype) -> None:
    sol = full()
    moved = sol.to(dtype)
    assert {x.dtype for x in tensors(moved) if x.numel()} == {dtype}
    assert {x.dtype for x in tensors(sol)} == {torch.float64}
    assert moved(0.5).dtype == dtype
    assert abs(moved(0.5)[0].item() - math.exp(-0.5)) < 10 * torch.finfo(dtype).eps
    assert moved.message == sol.message
    assert moved.stats == sol.stats


def test_to_keeps_what_is_complex_complex_and_what_is_whole_whole() -> None:
    y0 = {"wave": torch.ones(2, dtype=torch.complex64), "heat": torch.ones(2)}
    f = lambda t, y: {"wave": 1j * y["wave"], "heat": -y["heat"]}
    sol = solve(f, y0, 1.0, dense=True)
    for dtype in (torch.float64, torch.complex128):
        moved = sol.to(dtype)
        assert (moved.t.dtype, moved.y["wave"].dtype, moved.y["heat"].dtype) == (
            torch.float64, torch.complex128, torch.float64,
        )  # fmt: skip
        assert moved(0.5)["heat"].dtype == torch.float64
        assert abs(moved(0.5)["wave"][0].item() - complex(math.cos(0.5), math.sin(0.5))) < 1e-5
        again = solve(f, None, 2.0, start=moved)
        assert again.y["wave"].dtype == torch.complex128
    counted = solve(decay, ONE, 1.0, save=lambda t, y: (y > 0.5).sum()).to(torch.float32)
    assert counted.y.tolist() == [2, 0]
    assert counted.y.dtype == torch.int64


def test_to_a_device_and_back() -> None:
    """meta stands for any other device."""
    sol = full()
    moved = sol.to("meta")
    assert {x.device.type for x in tensors(moved)} == {"meta"}
    assert moved.layout.device.type == "meta"
    assert full().to(device="cpu").layout.device.type == "cpu"
    assert torch.equal(sol.cpu().y, sol.y)


@pytest.mark.parametrize("gradient", ["discrete", "direct"])
def test_detach(gradient: str) -> None:
    y0 = ONE.clone().requires_grad_()
    sol = full(y0, gradient=gradient)
    assert any(x.requires_grad for x in tensors(sol))
    free = sol.detach()
    assert not any(x.requires_grad for x in tensors(free))
    assert torch.equal(free.y, sol.y)
    assert sol.y.requires_grad
    assert not free(0.3).requires_grad


def test_movements_are_differentiable() -> None:
    y0 = ONE.clone().requires_grad_()
    (grad,) = torch.autograd.grad(solve(decay, y0, 1.0).to(torch.float32).y[-1].sum(), y0)
    torch.testing.assert_close(grad, torch.full((2,), math.exp(-1), dtype=torch.float64), rtol=1e-5, atol=0)


STATES: dict[str, tuple[Any, Any]] = {
    "tensor": (ONE, decay),
    "scalar": (torch.tensor(1.0), decay),
    "bfloat16": (torch.ones(2, dtype=torch.bfloat16), decay),
    "empty": (torch.ones(0, 2), decay),
    "complex": (torch.ones(2, dtype=torch.complex64), lambda t, y: 1j * y),
    "dict": ({"b": ONE, "a": torch.ones(2, 1)}, lambda t, y: {k: -v for k, v in y.items()}),
    "namedtuple": (Pair(ONE, ONE), lambda t, y: Pair(y.v, -y.x)),
    "nested": ([ONE, (ONE, {"a": ONE})], lambda t, y: [-y[0], (-y[1][0], {"a": y[0]})]),
}


@pytest.mark.parametrize(
    ("name", "how"),
    [*((n, "pickle") for n in STATES), ("nested", "deepcopy"), ("dict", "copy"), ("bfloat16", "torch.save")],
)
def test_copies_and_pickles(name: str, how: str) -> None:
    """They hold the same numbers, no graph, and work like the first one."""
    y0, f = STATES[name]
    y0 = tree_map(lambda x: x.clone().requires_grad_(), y0)
    sol = full(y0, f)
    if how == "torch.save":
        file = io.BytesIO()
        torch.save(sol, file)
        file.seek(0)
        other = torch.load(file, weights_only=False)
    else:
        other = {"deepcopy": copy.deepcopy, "copy": copy.copy, "pickle": lambda s: pickle.loads(pickle.dumps(s))}[how](
            sol
        )
    assert not any(x.requires_grad for x in tensors(other))
    assert repr(other) == repr(sol)
    assert (other.status, other.message, other.stats) == (sol.status, sol.message, sol.stats)
    for mine, theirs in ((sol.y, other.y), (sol(0.3), other(0.3)), (sol.y_events[0], other.y_events[0])):
        assert type(mine) is type(theirs)
        assert all(map(torch.equal, flatten(mine)[0], flatten(theirs)[0]))
    on, off = (solve(f, None, 2.0, start=s) for s in (sol.detach(), other))
    assert repr(on) == repr(off)


def test_a_deep_copy_has_memory_of_its_own() -> None:
    sol = full()
    other = copy.deepcopy(sol)
    other.y.zero_()
    other.resume.y.zero_()
    assert (sol.y > 0).all()
    assert (sol.resume.y > 0).all()


def test_a_pickle_is_small() -> None:
    """The structure of a large state is not stored as a state."""
    y0 = torch.ones(50_000, dtype=torch.float64)
    sol = solve(decay, y0, 1.0, save="end")
    assert len(pickle.dumps(sol)) < 4.5 * 8 * 50_000  # y, the point to resume from, its past slopes


def test_a_failure_is_picklable() -> None:
    with pytest.raises(SolveError) as caught:
        solve(lambda t, y: y * y, ONE, 2.0)
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value)


def test_raise_for_status() -> None:
    sol = solve(decay, ONE, 1.0)
    assert sol.raise_for_status() is sol
    bad = solve(lambda t, y: y * y, ONE, 2.0, throw=False)
    with pytest.raises(SolveError) as caught:
        bad.raise_for_status()
    assert caught.value.solution is bad
    assert str(caught.value) == bad.message


@pytest.mark.parametrize(
    ("status", "success"),
    [
        (Status.SUCCESS, True),
        (Status.EVENT, True),
        (Status.STOPPED, True),
        (Status.INTERRUPTED, False),
        (Status.MAX_STEPS, False),
        (Status.STEP_TOO_SMALL, False),
        (Status.NONFINITE_STATE, False),
        (Status.NONFINITE_SLOPE, False),
        (Status.BAD_OUTPUT, False),
    ],
)
def test_which_endings_are_good(status: Status, success: bool) -> None:
    assert status.success is success
    assert status.value


def test_a_picture() -> None:
    matplotlib = pytest.importorskip("matplotlib")
    from matplotlib import pyplot

    ax = full().plot()
    assert len(ax.lines) >= 2
    xs = ax.lines[0].get_xdata()
    assert (xs.min(), xs.max()) == (0, 1)
    mine = pyplot.subplots()[1]
    assert solve(decay, ONE, 1.0).plot(ax=mine) is mine
    assert isinstance(mine, matplotlib.axes.Axes)
    pyplot.close("all")
