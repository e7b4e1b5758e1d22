"""What every method offers: one attempted step as a pure function."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor

from .._types import Rows, Slopes, Time
from ..field import Field, Span

History = tuple[tuple[Time, Tensor], ...]
"""Slopes already known, ``((t, f(t, y)), ...)``, newest first. At the start of a step the newest is the slope there."""


class Step(NamedTuple):
    """One attempted step.

    Attributes:
        y1: state at the end, ``[1, D]``.
        k: stage slopes, ``[S, D]``.
        weights: the interpolant ``[P, S]`` over ``k`` (see ``interpolation``), or over the longer ``k`` that
            ``Method.dense`` returns.
        error: estimated local error ``[1, D]``, or None for a method without one.
        history: what the next step may start from.
        ready: whether ``history[0]`` already is the slope at the end of this step.
    """

    y1: Rows
    k: Slopes
    weights: Tensor
    error: Rows | None
    history: History
    ready: bool = False


class Method(ABC):
    """A one-step or multistep method. Subclasses are final; what they share are free functions.

    Attributes:
        order: order of convergence of the values at the step points.
        error_order: exponent of the step-size controller, None where there is no error estimate (fixed steps only).
        needs_slope: the loop evaluates the slope at the start of a step and hands it over in ``history``.
        weights_depend_on_times: the interpolant's weights follow the step sizes (multistep methods).
        slopes_only: the rows of ``Step.k`` are slopes the field returned, and the history holds nothing else.
        reversible: ``reverse`` computes the start of a step from its end.
    """

    order: int
    error_order: int | None = None
    needs_slope: bool = True
    weights_depend_on_times: bool = False
    slopes_only: bool = True
    reversible: bool = False

    @property
    def adaptive(self) -> bool:
        return self.error_order is not None

    @abstractmethod
    def step(self, field: Field, span: Span, y: Rows, history: History) -> Step:
        """One attempted step over ``span`` from ``y``; ``history[0]`` is the slope at ``(span.t, y)``."""

    def dense(self, field: Field, span: Span, y: Rows, step: Step) -> Step:
        """The step with the extra stages its interpolant needs. Called only where somebody looks inside."""
        return step

    def reverse(self, field: Field, span: Span, y1: Rows, history: History) -> tuple[Rows, History]:
        """State and history at the start of the step over ``span``, from those at its end; of reversible methods."""
        raise NotImplementedError(f"{self!r} is not reversible. Wrap it: Reversible({self!r}).")

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"
