"""Problems under ``torch.func.vmap`` for runners that trace ``f``: nothing is hidden, all rows are an ordinary batch.

The transform is out of the way meanwhile, so that ``f`` is mapped over the rows once more, by a vmap of our own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack

from ._types import PyTree, VectorField
from .events import Event
from .field import Field
from .methods import Method, Projected
from .partitioned import TwoParts
from .per_sample import solve as per_sample
from .per_sample.problem import RowsProblem
from .plan import Plan
from .rows_of_vmap import expose
from .runners.eager import Run
from .solution import Solution
from .split import Split
from .state import flatten, unflatten
from .transforms import batched, only_vmap
from .vmapped import UnderVmap, hidden


class RowsOf:
    """A function of one row as one of all rows.

    Args:
        function: of time, state and args.
        dims: 0 for args that have rows, None for others, as a tree.
    """

    def __init__(self, function: Callable[..., Any], dims: tuple[PyTree, ...]):
        self.function = self.__wrapped__ = function
        self.dims = dims

    def __call__(self, t: Tensor, y: PyTree, *args: PyTree) -> PyTree:
        return torch.func.vmap(self.function, in_dims=(0, 0, *self.dims))(t, y, *args)


@dataclass(frozen=True)
class InSight(UnderVmap):
    """What ``UnderVmap`` is, where no other transform is going on.

    Args:
        like: where the rows are.
        args: of the functions.
    """

    args: PyTree = None

    def pose(self, f: VectorField, y0: PyTree, t: Any, args: PyTree, **settings: Any) -> RowsProblem:
        problem = super().pose(f, y0, t, args, **settings)
        leaves, spec = flatten(problem.field.args)
        exposed = [expose(x, self.like) if has_rows(x) else x for x in leaves]
        field = Field(RowsOf(f, self.dims), problem.layout, problem.direction, unflatten(spec, exposed))
        return replace(problem, field=field)

    @property
    def dims(self) -> tuple[PyTree, ...]:
        leaves, spec = flatten(() if self.args is None else (self.args,))
        dims: tuple[PyTree, ...] = unflatten(spec, [0 if has_rows(x) else None for x in leaves])
        return dims

    def _hiding(self, event: Event) -> Event:
        return event if event.at_rest else replace(event, function=RowsOf(event.function, self.dims))

    def aside(self) -> AbstractContextManager[Any]:
        """A context in which the transform is out of the way."""
        return temporarily_clear_interpreter_stack()

    def gather(self, problem: RowsProblem, plan: Plan, out: Run, through: Callable[..., PyTree] | None) -> Solution:
        with self.aside():
            rows = per_sample.gather(problem, plan, out, None)
            if not plan.interruptible:
                rows.raise_for_status()
        return hidden(rows, through, self.like)


def has_rows(x: Any) -> bool:
    return isinstance(x, Tensor) and batched(x)


def alone(f: VectorField, method: Method, jac: Any) -> bool:
    """Whether the loop asks nothing of the user's but ``f`` and event functions, which can be mapped over rows."""
    return not isinstance(f, TwoParts | Split) and not isinstance(method, Projected) and jac is None


def in_sight(objects: Iterable[Any]) -> bool:
    """Whether no other transform is going on, and no rows are among the objects that the functions can reach."""
    return only_vmap() and not any(has_rows(x) for x in objects)
