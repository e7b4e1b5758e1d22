"""Two processes over gloo train a block to the parameters of one process with the whole batch, and nothing hangs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from processes import run_together
from torchivp import InputError, solve
from torchivp.collectives import refusing

HERE = Path(__file__).parent


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="PyTorch without gloo")
def test_two_processes(tmp_path: Path) -> None:
    """All cases of `process.py` in one pair of processes: importing PyTorch twice takes longer than they do."""
    said = run_together(HERE / "process.py", tmp_path, 2, seconds=50)
    for rank, (out, err) in enumerate(said):
        done = out.splitlines()
        assert len(done) == 11, f"process {rank} stopped after {done}:\n{err}"


def test_only_what_f_calls_is_refused() -> None:
    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside = nn.Linear(2, 2)

        def forward(self, y: Tensor) -> Tensor:
            with refusing(lambda module: isinstance(module, Around), "no {name} here"):
                return solve(lambda t, y: self.inside(y), y, 1.0).y[-1]

    around = Around()
    around(torch.ones(2))
    with (
        pytest.raises(InputError, match="no Linear here"),
        refusing(lambda module: isinstance(module, nn.Linear), "no {name} here"),
    ):
        around(torch.ones(2))
    nn.Linear(2, 2)(torch.ones(2))  # the hook is gone
