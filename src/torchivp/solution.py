"""What a solve gives back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ._types import PyTree
from .errors import InputError, SolveError
from .state import Layout, from_numpy, tree_map
from .transforms import as_float

if TYPE_CHECKING:
    from .interpolation import DenseSolution
    from .per_sample.dense import HiddenDense


class Status(Enum):
    """How a solve ended; the value is a one-line description."""

    RUNNING = "has not ended yet"
    SUCCESS = "reached the end of the interval"
    EVENT = "stopped at a terminal event"
    STOPPED = "stopped by on_step"
    INTERRUPTED = "interrupted from the keyboard"
    MAX_STEPS = "max_steps reached"
    STIFF = "stiff: use method='kvaerno5' or method='auto'"
    STEP_TOO_SMALL = "the step size became too small for the time's precision"
    NONFINITE_STATE = "y0 holds nan or inf"
    NONFINITE_SLOPE = "the slope or the state became nan or inf"
    NEWTON_FAILED = "the equations of an implicit stage were not solved"
    BAD_OUTPUT = "f returned something that is not a slope of its state"

    @property
    def success(self) -> bool:
        """The solve did what it was asked to do: reached its end, or a stop the user placed."""
        return self in (Status.SUCCESS, Status.EVENT, Status.STOPPED)


@dataclass(frozen=True)
class Stats:
    """Counters of a solve.

    Attributes:
        nfe: evaluations of ``f`` in the forward pass, also those that a Jacobian takes.
        attempted, accepted, rejected: steps (of each row of a batch: tensors ``[B]``).
        replayed: evaluations of ``f`` while a backward pass replayed the steps or solved the adjoint (counted apart).
        backward_attempted: attempted steps of the continuous adjoint's solve (of each row, too).
        njev, nlu: Jacobians that an implicit method asked for in the forward pass, and factorisations.
        switches: how often ``method="auto"`` went from its explicit to its implicit method or back.
    """

    nfe: int = 0
    attempted: Any = 0
    accepted: Any = 0
    rejected: Any = 0
    replayed: int = 0
    backward_attempted: Any = 0
    njev: int = 0
    nlu: int = 0
    switches: int = 0


@dataclass
class Resume:
    """Where a solve can go on from (``solve(..., start=solution)``); times and slopes as inside the library.

    Attributes:
        recorded: autograd recorded what the history holds.
        carries: what the history holds (see ``methods.base.Method``).
    """

    t: float
    y: Tensor
    dt: float
    history: tuple[tuple[Any, Tensor], ...]
    memory: tuple[float, ...]
    direction: int
    recorded: bool = True
    carries: str = "slopes"

    def seen_by(self, carries: str) -> Resume:
        """The same for a method that carries something else: without the history."""
        return self if carries == self.carries else replace(self, history=())

    def map(self, f: Callable[[Tensor], Tensor]) -> Resume:
        past = tuple((f(t) if isinstance(t, Tensor) else t, f(k)) for t, k in self.history)
        return replace(self, y=f(self.y), history=past)


@dataclass
class Solution:
    """The solution of an initial value problem.

    Attributes:
        t: times of the saved values, ``[T]``, as far as the solve came.
        y: saved values: the user's state with a leading time axis, ``[T, ...]`` (a pytree for a pytree).
        status: how the solve ended.
        message: the same for people, with what to try after a failure.
        t_events: for each event function the times found, ``[E]``; None without events.
        y_events: the states there, ``[E, ...]``.
        stats: counters.

    Under ``torch.func.vmap`` tensors are those of a row, as in any function. The status is that of the first row that failed,
    ``message`` tells of all rows, and counters of steps are totals over them.

    Call it for dense output, ``sol(t)``, after ``solve(..., dense=True)``.

    Example:
        >>> sol = torchivp.solve(lambda t, y: -y, torch.ones(2), (0.0, 1.0), dense=True)
        >>> sol.y[-1], sol(0.5), sol.stats.nfe
    """

    t: Tensor
    y: PyTree
    status: Status
    message: str
    layout: Layout = field(repr=False)
    resume: Resume | None = field(repr=False)
    t_events: list[Tensor] | None = None
    y_events: list[PyTree] | None = None
    dense: DenseSolution | HiddenDense | None = field(default=None, repr=False)
    counters: dict[str, int] = field(default_factory=dict, repr=False)

    @property
    def stats(self) -> Stats:
        return Stats(**self.counters)

    @property
    def success(self) -> bool:
        """True unless the solve failed or was interrupted."""
        return self.status.success

    def __call__(self, t: Tensor | float | Sequence[float] | np.ndarray | np.generic) -> PyTree:
        """The solution at any times of the interval.

        Args:
            t: a number, 0-d tensor (returns a state) or times of any shape ``[...]``, in any order (returns states
                with that shape in front). Differentiable.

        Raises:
            InputError: without ``dense=True``, or outside the interval.
        """
        if self.dense is None:
            raise InputError(
                "This solution has no dense output. Write `solve(..., dense=True)` to evaluate it anywhere."
            )
        times = from_numpy(t, "t") if isinstance(t, np.ndarray | np.generic) else t
        if not isinstance(times, Tensor) or not times.is_floating_point():
            times = torch.as_tensor(times, dtype=self.t.dtype)
        return self.layout.unravel(self.dense(times.to(self.t.device).reshape(-1)), lead=tuple(times.shape))

    def to(self, *args: Any, **kwargs: Any) -> Solution:
        """A copy with all tensors moved as by ``Tensor.to``: a dtype is the precision of states and times alike."""
        return self._map(lambda x: _moved(x, *args, **kwargs))

    def cpu(self) -> Solution:
        return self._map(lambda x: x.cpu())

    def detach(self) -> Solution:
        """A copy without gradients."""
        return self._map(lambda x: x.detach())

    def raise_for_status(self) -> Solution:
        """Raise SolveError if the solve failed; else return self."""
        if not self.success:
            raise SolveError(self.message, self)
        return self

    def plot(self, ax: Any = None, **kwargs: Any) -> Any:
        """Plot the saved values over time (see ``torchivp.plotting.plot``)."""
        from .plotting import plot

        return plot(self, ax=ax, **kwargs)

    def __repr__(self) -> str:
        shapes = tree_map(lambda x: f"{_short(x.dtype)}{list(x.shape)}", self.y)
        ends = f"t={as_float(self.t[0]):g}..{as_float(self.t[-1]):g}" if len(self.t) else "t=[]"
        s = self.stats
        return (
            f"Solution({self.status.name.lower()}: {ends}, y={shapes}, nfe={s.nfe}, "
            f"steps={s.accepted}+{s.rejected} rejected)"
        )

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles hold no graph: it belongs to the process and the solve that made it."""
        return dict(self.detach().__dict__)

    def _map(self, f: Callable[[Tensor], Tensor]) -> Solution:
        return replace(
            self,
            t=f(self.t),
            y=tree_map(f, self.y),
            layout=self.layout.map(f),
            resume=None if self.resume is None else self.resume.map(f),
            t_events=None if self.t_events is None else [f(t) for t in self.t_events],
            y_events=None if self.y_events is None else [tree_map(f, y) for y in self.y_events],
            dense=None if self.dense is None else self.dense.map(f),
        )


def _moved(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """``x.to(...)``, but what is complex stays so, what is real too, and integers keep their dtype."""
    if not (x.is_floating_point() or x.is_complex()):
        return x.to(*args, **kwargs).to(x.dtype)
    real = torch.view_as_real(x.resolve_conj()) if x.is_complex() else x
    moved = real.to(*args, **kwargs)
    moved = moved.real.contiguous() if moved.is_complex() else moved
    return torch.view_as_complex(moved) if x.is_complex() else moved


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
