"""Matrices that compiled loops keep over steps: the numbers of plain PyTorch, attempt by attempt."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import torchivp
from compiled.pairs import assert_same, both
from stiff.test_kept import RATES, START, jumping, reaction
from torchivp.gradients import Discrete
from torchivp.linalg import kept

pytestmark = pytest.mark.compiled
BATCH = torch.cat([START, START.flip(0) * 0.9])


@pytest.fixture(autouse=True)
def all_dear(monkeypatch: pytest.MonkeyPatch) -> None:
    """So small problems keep theirs, too."""
    monkeypatch.setattr(kept, "DEAR", 0)


def settings(rows: bool, method: str = "kvaerno5") -> dict[str, Any]:
    return {"args": RATES, "method": method, "rtol": 1e-5, "atol": 1e-8, **({"batch_dims": 1} if rows else {})}


@pytest.mark.usefixtures("python_loops")
@pytest.mark.parametrize("method", ["kvaerno5", "sdirk2", "trapezoid"])
@pytest.mark.parametrize("rows", [False, True])
def test_same_steps(rows: bool, method: str) -> None:
    more = {"dt": 0.02} if method == "trapezoid" else {}
    eager, compiled = both(reaction, START if rows else START[0], (0.0, 1.5, 2.0), **settings(rows, method), **more)
    assert_same(eager, compiled)
    assert eager.stats.njev < int(torch.as_tensor(eager.stats.accepted).max()) / 3


@pytest.mark.slow
def test_compacted_rows_take_theirs_along(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchivp.runners.compiled.fewer._FEW", 1)
    eager, compiled = both(reaction, BATCH, (0.0, 5.0), **settings(True, "sdirk2"), compact=True)
    assert_same(eager, compiled, nfe=False)


@pytest.mark.usefixtures("python_loops")
@pytest.mark.parametrize("rows", [False, True])
def test_what_fails_with_an_old_matrix_is_tried_with_its_own(rows: bool) -> None:
    y0 = torch.tensor([[0.3, 1.0], [2.0, -1.0]], dtype=torch.float64)
    more: dict[str, Any] = {"batch_dims": 1} if rows else {}
    for controller in (torchivp.FixedSteps(dt=0.1), torchivp.PID()):
        eager, compiled = both(
            jumping, y0 if rows else y0[0], (0.0, 2.0), method="sdirk2", controller=controller, jump_times=[1.0], **more
        )
        assert_same(eager, compiled, nfe=not rows)
        assert int(torch.as_tensor(eager.stats.rejected).min()) >= 1


@pytest.mark.usefixtures("python_loops")
@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("gradient", ["discrete", Discrete(checkpoints=3)])
def test_gradients(gradient: Any, rows: bool) -> None:
    found = []
    for runner in ("eager", "compiled"):
        y0 = (START if rows else START[0]).clone().requires_grad_()
        rates = RATES.clone().requires_grad_()
        sol = torchivp.solve(
            reaction, y0, (0.0, 2.0), gradient=gradient, runner=runner, **{**settings(rows), "args": rates}
        )
        found.append(torch.autograd.grad(sol.y[..., -1, 0].sum(), [y0, rates]))
    torch.testing.assert_close(found[1], found[0], rtol=1e-8, atol=1e-11)


@pytest.mark.usefixtures("python_loops")
@pytest.mark.parametrize("rows", [False, True])
def test_split_fields(rows: bool) -> None:
    field = torchivp.Split(
        lambda t, y: -1e3 * (y - torch.cos(t).unsqueeze(-1)) - 0.1 * y**3, lambda t, y: 2.0 * y.flip(-1)
    )
    more: dict[str, Any] = {"batch_dims": 1} if rows else {}
    eager, compiled = both(field, START if rows else START[0], (0.0, 1.0), method="kencarp4", **more)
    assert_same(eager, compiled)
    assert eager.stats.njev < int(torch.as_tensor(eager.stats.accepted).max()) / 3


def test_compiled() -> None:
    assert_same(*both(reaction, START[0], (0.0, 1.5, 2.0), **settings(False, "sdirk2")))
