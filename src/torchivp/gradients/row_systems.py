"""What is integrated backwards for the rows of a batch: the adjoint of each, with its state or along the stored one.

The integrals for the parameters are not part of it (see ``row_backsolve``): the state does not grow with their number.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from .._types import BackwardRow, Rows
from ..field import Field
from ..per_sample.problem import RowsProblem
from ..per_sample.tolerance import RowTolerance
from ..state import Layout
from ..tolerance import Tolerance
from .backsolve import Linearised
from .drift import check_drift_of_rows, most_drift, relative


class RowSystem(ABC):
    """Rows of one or several parts that are as long as a state, the adjoint last.

    Args:
        linear: the forward field.
        problem: of the forward solve.
        stored: its solution, ``RowsDense``, for systems that go along it (else None).

    Attributes:
        parts: how many there are in a row.
        along: it goes along the stored solution, which is its ``solution``.
        field: of the rows ``[1, B * parts * D]``; counts time as the backward solve does.
    """

    parts: ClassVar[int]
    along: ClassVar[bool]
    solution: Any = None

    def __init__(self, linear: Linearised, problem: RowsProblem, stored: Any):
        self.linear = linear
        self.forward: Any = problem.tolerance
        self.rows, self.width = problem.layout.rows, problem.layout.width
        self.field = Field(
            self.slope, Layout(problem.y0.new_zeros(self.rows, self.parts * self.width), 1), direction=-1
        )

    @abstractmethod
    def slope(self, t: Tensor, x: Tensor) -> Tensor:
        """Of rows ``x [B, parts * D]`` at times ``t [B]`` as the forward solve counts them."""

    @abstractmethod
    def state(self, t: Tensor, x: Tensor) -> Rows:
        """The states at these times, of rows that are there."""

    @abstractmethod
    def row(self, y: Tensor, adjoint: Tensor) -> BackwardRow:
        """The rows with these states and adjoints ``[B, D]``."""

    def unpacked(self, row: BackwardRow) -> Tensor:
        return row.view(self.rows, self.parts * self.width)

    def adjoint(self, row: BackwardRow) -> Tensor:
        """The adjoints ``[B, D]`` in rows."""
        return self.unpacked(row)[:, (self.parts - 1) * self.width :]

    def came_to(self, row: BackwardRow, y: Tensor, landed: Tensor) -> None:
        """Some rows have ``landed [B]`` on an output, where the stored states are ``y [B, D]``."""
        return

    def check(self, rtol: float) -> None:
        """Raise where the backward solve turns out to be worthless; ``rtol`` is 1 for fixed steps."""
        return

    def linearised(self, t: Tensor, y: Rows, adjoint: Tensor) -> tuple[Tensor, Tensor]:
        """``f`` and ``adjoint . df/dy`` of all rows, ``[B, D]``."""
        slope, at_y, _ = self.linear(t, y, adjoint.reshape(1, -1), wrt_params=False)
        return slope.view(self.rows, self.width), at_y.view(self.rows, self.width)

    def tolerance(self, forward: Tolerance) -> RowTolerance:
        """What is small in a row: what is small in a state, of every part."""
        shape = (self.rows, self.parts, self.width)

        def wide(tol: Tensor) -> Tensor:
            return tol if tol.dim() == 0 else tol.view(self.rows, 1, self.width).expand(shape).reshape(1, -1)

        def largest(row: Tensor) -> Tensor:
            return torch.stack([forward.norm(part.reshape(1, -1)) for part in row.view(shape).unbind(1)]).amax(0)

        rtol: Any = wide(forward.rtol) if isinstance(forward.rtol, Tensor) else forward.rtol
        small: RowTolerance = replace(self.forward, rtol=rtol, atol=wide(forward.atol), norm=largest)
        return small


class StateAndAdjoint(RowSystem):
    """Rows of state and adjoint: the states are solved backwards, too."""

    parts = 2
    along = False

    def __init__(self, linear: Linearised, problem: RowsProblem, stored: Any):
        super().__init__(linear, problem, stored)
        self.drift = problem.y0.real.new_zeros(self.rows)
        self.last = problem.y0.new_zeros(self.rows, self.width)

    def slope(self, t: Tensor, x: Tensor) -> Tensor:
        slope, at_y = self.linearised(t, self.state(t, x), x[:, self.width :])
        return torch.cat([slope, -at_y], dim=1)

    def state(self, t: Tensor, x: Tensor) -> Rows:
        return x[:, : self.width].reshape(1, -1)

    def row(self, y: Tensor, adjoint: Tensor) -> BackwardRow:
        return torch.cat([y, adjoint], dim=1).view(1, -1)

    def came_to(self, row: BackwardRow, y: Tensor, landed: Tensor) -> None:
        off = relative(self.unpacked(row)[:, : self.width] - y, y, self.last, dim=1)
        self.drift = torch.where(landed, torch.maximum(self.drift, off), self.drift)
        self.last = torch.where(landed.unsqueeze(1), y, self.last)

    def check(self, rtol: float) -> None:
        check_drift_of_rows(self.drift, most_drift(rtol))


class AdjointAlone(RowSystem):
    """Rows of the adjoint, along the stored solution."""

    parts = 1
    along = True

    def __init__(self, linear: Linearised, problem: RowsProblem, stored: Any):
        super().__init__(linear, problem, stored)
        self.solution = stored

    def slope(self, t: Tensor, x: Tensor) -> Tensor:
        return -self.linearised(t, self.state(t, x), x)[1]

    def state(self, t: Tensor, x: Tensor) -> Rows:
        y: Tensor = self.solution.at(t.unsqueeze(1))
        return y.reshape(1, -1)

    def row(self, y: Tensor, adjoint: Tensor) -> BackwardRow:
        return adjoint.reshape(1, -1)
