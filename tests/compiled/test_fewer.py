"""``compact=True`` compiled: rows that are done are let go, and nothing else changes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import torchivp
from compiled.pairs import assert_same
from torchivp.runners.compiled import fewer

pytestmark = pytest.mark.compiled

F64 = torch.float64
N = 40
RATES = torch.logspace(-1, 0.9, N, dtype=F64)
Y0 = torch.linspace(-1, 2, 2 * N, dtype=F64).view(N, 2)
OWN_TIMES = torch.stack([torch.linspace(0, a, 7, dtype=F64) for a in torch.linspace(0.2, -1.3, N)])


def turning(t: Tensor, y: Tensor, args: dict[str, Tensor]) -> Tensor:
    """Oscillators whose frequencies are in args."""
    x, v = y.unbind(-1)
    return torch.stack([v, -x], -1) * args["rate"].unsqueeze(-1) * args["shared"]


def solve(runner: str, f: Any = turning, y0: Tensor = Y0, **kw: Any) -> torchivp.BatchSolution:
    args = {"rate": RATES[: len(y0)], "shared": torch.tensor([1.5], dtype=F64)}
    with torch.no_grad():
        return torchivp.solve(
            f,
            y0,
            kw.pop("t", (0.0, 1.0)),
            kw.pop("args", args),
            batch_dims=1,
            rtol=1e-4,
            compact=True,
            runner=runner,
            **kw,
        )


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows went on together, one time after the other."""
    seen: list[int] = []

    def rest(problem: Any, *how: Any) -> None:
        seen.append(problem.layout.rows)
        whole(problem, *how)

    whole = fewer.rest
    monkeypatch.setattr(fewer, "rest", rest)
    monkeypatch.setattr(fewer, "_FEW", 2)
    return seen


@pytest.mark.parametrize(
    "kw",
    [
        {}, {"save": "steps", "dt": 0.5}, {"save": "end"}, {"t": torch.linspace(0, 1, 9, dtype=F64)}, {"t": OWN_TIMES},
        {"stop_times": [0.31], "jump_times": [0.62]}, {"controller": torchivp.PID(p=0.3, i=0.3)},
        {"method": "dop853"}, {"method": torchivp.methods.Reversible("bosh3")}, {"atol": torch.full((N, 1), 1e-6)},
        {"method": "kvaerno3"}, {"method": "rodas4"}, {"norm": "max"}, {"max_steps": 30, "throw": False},
    ],
    ids=[
        "ends", "steps", "end", "times", "own times", "stops and jumps", "PI", "dop853", "reversible", "tolerances",
        "kvaerno3", "rodas4", "max", "out of steps",
    ],
)  # fmt: skip
def test_as_eager(kw: dict[str, Any], python_loops: None, sizes: list[int]) -> None:
    eager, compiled = (solve(runner, **kw) for runner in ("eager", "compiled"))
    assert_same(eager, compiled, nfe="jump_times" not in kw and kw.get("method") != "rodas4")
    assert sizes[0] == N
    assert len(sizes) > 2 or "jump_times" in kw
    assert all(b <= a // 2 or b == 2 for a, b in zip(sizes, sizes[1:]))


def test_rows_that_fail(python_loops: None, sizes: list[int]) -> None:
    def f(t: Tensor, y: Tensor, power: Tensor) -> Tensor:
        return torch.where(power.unsqueeze(-1) > 1, y**2, -power.unsqueeze(-1) * y)

    power = torch.tensor([0.5, 2.0, 0.1, 0.7, 2.0, 0.3], dtype=F64)
    y0 = torch.tensor([[1.0], [2.0], [1.0], [1.0], [0.5], [3.0]], dtype=F64)
    eager, compiled = (solve(runner, f, y0, args=power, throw=False, max_steps=300) for runner in ("eager", "compiled"))
    assert eager.failed == compiled.failed == [1]
    assert compiled.status == eager.status
    assert compiled.messages[1].startswith("The step became too small")
    assert sizes[-1] == 2  # with one that is done


def test_gradients_are_refused_as_eagerly(python_loops: None) -> None:
    y0 = Y0.clone().requires_grad_()
    with pytest.raises(torchivp.InputError, match="gradient='direct'"):
        torchivp.solve(lambda t, y: -y, y0, (0.0, 1.0), batch_dims=1, compact=True, runner="compiled")


@pytest.mark.slow
def test_one_program_for_all_sizes(sizes: list[int]) -> None:
    def f(t: Tensor, y: Tensor, args: dict[str, Tensor]) -> Tensor:
        return turning(t, y, args)

    before = len(torchivp.compilations())
    assert_same(*(solve(runner, f) for runner in ("eager", "compiled")))
    assert len(sizes) > 3
    assert len(torchivp.compilations()) - before == 2
