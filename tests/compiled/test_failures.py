"""What a compiled solve says where it fails."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import torchivp
from compiled.pairs import ROWS
from torchivp import Status

pytestmark = pytest.mark.compiled


def breaks_down(t: Tensor, y: Tensor) -> Tensor:
    """Its first number becomes nan at t=0.5, the others never do."""
    first = torch.where(t > 0.5, torch.nan, -y[..., 0])
    return torch.cat([first.unsqueeze(-1), -y[..., 1:]], -1)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"batch_dims": 1}], ids=["one", "rows"])
def test_the_entries_that_are_nan_are_named(settings: dict[str, int]) -> None:
    """Also where the shorter step that would have come next shows none."""
    with torch.no_grad():
        y0 = ROWS if settings else ROWS[0]
        sol = torchivp.solve(breaks_down, y0, (0.0, 1.0), runner="compiled", throw=False, **settings)
    rows = [s is Status.NONFINITE_SLOPE for s in (sol.status if settings else [sol.status])]
    assert all(rows)
    assert sol.message.count("in y[0] (1 of 2 entries)") == len(rows)
