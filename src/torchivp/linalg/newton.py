"""The equations of implicit stages: simplified Newton iteration, and the gradient of what it finds.

The iteration runs without autograd; its matrix serves many steps (``kept``). What is "small enough" is the problem's tolerance,
of which the iteration may use up a hundredth. The rate at which increments shrink says how far the root still is (Hairer &
Wanner, Solving ODEs II, section IV.8, doi:10.1007/978-3-642-05221-7).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._types import Rows
from ..span import Span
from ..transforms import recorded

MOST = 20  # iterations; tight tolerances take more than ten
SMALL = 1e-2  # of the tolerance: what may be left of the error when the iteration stops
DIVERGES = 2.0  # a growth of increments that says that no root is near

Unknowns = Tensor
"""``[s, B * D]``: the slopes of stages that are found together."""


class Root(NamedTuple):
    """Where an iteration ended.

    Attributes:
        x: the unknowns, without gradient.
        found: whether they are good enough, of each row ``[B]`` of many. Where ``f`` gave nan so do they, and that is not
            the iteration's failure.
        remains: of an increment when the iteration ended (``theta / (1 - theta)``); the next stage begins with it.
    """

    x: Unknowns
    found: Any
    remains: Any


class Equations(NamedTuple):
    """What an iteration solves.

    Attributes:
        residual: of the unknowns; should vanish.
        solve: the increment that makes a residual vanish, nearly.
        measure: of ``(increment, unknowns)``: error over tolerance, a float or ``[B]``.
        rounding: of ``unknowns``: what increments cannot get below, the same.
    """

    residual: Callable[[Unknowns], Unknowns]
    solve: Callable[[Unknowns], Unknowns]
    measure: Callable[[Unknowns, Unknowns], Any]
    rounding: Callable[[Unknowns], Any]


class Measure(NamedTuple):
    """How large increments of slopes are.

    Attributes:
        tolerance: of the problem.
        y: the state at the start of the step.
    """

    tolerance: Any
    span: Span
    y: Rows

    def of(self, increment: Rows, state: Rows) -> Any:
        """Error over tolerance: a float, or ``[B]`` for rows that have their own."""
        return self.tolerance.ratio(self.span.moved_by(increment), self.y, state)

    def rounding(self, state: Rows) -> Any:
        """What increments cannot get below: ten units in the last place of the state."""
        return self.tolerance.ratio(10 * torch.finfo(state.dtype).eps * state, self.y, state)


def root_of(equations: Equations, guess: Unknowns, remains: Any, among: Tensor | None = None) -> Root:
    """The root next to ``guess``, of a single state or of rows (``remains [B]``; of those ``among`` them, by default all)."""
    if isinstance(remains, Tensor):
        return iterate_rows(
            equations, guess, remains, torch.ones_like(remains, dtype=torch.bool) if among is None else among
        )
    return iterate(equations, guess, remains)


def iterate(equations: Equations, guess: Unknowns, remains: float) -> Root:
    """The root next to ``guess``, for a single state: reads a number in each iteration."""
    x, before, remains = guess, math.inf, max(remains, 1e-16) ** 0.8
    for i in range(MOST):
        increment = equations.solve(equations.residual(x))
        size = equations.measure(increment, x)
        x = x + increment
        if not math.isfinite(size):
            return Root(torch.full_like(x, math.nan), True, 1.0)
        if i > 0:
            theta = size / before if before > 0 else 0.0
            remains = theta / (1 - theta) if theta < 1 else math.inf
            if theta > 0.5 and size <= equations.rounding(x):
                return Root(x, True, 1.0)
            if theta >= DIVERGES:
                break
        if remains * size <= SMALL:
            return Root(x, True, remains)
        before = size
    return Root(x, False, 1.0)


def iterate_rows(equations: Equations, guess: Unknowns, remains: Tensor, running: Tensor) -> Root:
    """The same for rows that stop when they are there; one look at the device in each iteration.

    Args:
        remains: of each row ``[B]``; ``running``: whose roots are wanted.
    """
    x, remains = guess, remains.clamp(min=1e-16) ** 0.8
    before = torch.full_like(remains, math.inf)
    found = ~running
    for i in range(MOST):
        increment = equations.solve(equations.residual(x))
        size = equations.measure(increment, x)
        lost = ~torch.isfinite(size)
        x = torch.where(_wide(running, x), torch.where(_wide(lost, x), math.nan, x + increment), x)
        arrived, hopeless = lost, lost
        if i > 0:
            theta = torch.where(before > 0, size / before, 0.0)
            remains = torch.where(running, torch.where(theta < 1, theta / (1 - theta), math.inf), remains)
            rounded = (theta > 0.5) & (size <= equations.rounding(x))
            remains = torch.where(running & rounded, 1.0, remains)
            arrived = arrived | rounded
            hopeless = hopeless | (theta >= DIVERGES)
        arrived = arrived | (remains * size <= SMALL)
        found = found | (running & arrived)
        running = running & ~arrived & ~hopeless
        before = size
        if not bool(running.any()):
            break
    return Root(x, found, torch.where(found & torch.isfinite(remains), remains, 1.0))


def _wide(rows: Tensor, x: Unknowns) -> Tensor:
    """``[B]`` as ``[1, B * D]``."""
    return rows.unsqueeze(1).expand(-1, x.shape[1] // len(rows)).reshape(1, -1)


def with_gradient(
    x: Unknowns, residual: Callable[[Unknowns], Unknowns], factorise: Callable[[], Callable[[Unknowns], Unknowns]]
) -> Unknowns:
    """A root with the gradient that the implicit function theorem gives it; its value stays what it is.

    ``x + M^-1 residual(x)``, M the exact matrix at the root, has the root's first derivatives; from there once more, its second
    ones. So a backward pass takes one transposed solve, whatever the iteration did.

    Args:
        x: the root, without gradient.
        residual: of the unknowns, and through its closure of everything else there is a gradient by.
        factorise: called where somebody wants gradients; returns ``b -> M^-1 b``, M minus the derivative of the residual.
    """
    if not (torch.is_grad_enabled() or recorded()):
        return x
    left = residual(x)
    if not (left.requires_grad or recorded()):
        return x
    solve = factorise()
    first = _ForSecondDerivatives.apply(_as(x, solve(left)))
    return _as(first, solve(residual(first)))


def _as(value: Tensor, x: Tensor) -> Tensor:
    """``value`` with the derivatives of ``x`` in addition to its own."""
    return value + (x - constant(x))


def constant(x: Tensor) -> Tensor:
    """A constant of every derivative, forward mode and ``torch.func`` included; rows of vmap stay apart."""
    return _Constant.apply(x) if recorded() else x.detach()


class _Constant(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        return

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> None:
        return None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        return torch.zeros_like(tangent)


class _ForSecondDerivatives(torch.autograd.Function):
    """The identity. Where only first derivatives are taken, what comes back here is zero, and goes no further; a second
    derivative begins with a first one that keeps its graph."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        return

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Tensor | None:
        ctx.further = torch.is_grad_enabled() or getattr(ctx, "further", False)
        return cotangent if ctx.further else None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        return tangent.view_as(tangent)
