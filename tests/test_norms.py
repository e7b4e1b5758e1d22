"""Norms by name: what they weigh, in both interfaces."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import torchivp

F64 = torch.float64
RATES = torch.tensor([[0.1], [0.1], [0.1], [30.0]], dtype=F64)
Y0 = torch.ones(4, 2, dtype=F64)


def decay(t: Tensor, y: Tensor) -> Tensor:
    return -RATES * y * torch.cos(9 * t)


def worst_row(steps: int, **kw: Any) -> torchivp.Solution:
    return torchivp.solve(decay, Y0, (0.0, 1.0), rtol=1e-4, atol=1e-6, max_steps=steps, **kw)


def test_the_norm_of_rows_sees_the_hard_row() -> None:
    """Three easy rows halve the mean's error; the largest row is the one of a coupled batch, step by step."""
    mean, rows, entries = (worst_row(10_000, norm=norm) for norm in ("rms", "rows", "max"))
    assert mean.stats.accepted < rows.stats.accepted <= entries.stats.accepted
    batch = torchivp.solve(
        lambda t, y: -RATES * y * torch.cos(9 * t)[:, None],
        Y0,
        (0.0, 1.0),
        rtol=1e-4,
        atol=1e-6,
        batch_dims=1,
        couple=True,
    )
    assert batch.stats.attempted.tolist() == [rows.stats.attempted] * 4
    torch.testing.assert_close(batch.y[:, -1], rows.y[-1], rtol=1e-11, atol=1e-11)


def test_by_name_in_the_drop_in() -> None:
    t = torch.tensor([0.0, 1.0], dtype=F64)
    calls: dict[str, int] = {}
    for norm in ("rms", "rows", "max"):
        counted = 0

        def f(t: Tensor, y: Tensor) -> Tensor:
            nonlocal counted
            counted += 1
            return decay(t, y)

        y = torchivp.odeint(f, Y0, t, rtol=1e-4, atol=1e-6, options={"norm": norm})
        calls[norm] = counted
        both = torchivp.odeint(
            lambda t, y: (decay(t, y[0]), -y[1]), (Y0, Y0[:, :1]), t, rtol=1e-4, atol=1e-6, options={"norm": norm}
        )
        torch.testing.assert_close(both[0], y, rtol=1e-2, atol=1e-2)
    assert calls["rms"] < calls["rows"] <= calls["max"]
    plain = torchivp.odeint(decay, Y0, t, rtol=1e-4, atol=1e-6)
    assert torch.equal(plain, torchivp.odeint(decay, Y0, t, rtol=1e-4, atol=1e-6, options={"norm": "rms"}))
    with pytest.raises(torchivp.InputError, match="'rows'"):
        torchivp.odeint(decay, Y0, t, options={"norm": "row"})


def test_a_function_gets_the_tree() -> None:
    def norm(error: dict[str, Tensor]) -> Tensor:
        assert error["a"].shape == (4, 2)
        return error["a"].abs().amax()

    def f(t: Tensor, y: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"a": decay(t, y["a"]), "b": 1e3 * torch.cos(1e3 * t).expand(1)}

    sol = torchivp.solve(f, {"a": Y0, "b": torch.zeros(1, dtype=F64)}, (0.0, 1.0), norm=norm)
    assert sol.stats.attempted < 200  # the fast part is not looked at


def test_rows_by_themselves() -> None:
    kw: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-6, "norm": "max"}
    sol = torchivp.solve(lambda t, y: -RATES * y * t[:, None], Y0, (0.0, 1.0), batch_dims=1, **kw)
    for b in range(4):
        alone = torchivp.solve(lambda t, y, b=b: -RATES[b] * y * t, Y0[b], (0.0, 1.0), **kw)
        assert alone.stats.attempted == sol.stats.attempted[b]
    with pytest.raises(torchivp.InputError, match="couple=True"):
        torchivp.solve(lambda t, y: -y, Y0, (0.0, 1.0), batch_dims=1, norm="rows")
    with pytest.raises(torchivp.InputError, match="first axis"):
        torchivp.solve(lambda t, y: y, (Y0, torch.ones(3, dtype=F64)), (0.0, 1.0), norm="rows")
    with pytest.raises(torchivp.InputError, match="Choose one of"):
        torchivp.solve(lambda t, y: y, Y0, (0.0, 1.0), norm="mean")
