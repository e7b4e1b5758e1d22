"""When a corrector may stop, as a pure function of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...methods import Method
from ...problem import Problem
from .compile import refused
from .pure import Beside, Seen, tracer_of


@dataclass(frozen=True)
class Converged:
    """The user's ``converged``, as it was traced for each of the corrections."""

    tests: tuple[Beside, ...]

    def __call__(self, old: Sequence[Tensor], new: Sequence[Tensor], i: int, held: Sequence[Tensor]) -> Tensor:
        """Whether correction ``i`` of a state was the last one, 0-d."""
        rows = [torch.cat([x.reshape(1, -1) for x in xs], dim=1) for xs in (old, new)]
        (done,) = self.tests[i](rows[0].new_zeros(()), rows, held)
        return done.reshape(()) != 0


def convergence_of(problem: Problem, method: Method, seen: Seen) -> tuple[Converged | None, Seen]:
    """What the method asks after every correction, and ``f`` with what that holds besides.

    Raises:
        NotCompilable: if it cannot be traced.
    """
    converged: Any = getattr(method, "converged", None)
    if converged is None:
        return None, seen
    asked = getattr(converged, "as_tensor", converged)
    t, y = problem.y0.new_zeros(()), problem.finite_start().detach()
    tests = []
    for i in range(method.corrections):  # type: ignore[attr-defined]
        with refused("runner='compiled' does not go with this converged=: "), torch.no_grad():
            test = tracer_of(asked)(_after, t, (y, y + 1), (asked, (None,) * i))
        beside, seen = Beside.of(test, seen)
        tests.append(beside)
    return Converged(tuple(tests)), seen


# no def: see pure._call; a number would stay open, the length of a tuple is one
_after = lambda t, y, converged, before: torch.as_tensor(converged(*y, len(before)))
