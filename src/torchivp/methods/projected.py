"""A method whose steps end on a manifold."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from .._types import PyTree, Rows
from ..errors import InputError, InputTypeError
from ..field import Field
from ..span import Span
from ..transforms import outside_of_transforms
from .base import History, Method, Step
from .table import choose_method


class Projected(Method):
    """A method that puts the state back on a manifold after every step: a sphere, a group of matrices.

    Card: order, error estimate and interpolant of the base method. Where the solution stays on the manifold, the projection moves
    a state by no more than a step's error, and the order is kept. A method that is FSAL needs one evaluation more in a step: the
    slope at the projected state is another one. States at the ends of steps lie on the manifold, to rounding; those
    between lie as close as the interpolant is accurate: land on the times you want (``stop_times=t``), or project outputs.

    Args:
        base: a one-step method that carries slopes alone, such as a Runge-Kutta method: its name, class, or an instance.
        manifold: ``project(y) -> y``, which gets a state (of all rows, with ``batch_dims``) and returns one like it, such as
            ``torchivp.manifolds.Sphere()`` of a tensor. Gradients go through it.

    Raises:
        InputError: for a base that carries more than slopes from step to step.
        InputTypeError: for a manifold that cannot be called.

    Example:
        >>> sphere = torchivp.methods.Projected("tsit5", torchivp.manifolds.Sphere())
        >>> f = lambda t, y: torch.linalg.cross(torch.tensor([0.0, 0.3, 1.0]), y)
        >>> sol = torchivp.solve(f, torch.tensor([1.0, 0.0, 0.0]), (0.0, 100.0), method=sphere)

    Source: E. Hairer, C. Lubich, G. Wanner, Geometric Numerical Integration, section IV.4, doi:10.1007/3-540-30666-8.
    """

    def __init__(self, base: str | Method | type[Method], manifold: Callable[[PyTree], PyTree]):
        method = choose_method(base)
        if method.carries != "slopes" or method.weights_depend_on_times:
            raise InputError(
                f"Projected got {method!r}, which carries more from step to step than the state that is projected. Give a "
                f"one-step method, such as Projected('tsit5', ...)."
            )
        if not callable(manifold):
            raise InputTypeError(
                f"Projected got a {type(manifold).__name__} as manifold, which cannot be called. Give a function "
                f"project(y) -> y, such as torchivp.manifolds.Sphere()."
            )
        self.base = method
        self.manifold = manifold

    @property
    def order(self) -> int:  # type: ignore[override]
        return self.base.order

    @property
    def error_order(self) -> int | None:  # type: ignore[override]
        return self.base.error_order

    @property
    def needs(self) -> str:  # type: ignore[override]
        return self.base.needs

    @property
    def uses_jacobian(self) -> bool:  # type: ignore[override]
        return self.base.uses_jacobian

    def step(self, field: Field, span: Span, y: Rows, history: History) -> Step:
        step = self.base.step(field, span, y, history)
        back = span.rate(field.projected(self.manifold, step.y1) - step.y1)
        k = torch.cat((back, step.k))
        y1, weights = span.advance(step.y1, back), with_way_back(step.weights)
        return step._replace(y1=y1, k=k, weights=weights, history=(), ready=False)

    def dense(self, field: Field, span: Span, y: Rows, step: Step) -> Step:
        """The base method's extra stages, which know its own end."""
        back, k = step.k[:1], step.k[1:]
        alone = step._replace(k=k, y1=span.advance(step.y1, -back), weights=step.weights[:, 1:])
        own = self.base.dense(field, span, y, alone)
        return step._replace(k=torch.cat((back, own.k)))

    def __repr__(self) -> str:
        return f"Projected({self.base!r}, {self.manifold!r})"


@lru_cache(maxsize=64)
@outside_of_transforms
def with_way_back(weights: Tensor) -> Tensor:
    """The weights ``[P, S]`` with one more slope in front, along which the interpolant goes evenly: the way onto the manifold.

    The same tensor for the same tensor (they hash by identity), by which one sees that steps share their weights.
    """
    evenly = torch.zeros_like(weights[:, :1])
    evenly[0] = 1
    return torch.cat((evenly, weights), dim=1)
