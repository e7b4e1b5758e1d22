"""What every method offers: one attempted step as a pure function."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

from torch import Tensor

from .._types import Rows, Slopes, Time
from ..errors import InputError
from ..field import Field
from ..span import Span

History = tuple[tuple[Time, Tensor], ...]
"""What a step starts from beside the state, ``((t, row), ...)``, newest first: slopes already known, ``(t, f(t, y))`` (at the
start of a step the newest is the slope there), or what ``Method.carries`` says."""


class Step(NamedTuple):
    """One attempted step.

    Attributes:
        y1: state at the end, ``[1, D]``.
        k: stage slopes, ``[S, D]``.
        weights: the interpolant ``[P, S]`` over ``k`` (see ``interpolation``), or over the longer ``k`` that
            ``Method.dense`` returns.
        error: estimated local error ``[1, D]``, or None for a method without one.
        error_lower: a second estimate, of lower order (``Tableau.b_err_lower``); None for most methods.
        history: what the next step may start from.
        ready: whether ``history[0]`` already is the slope at the end of this step.
        solved: whether the equations of implicit stages were solved (of each row ``[B]`` of many); if not, a shorter step may do.
        error_order: ``error`` scales like this power of the step; None: like the method's own.
        origin: of a matrix that is kept from step to step, what it came from (see ``linalg.kept``).
        old_matrix: its Jacobian is that of an earlier step (of each row ``[B]`` of many): with its own, a step that was not
            solved may be, as it is.
    """

    y1: Rows
    k: Slopes
    weights: Tensor
    error: Rows | None
    history: History
    ready: bool = False
    error_lower: Rows | None = None
    solved: Any = True
    error_order: int | None = None
    origin: Any = None
    old_matrix: Any = False

    @property
    def again(self) -> Any:
        """Whether it is to be tried again as it is."""
        solved, old = self.solved, self.old_matrix
        return ~solved & old if isinstance(solved, Tensor) else not solved and old


class Method(ABC):
    """A one-step or multistep method. Subclasses are final; what they share are free functions.

    Attributes:
        order: order of convergence of the values at the step points.
        error_order: exponent of the step-size controller, None where there is no error estimate (fixed steps only).
        weights_depend_on_times: the interpolant's weights follow the step sizes (multistep methods).
        carries: what ``Step.history`` holds. A solve goes on with the history of another one if both hold the same.
        reversible: a step can be taken back, exactly but for rounding. Such a method may carry a second state, and starts
            afresh where its history holds the slope alone (at the start, after a jump).
        by_rows: rows of a batch may take steps of their own sizes.
        uses_jacobian: it asks for the Jacobian of the field (``linalg``).
        k_are_slopes: the ``k`` of its steps are values of the field, and ``y1`` is their quadrature.
        needs: the form that ``f`` must have, one of those in its ``forms`` (see ``partitioned``); empty: any function will do.
        members: the explicit and the implicit method, of one that switches between two.
        timeless_drift: it asks for the slope of ``q`` at one time only, for what does not depend on the time.
    """

    order: int
    error_order: int | None = None
    weights_depend_on_times: bool = False
    carries: str = "slopes"
    reversible: bool = False
    by_rows: bool = True
    uses_jacobian: bool = False
    k_are_slopes: bool = True
    needs: str = ""
    members: tuple[Method, Method] | None = None
    timeless_drift: bool = False

    @property
    def adaptive(self) -> bool:
        return self.error_order is not None

    def suited(self, rtol: float, width: int) -> Method:
        """The method for such a problem: itself, but for one that was left to choose.

        Args:
            rtol: the smallest relative tolerance of any number.
            width: numbers in a state.
        """
        return self

    def needs_slope(self, history: History) -> bool:
        """Whether the loop evaluates the slope at the start of a step that has this past, and puts it first in ``history``."""
        return True

    @abstractmethod
    def step(self, field: Field, span: Span, y: Rows, history: History) -> Step:
        """One attempted step over ``span`` from ``y``; ``history[0]`` is the slope at ``(span.t, y)``."""

    def dense(self, field: Field, span: Span, y: Rows, step: Step) -> Step:
        """The step with the extra stages its interpolant needs. Called only where somebody looks inside."""
        return step

    def reverse(self, field: Field, span: Span, y1: Rows, history1: History) -> tuple[Rows, History]:
        """The start ``(y0, history0)`` of the step that ended in ``y1`` and ``history1`` (``Step.history``)."""
        raise InputError(
            f"{self!r} was asked to take a step back, but it keeps nothing to do so from. Take a reversible method: "
            f"'reversible_heun', 'alf', or torchivp.methods.Reversible('tsit5')."
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


def second_state(y: Rows, history: History) -> tuple[Rows, Rows]:
    """``z`` and the slope there, from the history of a method that carries both; at a start ``z`` is ``y``."""
    return history[1][1] if len(history) > 1 else y, history[0][1]
