"""Many times to land on: the loop is given few of them at once."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from compiled.pairs import ROWS, TIMES, Y0, Swing, assert_same, both, gradients, torch64
from torchivp import solve
from torchivp.runners.compiled import landings
from torchivp.runners.compiled.landings import Landings

pytestmark = [pytest.mark.compiled, pytest.mark.usefixtures("python_loops")]

STOPS = torch.linspace(0.013, 2.97, 31, dtype=torch64)
ALL: dict[str, dict[str, Any]] = {
    "fixed": {"method": "rk4", "dt": 0.03},
    "fixed, with jumps": {"method": "rk4", "dt": 0.03, "jump_times": [0.5, 2.0]},
    "stops": {"method": "bosh3", "stop_times": STOPS},
    "stops backwards": {"method": "bosh3", "stop_times": -STOPS, "t": -TIMES},
}


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landings, "_MOST", 4)
    monkeypatch.setattr(landings, "_LEAST", 3)


@pytest.mark.parametrize("how", ALL.values(), ids=ALL)
def test_the_same_steps(how: dict[str, Any]) -> None:
    for y0, rows in ((Y0, 0), (ROWS, 1)):
        eager, compiled = both(Swing(), y0, **{"t": TIMES, "batch_dims": rows, **how})
        assert_same(eager, compiled)
        assert torch.as_tensor(eager.stats.accepted).min() > 30


def test_the_gradient() -> None:
    f, y0, found = Swing(), Y0.clone().requires_grad_(), []
    for runner in ("eager", "compiled"):
        y = solve(f, y0, TIMES, runner=runner, **ALL["fixed"]).y
        found.append(gradients(lambda y=y: y.sum(), [y0, *f.parameters()]))  # type: ignore[misc]
    torch.testing.assert_close(found[1], found[0], rtol=1e-10, atol=1e-10)


def test_those_ahead() -> None:
    inf = torch.inf
    times = torch.tensor([[9.0, 1.0, 2.0, 3.0, 4.0, 5.0], [7.0, 2.0, 6.0, inf, inf, inf]], dtype=torch64)
    found = Landings(times, 2).ahead(torch.tensor([2.0, 0.5], dtype=torch64))
    assert found.tolist() == [[9.0, 3.0, 4.0, 5.0, inf], [7.0, 2.0, 6.0, inf, inf]]
    assert Landings(times[0], 1).ahead(times[0, 5]).tolist() == [9.0, inf, inf, inf, inf]
