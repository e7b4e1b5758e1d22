"""Pictures of a solution: components over time, and the phase portrait of two of them. Needs matplotlib."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import optree
import torch
from torch import Tensor

from ._types import PyTree
from .errors import InputError
from .interpolation import DenseSolution
from .state import flatten

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .solution import Solution

_MOST_LINES = 10
_DENSE_POINTS = 500


class Curve(NamedTuple):
    """One real component of the state.

    Attributes:
        name: how one indexes it: ``y['a'][0, 1]``.
        values: ``[T]``.
    """

    name: str
    values: Tensor


def plot(solution: Solution, ax: Axes | None = None, **kwargs: Any) -> Axes:
    """Draw the components of a solution over time, and a vertical line at every event.

    Args:
        solution: of any solve. With dense output (``solve(..., dense=True)``) a smooth curve is drawn, otherwise the saved
            values are joined by lines.
        ax: where to draw; a new figure without it.
        kwargs: for ``Axes.plot``, for example ``color=`` or ``linestyle=``.

    Returns:
        matplotlib.axes.Axes: what was drawn on. Lines are labelled as one indexes the state; of more than ten components the
        first ten are drawn, and the legend says so. Complex components give two lines, real and imaginary part.

    Raises:
        ImportError: without matplotlib.

    Example:
        >>> sol = torchivp.solve(lambda t, y: torch.stack([y[1], -y[0]]), (1.0, 0.0), (0.0, 10.0), dense=True)
        >>> sol.plot().figure.savefig("oscillator.png")
    """
    ax = _axes(ax)
    times, states = _sampled(solution)
    total = _components(states)
    marker = "o" if len(times) == 1 else None  # a line through one point cannot be seen
    for curve in itertools.islice(_curves(states), _MOST_LINES):
        ax.plot(times.numpy(), curve.values.numpy(), **{"label": curve.name, "marker": marker, **kwargs})
    _mark_times(solution, ax)
    ax.set_xlabel("t")
    title = f"the first {_MOST_LINES} of {total} components" if total > _MOST_LINES else None
    if total:
        ax.legend(title=title)
    return ax


def phase(solution: Solution, i: int = 0, j: int = 1, ax: Axes | None = None, **kwargs: Any) -> Axes:
    """Draw one component of a solution against another; a dot marks the start, crosses the events.

    Args:
        solution: of any solve. With dense output a smooth curve is drawn, otherwise the saved values are joined by lines.
        i, j: numbers of the components on the horizontal and the vertical axis, in the order in which ``plot`` draws them (the
            state's tensors one after the other, each row by row); negative ones count from the end.
        ax: where to draw; a new figure without it.
        kwargs: for ``Axes.plot``.

    Returns:
        matplotlib.axes.Axes: what was drawn on.

    Raises:
        InputError: if there is no such component.
        ImportError: without matplotlib.

    Example:
        >>> sol = torchivp.solve(lambda t, y: torch.stack([y[1], -y[0]]), (1.0, 0.0), (0.0, 10.0), dense=True)
        >>> torchivp.plotting.phase(sol)
    """
    _, states = _sampled(solution)
    total = _components(states)
    for number in (i, j):
        if not -total <= number < total:
            raise InputError(
                f"There is no component {number} in a state of {total}. Choose i and j from 0 to {total - 1}."
            )
    ax = _axes(ax)
    curves = list(_curves(states))
    x, y = curves[i], curves[j]
    (line,) = ax.plot(x.values.numpy(), y.values.numpy(), **kwargs)
    ax.plot(x.values[:1].numpy(), y.values[:1].numpy(), "o", color=line.get_color(), label="start")
    for number, found in enumerate(solution.y_events or ()):
        at = list(_curves(found))
        if len(at) == total and len(at[i].values):
            ax.plot(at[i].values.numpy(), at[j].values.numpy(), "x", color="black", label=f"event {number}")
    ax.set_xlabel(x.name)
    ax.set_ylabel(y.name)
    ax.legend()
    return ax


def _axes(ax: Axes | None) -> Axes:
    if ax is not None:
        return ax
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError(
            "Plotting needs matplotlib, which is not installed. Run `pip install torchivp[plot]`."
        ) from error
    return pyplot.subplots(layout="constrained")[1]


@torch.no_grad()
def _sampled(solution: Solution) -> tuple[Tensor, PyTree]:
    """Times ``[T]`` on the host and the states there: of the dense output if there is one."""
    if not isinstance(solution.dense, DenseSolution):
        return solution.t.detach().cpu(), solution.y
    first, last = (bound * solution.dense.direction for bound in solution.dense.bounds)
    times = torch.linspace(first, last, _DENSE_POINTS, dtype=solution.t.dtype, device=solution.t.device)
    return times.cpu(), solution(times)


def _components(states: PyTree) -> int:
    leaves, _ = flatten(states)
    return sum((1 + x.is_complex()) * x[:1].numel() for x in leaves if len(x))


def _curves(states: PyTree) -> Iterator[Curve]:
    """The real components of states ``[T, ...]``, one by one, as float64 on the host."""
    leaves, spec = flatten(states)
    for path, leaf in zip(optree.treespec_paths(spec), leaves):
        name = "y" + "".join(f"[{key!r}]" for key in path)
        shape = leaf.shape[1:]
        for index in itertools.product(*map(range, shape)):
            here = name + (f"[{', '.join(map(str, index))}]" if index else "")
            everywhere = (slice(None), *index)
            values = leaf.detach()[everywhere].cpu()
            if values.is_complex():
                yield Curve(f"{here}.real", values.real.double())
                yield Curve(f"{here}.imag", values.imag.double())
            else:
                yield Curve(here, values.double())


def _mark_times(solution: Solution, ax: Axes) -> None:
    for number, times in enumerate(solution.t_events or ()):
        for n, t in enumerate(times.detach().cpu().tolist()):
            ax.axvline(
                t, color=f"{0.35 + 0.15 * (number % 3)}", linestyle=":", label=f"event {number}" if n == 0 else None
            )
