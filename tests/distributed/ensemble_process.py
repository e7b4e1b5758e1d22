"""One of the processes that solve an ensemble together; `test_ensemble.py` starts them.

python ensemble_process.py RANK FOLDER SIZE CASE

Prints what the test looks at.
"""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from torchivp import BatchSolution, GradientError, InputError, SolveError, Status, ensemble

N = 23
Y0 = torch.randn(N, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
ARGS = {"drive": torch.linspace(0.0, 3.0, N, dtype=torch.float64), "damping": 0.2}


def pendulum(t: Tensor, y: Tensor, args: Any) -> Tensor:
    x, v = y.unbind(-1)
    return torch.stack([v, -x.sin() - args["damping"] * v + args["drive"] * t.cos()], dim=-1)


def at_member(member: int, late: bool, what: Callable[[], object]) -> Callable[[Tensor, Tensor, Any], Tensor]:
    """The pendulum, but something happens where this member is solved (in the middle of it, or at once)."""

    def f(t: Tensor, y: Tensor, args: Any) -> Tensor:
        if bool((args["drive"] == ARGS["drive"][member]).any()) and (not late or float(t.min()) > 0.5):
            what()
        return pendulum(t, y, args)

    return f


def everywhere(f: Any = pendulum, **settings: Any) -> BatchSolution:
    return ensemble(f, Y0, (0.0, 1.0, 2.0), ARGS, **{"chunk_size": 4, "group": dist.group.WORLD, **settings})


def same_numbers() -> None:
    """As in one process, to the last bit; every process has them all."""
    for settings in ({}, {"chunk_size": 1}, {"chunk_size": 100}, {"save": "steps"}, {"save": lambda t, y: y[..., 0]}):
        together, alone = everywhere(**settings), everywhere(group=None, **settings)
        assert together.status == alone.status
        for name in ("lengths", "t", "y"):
            assert torch.equal(getattr(together.outputs, name), getattr(alone.outputs, name)), (settings, name)
        for a, b in zip(together.ends, alone.ends):
            assert torch.equal(a, b)
        assert torch.equal(together.stats.accepted, alone.stats.accepted)
        assert together.stats.nfe == alone.stats.nfe
        a, b = ([x] if isinstance(x, Tensor) else x for x in (together.y, alone.y))
        assert all(map(torch.equal, a, b))


def members_that_fail() -> None:
    args = {**ARGS, "drive": ARGS["drive"].clone()}
    args["drive"][[3, 11]] = torch.nan
    sol = ensemble(pendulum, Y0, (0.0, 1.0), args, chunk_size=4, group=dist.group.WORLD, throw=False)
    assert sol.failed == [3, 11]
    with pytest.raises(SolveError, match=r"2 of 23 members failed \(3, 11\)") as caught:
        ensemble(pendulum, Y0, (0.0, 1.0), args, chunk_size=4, group=dist.group.WORLD)
    assert caught.value.solution.status == sol.status
    assert everywhere(chunk_size=None).success


def expect(kind: type[Exception], call: Callable[[], object], *words: str) -> None:
    with pytest.raises(kind) as caught:
        call()
    missing = [word for word in words if word not in str(caught.value)]
    assert not missing, f"{missing} not in: {caught.value}"


def nonsense() -> None:
    rank = dist.get_rank()
    expect(InputError, lambda: everywhere(chunk_size=4 + rank), "members in", "same arguments")
    groups = [dist.new_group([0]), dist.new_group([1])]
    expect(InputError, lambda: everywhere(group=groups[1 - rank]), "not in the group")
    assert everywhere(group=groups[rank]).success
    damping = torch.tensor(0.2, requires_grad=True)
    parameters = lambda: ensemble(pendulum, Y0, 1.0, {**ARGS, "damping": damping}, chunk_size=4, group=dist.group.WORLD)
    expect(GradientError, parameters, "no_grad", "share of the members")
    with torch.no_grad():
        assert parameters().success


def progress() -> None:
    everywhere(progress=True)


def raises() -> None:
    """In the chunk of members 12 to 15, which is the fourth."""

    def no_way() -> None:
        raise ZeroDivisionError("no way")

    try:
        everywhere(at_member(13, True, no_way))
    except ZeroDivisionError:
        print("ZeroDivisionError")
    except SolveError as error:
        report(error)


def killed() -> None:
    try:
        everywhere(at_member(13, True, lambda: os.kill(os.getpid(), signal.SIGKILL)))
    except SolveError as error:
        report(error)


def exits() -> None:
    """At once, in the very first turn."""
    try:
        everywhere(at_member(1, False, lambda: os._exit(3)))
    except SolveError as error:
        report(error)


def report(error: SolveError) -> None:
    """What it says, and which members are there."""
    print(str(error).replace("\n", " | "))
    done = [i for i, status in enumerate(error.solution.status) if status is Status.SUCCESS]
    print(f"done {done}")
    assert all(len(y) == (3 if i in done else 0) for i, y in enumerate(error.solution.y))
    assert all(error.solution.status[i] is Status.INTERRUPTED for i in range(N) if i not in done)


def main(rank: int, folder: Path, size: int, *cases: str) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    store = f"file://{folder / 'meet'}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=size, timeout=timedelta(seconds=20))
    for case in cases:
        globals()[case]()
        print("finished", case, flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
