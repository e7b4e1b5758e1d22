"""Systems in two parts, ``q' = ..(p)`` and ``p' = ..(q)``: second-order equations, Hamiltonians, partitioned fields.

Each is an ordinary ``f(t, (q, p))`` for every method, and says besides how ``q`` moves while ``p`` rests (the drift) and ``p``
while ``q`` rests (the kick), which is what geometric methods step by.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ._types import PyTree, Rows
from .errors import InputError, InputTypeError
from .field import time_dtype
from .problem import Problem
from .span import Span
from .state import tree_map
from .transforms import as_float

TWO_PARTS = "two parts"
"""The form of an ``f`` with ``drift`` and ``kick``."""
SECOND_ORDER = "second order"
"""The same with ``q' = p``."""


class TwoParts(nn.Module, ABC):
    """An ``f(t, (q, p))`` that knows its two halves.

    Attributes:
        forms: what it has to offer to methods (``Method.needs``).
    """

    forms: tuple[str, ...] = (TWO_PARTS,)

    def made_of(self) -> Callable[..., Any]:
        """The user's function by which it is known again where it is made anew for every solve."""
        return self

    @abstractmethod
    def of_q(self, t: Tensor, q: PyTree, p: PyTree, *args: PyTree) -> PyTree:
        """The slope of ``q``."""

    @abstractmethod
    def of_p(self, t: Tensor, q: PyTree, p: PyTree, *args: PyTree) -> PyTree:
        """The slope of ``p``."""

    def forward(self, t: Tensor, state: PyTree, *args: PyTree) -> tuple[PyTree, PyTree]:
        q, p = halves(state)
        return self.of_q(t, q, p, *args), self.of_p(t, q, p, *args)

    def drift(self, t: Tensor, state: PyTree, *args: PyTree) -> tuple[PyTree, PyTree]:
        """The slope where ``p`` rests."""
        q, p = halves(state)
        return self.of_q(t, q, p, *args), tree_map(torch.zeros_like, p)

    def kick(self, t: Tensor, state: PyTree, *args: PyTree) -> tuple[PyTree, PyTree]:
        """The slope where ``q`` rests."""
        q, p = halves(state)
        return tree_map(torch.zeros_like, q), self.of_p(t, q, p, *args)


class SecondOrder(TwoParts):
    """The second-order equation x'' = a(t, x), with the state ``(x, v)``, v = x'.

    Args:
        a: the acceleration ``a(t, x)``, or ``a(t, x, args)`` where ``solve`` gets ``args``; of the structure, shapes and dtypes
            of ``x``. A module keeps its parameters.
        velocity: the acceleration depends on the velocity too, ``a(t, x, v)``. Geometric methods cannot solve that.

    Raises:
        InputTypeError: for an ``a`` that cannot be called.

    Example:
        >>> pendulum = torchivp.SecondOrder(lambda t, x: -torch.sin(x))
        >>> x, v = torch.ones(1), torch.zeros(1)
        >>> sol = torchivp.solve(pendulum, (x, v), (0.0, 10.0), method="leapfrog", dt=0.05)
        >>> x, v = sol.y
    """

    def __init__(self, a: Callable[..., PyTree], velocity: bool = False):
        super().__init__()
        self.a = callable_or_error(a, "SecondOrder", "a(t, x)")
        self.velocity = velocity
        self.forms = () if velocity else (TWO_PARTS, SECOND_ORDER)

    def made_of(self) -> Callable[..., Any]:
        return self.a

    def of_q(self, t: Tensor, q: PyTree, p: PyTree, *args: PyTree) -> PyTree:
        return p

    def of_p(self, t: Tensor, q: PyTree, p: PyTree, *args: PyTree) -> PyTree:
        return self.a(t, q, p, *args) if self.velocity else self.a(t, q, *args)


class Partitioned(TwoParts):
    """The system q' = f(t, p), p' = g(t, q), with the state ``(q, p)``.

    Args:
        f: the slope of ``q``, ``f(t, p)`` (or ``f(t, p, args)``). Geometric methods above order 2 want one that does not depend
            on the time.
        g: the slope of ``p``, ``g(t, q)`` (or ``g(t, q, args)``).

    Raises:
        InputTypeError: for what cannot be called.

    Example:
        >>> hunt = torchivp.Partitioned(lambda t, p: 1 - p.exp(), lambda t, q: q.exp() - 2)  # Lotka-Volterra, in logarithms
        >>> state = (torch.zeros(1), torch.ones(1))
        >>> sol = torchivp.solve(hunt, state, (0.0, 10.0), method="yoshida4", dt=0.1)
    """

    def __init__(self, f: Callable[..., PyTree], g: Callable[..., PyTree]):
        super().__init__()
        self.f = callable_or_error(f, "Partitioned", "f(t, p)")
        self.g = callable_or_error(g, "Partitioned", "g(t, q)")

    def made_of(self) -> Callable[..., Any]:
        return self.g

    def of_q(self, t: Tensor, q: PyTree, p: PyTree, *args: PyTree) -> PyTree:
        return self.f(t, p, *args)

    def of_p(self, t: Tensor, q: PyTree, p: PyTree, *args: PyTree) -> PyTree:
        return self.g(t, q, *args)


class Hamiltonian(TwoParts):
    """Hamilton's equations q' = dH/dp, p' = -dH/dq, with the state ``(q, p)``; the derivatives are taken by autograd.

    Args:
        H: the energy ``H(t, q, p)`` (or ``H(t, q, p, args)``): a real number, or one for each row of a batch whose rows do not
            see each other (what it returns is summed). Geometric methods need a separable one, H = T(p) + V(t, q); a
            solve with such a method compares the halves at two states first.

    Raises:
        InputTypeError: for an ``H`` that cannot be called.

    Example:
        >>> spring = torchivp.Hamiltonian(lambda t, q, p: (q * q + p * p).sum() / 2)
        >>> state = (torch.ones(1), torch.zeros(1))
        >>> sol = torchivp.solve(spring, state, (0.0, 10.0), method="yoshida4", dt=0.1)
    """

    def __init__(self, H: Callable[..., Tensor]):
        super().__init__()
        self.H = callable_or_error(H, "Hamiltonian", "H(t, q, p)")

    def made_of(self) -> Callable[..., Any]:
        return self.H

    def forward(self, t: Tensor, state: PyTree, *args: PyTree) -> tuple[PyTree, PyTree]:
        q, p = halves(state)
        at_q, at_p = self._gradient((1, 2), t, q, p, *args)
        return at_p, minus(at_q)

    def of_q(self, t: Tensor, q: PyTree, p: PyTree, *args: PyTree) -> PyTree:
        return self._gradient(2, t, q, p, *args)

    def of_p(self, t: Tensor, q: PyTree, p: PyTree, *args: PyTree) -> PyTree:
        return minus(self._gradient(1, t, q, p, *args))

    def _gradient(self, which: int | tuple[int, int], *at: PyTree) -> Any:
        return torch.func.grad(lambda *given: self.H(*given).sum(), argnums=which)(*at)


def minus(tree: PyTree) -> PyTree:
    return -tree if isinstance(tree, Tensor) else tree_map(torch.neg, tree)


def callable_or_error(f: Any, kind: str, what: str) -> Any:
    """``f``, if it can be called."""
    if not callable(f):
        raise InputTypeError(f"{kind} got a {type(f).__name__}, which cannot be called. Give a function {what}.")
    return f


def halves(state: PyTree) -> tuple[PyTree, PyTree]:
    """The two parts of a state."""
    if not isinstance(state, tuple | list) or len(state) != 2:
        got = f" of {len(state)}" if isinstance(state, tuple | list) else ""
        raise InputError(
            f"A system in two parts has a state (q, p), but y0 is a {type(state).__name__}{got}. Give a pair, for a "
            f"second-order equation (x, v); each of the two may be a tensor or a tree of tensors."
        )
    return state[0], state[1]


# ---- whether f has the form that a method needs


def check_form(problem: Problem, limits: Any, needs: str, timeless_drift: bool, name: str) -> None:
    """Raise if ``f`` does not have the form that a method needs.

    Args:
        limits: of the solve (``controllers.Limits`` or ``RowLimits``): ``f`` is asked in its first step only.
        needs, timeless_drift: of the method (see ``Method``).
        name: of the method, for the message.
    """
    f = problem.field.f
    if not needs:
        return
    if needs not in getattr(f, "forms", ()):
        raise InputError(f"{name} got {described(f)}, {_WITHOUT[needs]}")
    halves(problem.layout.unravel(problem.y0))
    if SECOND_ORDER not in f.forms and limits.anything_left(problem.t0):  # type: ignore[attr-defined]
        check_halves(problem, limits.cut(problem.t0, math.inf).closed(), timeless_drift, name)


def described(f: Any) -> str:
    what = getattr(f, "__qualname__", None) or type(f).__name__
    return f"f={what}" + (" with a velocity-dependent acceleration" if getattr(f, "velocity", False) else "")


_WITHOUT = {
    TWO_PARTS: "which does not say how q moves while p rests, and p while q rests. Write torchivp.SecondOrder(a) for "
    "x'' = a(t, x), torchivp.Partitioned(f, g) for q' = f(t, p), p' = g(t, q), or torchivp.Hamiltonian(H), with the state "
    "(q, p); or take a method for any f, such as 'tsit5'.",
    SECOND_ORDER: "which is no equation x'' = a(t, x). Write torchivp.SecondOrder(a), with the state (x, v); or take 'yoshida4' "
    "for other systems in two parts, or a method for any f, such as 'tsit5'.",
}


@torch.no_grad()
def check_halves(problem: Problem, span: Span, timeless: bool, name: str) -> None:
    """Raise if one half sees what it must not: compared at the start and at a state beside it, where both are finite."""
    field, y = problem.field, problem.finite_start().detach()
    evaluations, second = field.evaluations, field.layout.in_second
    shift = 0.1 * torch.linspace(0.6, 1.4, y.shape[1], dtype=y.real.dtype, device=y.device) * (1 + y.abs())
    other_q, other_p = torch.where(second, y, y + shift), torch.where(second, y + shift, y)
    other = torch.where(second, other_p, other_q)
    start, end = field.times(span, torch.tensor([-1.0, 0.0], dtype=time_dtype(y.device), device=y.device))
    moves_q = field.drift(start, other_p)
    rounding = torch.finfo(y.real.dtype).eps
    mixed = _differ(field.drift(start, other), moves_q, rounding**0.5)
    mixed = mixed or _differ(field.kick(start, other), field.kick(start, other_q), rounding**0.5)
    timed = timeless and _differ(
        field.drift(torch.where(torch.isfinite(end), end, start), other_p), moves_q, 100 * rounding
    )
    field.evaluations = evaluations
    if mixed:
        raise InputError(
            f"{name} moves q and p in turns, but here the slope of one of them depends on itself: H is not of the form "
            f"T(p) + V(t, q). Take a method for any f, such as 'tsit5' or 'dopri8'."
        )
    if timed:
        raise InputError(
            f"{name} asks for the slope of q at times outside of its steps, so that this slope must not depend on the time, "
            f"but it does. Take 'leapfrog', which asks inside, or a method for any f, such as 'tsit5'."
        )


def _differ(a: Rows, b: Rows, tolerance: float) -> bool:
    size = a.abs() + b.abs()
    return as_float(((a - b).abs() > tolerance * (size + size.amax())).any()) > 0  # nan does not
