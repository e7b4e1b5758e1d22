"""States taken apart into columns, where ``f`` takes them apart itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from torchivp.runners.compiled.columns import Leaves
from torchivp.runners.compiled.pure import Seen, tracer_of
from torchivp.state import Layout, flatten

RATES = torch.tensor([2.0, 3.0], dtype=torch.float64)


def unbound(t: Tensor, y: Tensor) -> Tensor:
    x, v = y.unbind(-1)
    return torch.stack((v, t - x * RATES[0]), -1)


def indexed(t: Tensor, y: Tensor) -> Tensor:
    return torch.stack([y[..., 1] * RATES[1], -y[..., -2]], dim=-1)


def single(t: Tensor, y: Tensor) -> Tensor:
    return torch.stack((y[1], -y[0] + t))


def passes_a_column_on(t: Tensor, y: Tensor) -> Tensor:
    x, v = y.unbind(-1)
    return torch.stack((v, x), -1)


def in_a_tree(t: Tensor, y: dict[str, Tensor]) -> dict[str, Tensor]:
    x, v = y["b"].unbind(-1)
    return {"a": -y["a"] @ torch.ones(3, 3, dtype=torch.float64), "b": torch.stack((v, -x), -1)}


def asks_for_the_size(t: Tensor, y: Tensor) -> Tensor:
    x, v = y.unbind(-1)
    return torch.stack((v / y.shape[0], -x), -1)


def of_the_whole(t: Tensor, y: Tensor) -> Tensor:
    x, v = y.unbind(-1)
    return torch.stack((v, -x), -1) + y.sum()


def along_the_first(t: Tensor, y: Tensor) -> Tensor:
    x, v = y.unbind(0)
    return torch.stack((v, -x), 0)


def second_order(t: Tensor, y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    a, b = y[0].unbind(-1)
    return y[1], torch.stack((-b, t * a), -1)


def of_the_whole_place(t: Tensor, y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return y[1], torch.stack((-y[0].sum(-1), y[0][..., 0]), -1)


def of_the_speed_too(t: Tensor, y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return y[1], torch.stack((-y[1][..., 1], y[0][..., 0]), -1)


def third_order(t: Tensor, y: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return y[1], y[2], torch.stack((-y[1][..., 1], y[0][..., 0]), -1)


def third_order_of_a_whole(t: Tensor, y: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return y[1], y[2], torch.stack((-y[0].sum(-1), y[1][..., 0]), -1)


def rows(seed: int, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    ("f", "y", "columns"),
    [
        (unbound, rows(0, 5, 2), (2,)),
        (unbound, rows(1, 4, 5, 2), (2,)),
        (indexed, rows(2, 5, 2), (2,)),
        (single, rows(3, 2), (2,)),
        (passes_a_column_on, rows(4, 5, 2), (2,)),
        (in_a_tree, {"a": rows(5, 4, 3), "b": rows(6, 4, 2)}, (0, 2)),
        (asks_for_the_size, rows(7, 5, 2), (2,)),
        (of_the_whole, rows(8, 5, 2), (0,)),
        (along_the_first, rows(9, 2, 2), (0,)),
        (lambda t, y: -y, rows(10, 5, 2), (0,)),
        (second_order, (rows(11, 5, 2), rows(12, 5, 2)), (2, 2)),
        (second_order, (rows(11, 2), rows(12, 2)), (2, 2)),
        (of_the_whole_place, (rows(13, 5, 2), rows(14, 5, 2)), (0, 0)),
        (of_the_speed_too, (rows(15, 5, 2), rows(16, 5, 2)), (2, 2)),
        (third_order, (rows(17, 5, 2), rows(18, 5, 2), rows(19, 5, 2)), (2, 2, 2)),
        (third_order_of_a_whole, (rows(17, 5, 2), rows(18, 5, 2), rows(19, 5, 2)), (0, 0, 0)),
    ],
    ids=lambda x: getattr(x, "__name__", None) if callable(x) else None,
)
def test_columns_give_the_same_slopes(f: Callable[..., Any], y: Any, columns: tuple[int, ...]) -> None:
    t = torch.tensor(0.5, dtype=torch.float64)
    seen: Seen = tracer_of(f)(f, t, y, ())
    pure = seen.pure.in_columns
    assert pure.columns == columns
    layout = Layout(y)
    leaves = Leaves(layout, columns)
    apart = leaves.of(layout.ravel(y))
    slopes = leaves.rows(pure(t, apart, seen.held)).reshape(1, -1)
    for got, wanted in zip(flatten(layout.unravel(slopes))[0], flatten(f(t, y))[0], strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-15)


@pytest.mark.parametrize("lead", [(), (7,), (7, 3)], ids=str)
def test_leaves_are_put_together_as_they_were(lead: tuple[int, ...]) -> None:
    layout = Layout({"a": rows(0, 4, 3), "b": rows(1, 4, 2)}, batch_dims=1)
    leaves = Leaves(layout, (0, 2))
    states = rows(2, *lead, 4, 5)
    apart = leaves.of(states, len(lead))
    assert [x.shape for x in apart] == [(*lead, 4, 3), (*lead, 4), (*lead, 4)]
    assert torch.equal(leaves.rows(apart, len(lead)), states)
    assert leaves.each(("a", "b")) == ("a", "b", "b")
