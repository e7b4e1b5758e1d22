"""An ensemble in several processes over gloo: the numbers of one process, and a word on who died."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from processes import run_together
from torchivp import InputError, InputTypeError, ensemble

SCRIPT = Path(__file__).parent / "ensemble_process.py"

pytestmark = pytest.mark.skipif(not dist.is_gloo_available(), reason="PyTorch without gloo")


def run(folder: Path, size: int, *cases: str) -> list[tuple[str, str]]:
    return run_together(SCRIPT, folder, size, str(size), *cases, seconds=50)


def test_two_processes_have_the_numbers_of_one(tmp_path: Path) -> None:
    cases = ["same_numbers", "members_that_fail", "nonsense", "progress"]
    said = run(tmp_path, 2, *cases)
    for out, err in said:
        assert out.splitlines() == [f"finished {case}" for case in cases], err
    assert "ensemble: 100%" in said[0][1]
    assert "ensemble" not in said[1][1]


def test_a_killed_process_is_named_with_its_members(tmp_path: Path) -> None:
    """Chunks of 4: members 12 to 15 belong to process 1, in the second turn."""
    (out, err), (nothing, _) = run(tmp_path, 2, "killed")
    assert nothing == ""
    message, done, end = out.splitlines()
    assert message.startswith("Process 1 of the group died"), err
    assert "while solving members 12 to 15" in message
    assert done == f"done {list(range(12))}"  # its own part of that turn too
    assert end == "finished killed"


def test_one_of_three_exits(tmp_path: Path) -> None:
    """The two others both say so."""
    said = run(tmp_path, 3, "exits")
    assert said[0][0] == ""
    for out, err in said[1:]:
        assert "Process 0 of the group died" in out, err
        assert "while solving members 0 to 3" in out
        assert f"done {list(range(4, 12))}" in out


def test_a_process_that_raises_ends_the_call_in_all(tmp_path: Path) -> None:
    (out, _), (its_own, err) = run(tmp_path, 2, "raises")
    assert its_own.splitlines() == ["ZeroDivisionError", "finished raises"], err
    assert "Process 1 of the group failed while solving members 12 to 15: ZeroDivisionError: no way" in out
    assert f"done {list(range(12))}" in out


def test_a_group_that_is_none() -> None:
    with pytest.raises(InputError, match="init_process_group"):
        ensemble(lambda t, y: -y, torch.ones(2, 1), 1.0, group=dist.group.WORLD or "world")
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        with pytest.raises(InputTypeError, match="'world' is no group"):
            ensemble(lambda t, y: -y, torch.ones(2, 1), 1.0, group="world")
        assert ensemble(lambda t, y: -y, torch.ones(2, 1), 1.0, group=dist.group.WORLD).success
    finally:
        dist.destroy_process_group()
