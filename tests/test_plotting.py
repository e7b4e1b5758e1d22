"""Pictures of solutions, drawn without a display."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import torchivp
from torchivp.errors import InputError
from torchivp.plotting import phase, plot

plt = pytest.importorskip("matplotlib.pyplot")


@pytest.fixture(autouse=True)
def _figures_are_closed() -> Iterator[None]:
    yield
    plt.close("all")


def turn(t: Tensor, y: Tensor) -> Tensor:
    return torch.stack([y[1], -y[0]])


def solve(f: Any = turn, y0: Any = (1.0, 0.0), t: Any = (0.0, 3.0), **options: Any) -> torchivp.Solution:
    return torchivp.solve(f, y0, t, **options)


def names(ax: Any) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_saved_values_are_joined() -> None:
    sol = solve(t=torch.linspace(0, 3, 7))
    ax = sol.plot()
    first, second = ax.get_lines()
    np.testing.assert_allclose(first.get_xdata(), sol.t)
    np.testing.assert_allclose(first.get_ydata(), sol.y[:, 0])
    np.testing.assert_allclose(second.get_ydata(), sol.y[:, 1])
    assert names(ax) == ["y[0]", "y[1]"]
    assert ax.get_xlabel() == "t"
    ax.figure.canvas.draw()


@pytest.mark.parametrize("end", [3.0, -3.0])
def test_dense_output_is_a_smooth_curve(end: float) -> None:
    sol = solve(t=(0.0, end), dense=True)
    line = plot(sol).get_lines()[0]
    assert len(line.get_xdata()) > 100
    assert (line.get_xdata()[0], line.get_xdata()[-1]) == (0.0, end)
    np.testing.assert_allclose(line.get_ydata(), np.cos(line.get_xdata()), atol=1e-4)


def test_draws_where_it_is_told_with_what_it_is_told() -> None:
    _, ax = plt.subplots()
    assert plot(solve(), ax=ax, linestyle="--", color="red") is ax
    assert {line.get_linestyle() for line in ax.get_lines()} == {"--"}
    assert {line.get_color() for line in ax.get_lines()} == {"red"}


def test_components_are_named_as_one_indexes_them() -> None:
    y0 = {"a": torch.ones(2), "b": (torch.ones(1, 2), torch.tensor(1.0))}

    def decay(t: Tensor, y: Any) -> Any:
        return {"a": -y["a"], "b": (-y["b"][0], -y["b"][1])}

    sol = solve(decay, y0)
    assert names(sol.plot()) == ["y['a'][0]", "y['a'][1]", "y['b'][0][0, 0]", "y['b'][0][0, 1]", "y['b'][1]"]


@dataclasses.dataclass
class Body:
    x: Tensor
    v: Tensor


def test_a_scalar_and_a_dataclass() -> None:
    assert names(solve(lambda t, y: -y, 1.0).plot()) == ["y"]
    sol = solve(lambda t, y: Body(y.v, -y.x), Body(torch.tensor(1.0), torch.tensor(0.0)))
    assert names(sol.plot()) == ["y['x']", "y['v']"]


def test_many_components_are_cut_with_a_note() -> None:
    ax = solve(lambda t, y: -y, torch.ones(3, 5)).plot()
    assert len(ax.get_lines()) == 10
    assert ax.get_legend().get_title().get_text() == "the first 10 of 15 components"


def test_complex_states_have_two_lines() -> None:
    ax = solve(lambda t, y: 1j * y, torch.ones(1, dtype=torch.complex64)).plot()
    assert names(ax) == ["y[0].real", "y[0].imag"]


def test_events_are_marked() -> None:
    sol = solve(t=(0.0, 10.0), events=[lambda t, y: y[0], lambda t, y: y[1] + 5])
    ax = sol.plot()
    marks = [line.get_xdata()[0] for line in ax.get_lines()[2:]]
    np.testing.assert_allclose(marks, [np.pi / 2, 3 * np.pi / 2, 5 * np.pi / 2], atol=1e-3)
    assert names(ax) == ["y[0]", "y[1]", "event 0"]
    crosses = phase(sol).get_lines()[2]
    np.testing.assert_allclose(crosses.get_xdata(), 0, atol=1e-5)
    np.testing.assert_allclose(crosses.get_ydata(), [-1, 1, -1], atol=1e-3)


def test_one_point_can_be_seen() -> None:
    ax = solve(save="end").plot()
    assert {line.get_marker() for line in ax.get_lines()} == {"o"}


def test_a_saved_function_and_gradients() -> None:
    y0 = torch.tensor([1.0, 0.0], requires_grad=True)
    sol = solve(y0=y0, save=lambda t, y: {"energy": (y**2).sum() / 2})
    assert names(sol.plot()) == ["y['energy']"]
    plot(solve(y0=y0, dense=True, events=lambda t, y: y[1]))


def test_low_precision() -> None:
    y0 = torch.ones(2, dtype=torch.bfloat16)
    sol = torchivp.solve(lambda t, y: -y, y0, (0.0, 1.0), method="rk4", dt=0.25, save="steps")
    assert len(sol.plot().get_lines()[0].get_xdata()) == 5


def test_phase_portrait() -> None:
    sol = solve(t=(0.0, 6.0), dense=True)
    ax = phase(sol)
    curve, start = ax.get_lines()
    np.testing.assert_allclose(np.hypot(curve.get_xdata(), curve.get_ydata()), 1, atol=1e-4)
    assert (start.get_xdata()[0], start.get_ydata()[0]) == (1.0, 0.0)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("y[0]", "y[1]")
    swapped = phase(sol, 1, -2).get_lines()[0]
    np.testing.assert_array_equal(swapped.get_xdata(), curve.get_ydata())
    with pytest.raises(InputError, match="no component 2 in a state of 2"):
        phase(sol, 0, 2)


def test_without_matplotlib_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "matplotlib.pyplot", raising=False)
    with pytest.raises(ImportError, match=r"pip install torchivp\[plot\]"):
        solve().plot()
