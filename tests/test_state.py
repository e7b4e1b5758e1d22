"""Any pytree or shape as one row and back."""

from __future__ import annotations

import collections
import dataclasses
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

import torchivp
from torchivp import InputError, InputTypeError
from torchivp.state import Layout, as_state, flatten, from_numpy, tree_map, unflatten


class Point(NamedTuple):
    x: Any
    y: Any


@dataclasses.dataclass
class Box:
    low: Any
    high: Any
    label: str = dataclasses.field(default="box", init=False)


TREES = [
    torch.arange(6.0).view(2, 3),
    torch.tensor(1.0),
    torch.empty(0, 3),
    (torch.ones(2), torch.zeros(3, 1)),
    [torch.ones(2), [torch.zeros(()), torch.ones(1, 1)]],
    {"b": torch.ones(2), "a": {"c": torch.zeros(0), "d": (torch.ones(1),)}},
    Point(torch.ones(2), Point(torch.zeros(1), None)),
    Box(torch.ones(2), [torch.zeros(2), Box(torch.ones(1), torch.ones(2))]),
    collections.OrderedDict(z=torch.ones(1), a=torch.zeros(2)),
    collections.defaultdict(list, z=torch.ones(1), a=torch.zeros(2)),
    collections.deque([torch.ones(1), torch.zeros(2)]),
]


def same(a: Any, b: Any) -> bool:
    x, spec_x = flatten(a)
    y, spec_y = flatten(b)
    return (
        type(a) is type(b) and spec_x == spec_y and all(p.dtype == q.dtype and torch.equal(p, q) for p, q in zip(x, y))
    )


@pytest.mark.parametrize("tree", TREES, ids=lambda t: repr(t)[:30])
def test_a_row_and_back(tree: Any) -> None:
    layout = Layout(tree)
    row = layout.ravel(tree)
    assert row.shape == (1, layout.size)
    assert same(layout.unravel(row), tree)


@pytest.mark.parametrize("tree", TREES, ids=lambda t: repr(t)[:30])
@pytest.mark.parametrize("lead", [(4,), (2, 3), (0,), ()])
def test_rows_get_their_axes_in_front(tree: Any, lead: tuple[int, ...]) -> None:
    layout = Layout(tree)
    rows = layout.ravel(tree).expand(*lead, 1, -1).reshape(*lead, layout.size)
    if not lead:
        rows = rows.unsqueeze(0)
    out = layout.unravel(rows, lead=lead)
    for leaf, shape in zip(flatten(out)[0], layout.shapes):
        assert leaf.shape == (*lead, *shape)
    if lead == (4,):
        assert same(tree_map(lambda x: x[2], out), tree)


@pytest.mark.parametrize(
    ("dtypes", "row", "real"),
    [
        ((torch.float32, torch.float64), torch.float64, torch.float64),
        ((torch.float16, torch.bfloat16), torch.float32, torch.float32),
        ((torch.float16, torch.float16), torch.float32, torch.float16),
        ((torch.bfloat16,), torch.float32, torch.bfloat16),
        ((torch.float32, torch.complex64), torch.complex64, torch.float32),
        ((torch.float64, torch.complex64), torch.complex128, torch.float64),
        ((torch.complex128,), torch.complex128, torch.float64),
        ((torch.float16, torch.complex64), torch.complex64, torch.float32),
    ],
    ids=str,
)
def test_the_dtype_of_a_row(dtypes: tuple[torch.dtype, ...], row: torch.dtype, real: torch.dtype) -> None:
    """What the parts promote to, at least single precision; times in the real dtype the user sees."""
    tree = [torch.ones(2, dtype=dtype) for dtype in dtypes]
    layout = Layout(tree)
    assert (layout.dtype, layout.real_dtype) == (row, real)
    assert layout.ravel(tree).dtype == row
    assert [x.dtype for x in layout.unravel(layout.ravel(tree))] == list(dtypes)


def test_a_row_carries_the_gradient() -> None:
    a = torch.ones(2, requires_grad=True)
    b = torch.ones(2, dtype=torch.complex64, requires_grad=True)
    layout = Layout({"a": a, "b": b})
    out = layout.unravel(3 * layout.ravel({"a": a, "b": b}))
    (out["a"].sum() + out["b"].real.sum()).backward()
    assert a.grad.tolist() == [3, 3]
    assert b.grad.tolist() == [3, 3]


def test_a_part_that_does_not_lie_in_a_row_is_copied() -> None:
    y = torch.arange(6.0).view(2, 3).T
    layout = Layout(y)
    assert torch.equal(layout.unravel(layout.ravel(y)), y)


def test_numpy_arrays_of_every_kind() -> None:
    assert from_numpy(np.linspace(0, 1, 3)[::-1], "x").tolist() == [1.0, 0.5, 0.0]
    frozen = np.ones(2)
    frozen.flags.writeable = False
    tensor = from_numpy(frozen, "x")
    tensor += 1
    assert frozen.tolist() == [1, 1]
    assert from_numpy(np.float32(2), "x").dtype == torch.float32
    assert from_numpy(np.ones((2, 0)), "x").shape == (2, 0)
    with pytest.raises(InputTypeError, match=r"x is a NumPy array of dtype <U1.*no counterpart.*astype"):
        from_numpy(np.array(["a"]), "x")


@pytest.mark.parametrize(
    ("y0", "kind", "shapes"),
    [
        (1.0, torch.Tensor, [()]),
        ([1.0, 2], torch.Tensor, [(2,)]),
        ([[1], [2]], torch.Tensor, [(2, 1)]),
        ((1.0, torch.ones(2)), tuple, [(), (2,)]),
        ([torch.tensor(1.0), torch.tensor(2.0)], list, [(), ()]),
        ([np.ones(2), 1.0], list, [(2,), ()]),
        ({"a": 1.0, "b": np.ones(3)}, dict, [(), (3,)]),
        (Point(1.0, 2.0), Point, [(), ()]),
        (Box(1.0, np.ones((1, 1))), Box, [(), (1, 1)]),
    ],
    ids=repr,
)
def test_numbers_and_arrays_inside_a_state(y0: Any, kind: type, shapes: list[tuple[int, ...]]) -> None:
    """A list of nothing but numbers is a vector; with anything else in it, it is a list."""
    state = as_state(y0)
    assert isinstance(state, kind)
    assert [tuple(x.shape) for x in flatten(state)[0]] == shapes
    assert all(x.is_floating_point() for x in flatten(state)[0])


def test_a_dataclass_is_known_after_the_first_look() -> None:
    @dataclasses.dataclass
    class Fresh:
        a: Any
        b: Any

    leaves, spec = flatten([Fresh(1, [Fresh(2, 3)]), 4])
    assert leaves == [1, 2, 3, 4]
    assert unflatten(spec, leaves) == [Fresh(1, [Fresh(2, 3)]), 4]


def test_entries_are_described_as_one_indexes_them() -> None:
    layout = Layout({"a": torch.zeros(2, 3), "b": [torch.zeros(()), torch.zeros(1)]})
    mask = torch.zeros(1, layout.size, dtype=torch.bool)
    mask[0, 4] = mask[0, 6] = mask[0, 7] = True
    assert layout.describe(mask) == "y['a'][1, 1], y['b'][0], y['b'][1][0] (3 of 8 entries)"
    assert layout.describe(~mask, limit=2) == "y['a'][0, 0], y['a'][0, 1] and 3 more (5 of 8 entries)"
    scalar = Layout(torch.tensor(1.0))
    assert scalar.describe(torch.ones(1, 1, dtype=torch.bool)) == "y (1 of 1 entries)"


def test_a_state_without_tensors_is_refused() -> None:
    for empty in ({}, [], (), None, {"a": []}):
        with pytest.raises(InputError, match="no tensor at all"):
            Layout(as_state(empty))


def test_tensors_on_several_devices_are_refused() -> None:
    with pytest.raises(InputError, match=r"several devices \(cpu, meta\).*Move them"):
        Layout([torch.ones(1), torch.ones(1, device="meta")])


def test_a_layout_moves() -> None:
    layout = Layout({"a": torch.ones(2), "b": torch.ones(1, 1)}).map(lambda x: x.double())
    assert layout.dtypes == [torch.float64] * 2
    assert layout.shapes == [(2,), (1, 1)]


def test_a_solution_with_a_dataclass_is_unpickled_in_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other process has not met the dataclass as a state yet."""
    (tmp_path / "shapes.py").write_text(
        "import dataclasses, torch\n@dataclasses.dataclass\nclass Ball:\n    x: torch.Tensor\n    v: torch.Tensor\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import shapes

    ball = shapes.Ball(torch.ones(2), torch.zeros(2))
    sol = torchivp.solve(lambda t, y: shapes.Ball(y.v, -y.x), ball, 1.0, dense=True)
    (tmp_path / "sol.pkl").write_bytes(pickle.dumps(sol))
    read = (
        "import pickle, torch, shapes\n"
        "sol = pickle.load(open('sol.pkl', 'rb'))\n"
        "assert isinstance(sol.y, shapes.Ball), sol.y\n"
        "assert isinstance(sol(0.5), shapes.Ball)\n"
        "assert abs(sol(0.5).x[0].item() - 0.87758) < 1e-4\n"
        "print(sol)\n"
    )
    run = subprocess.run([sys.executable, "-c", read], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == repr(sol)
