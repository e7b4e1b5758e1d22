"""How a compiled loop finds the Jacobian of a traced ``f``: all rows, few products for a band or a pattern, or a function of the
user's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...linalg.jacobian import Given, checked
from ...linalg.structured import Banded, Sparse, compare
from ...problem import Problem
from .compile import refused
from .derivatives import Products, derivative_of, flat, leaves_of
from .pure import Beside, Pure, Seen, held_too, tracer_of
from .step import Fixed, Form, State, limited, wide
from .systems import BandMatrix, DenseMatrix

Lines = Sequence[Tensor]


@dataclass(frozen=True)
class Whole:
    """All entries, row by row."""

    products = Products()

    def found(self, lines: Lines, t: Tensor, ys: State, held: State) -> Tensor:
        """From the products, what makes up the matrix."""
        return torch.stack([*lines], -2)

    def matrix(self, found: Tensor, held: State) -> DenseMatrix | BandMatrix:
        return DenseMatrix(found)


@dataclass(frozen=True)
class Band(Whole):
    """So many diagonals below and above the main one."""

    lower: int
    upper: int

    @property
    def products(self) -> Products:  # type: ignore[override]
        return Products(self.lower + self.upper + 1)

    def matrix(self, found: Tensor, held: State) -> BandMatrix:
        return BandMatrix(found, self.lower, self.upper)


@dataclass(frozen=True)
class Pattern(Whole):
    """Entries where a pattern says so, whose rows or columns have colours.

    Attributes:
        mask: place of the pattern among the held tensors.
        products: with the colours.
    """

    mask: int
    products: Products

    def matrix(self, found: Tensor, held: State) -> DenseMatrix:
        picked = found.index_select(-2, held[self.products.colours or 0])
        return DenseMatrix(torch.where(held[self.mask], picked.mT if self.products.tangents else picked, 0.0))


@dataclass(frozen=True)
class Told(Whole):
    """The user's function, as it was traced."""

    function: Beside

    products = Products(0)

    def found(self, lines: Lines, t: Tensor, ys: State, held: State) -> Tensor:
        (entries,) = self.function(t, ys, held)
        n = flat(ys, t.dim()).shape[-1]
        return entries.reshape(*t.shape, n, n)


def band_of(problem: Problem) -> Band | None:
    """The band that the user spoke of, if it is narrower than the matrix."""
    jacobian = problem.field.jacobian
    if not isinstance(jacobian, Banded) or jacobian.lower + jacobian.upper + 1 >= problem.layout.width:
        return None
    return Band(jacobian.lower, jacobian.upper)


def jacobian_of(problem: Problem, seen: Seen) -> tuple[Whole, Seen]:
    """How the Jacobian of this problem is found, and ``f`` with the tensors that this takes."""
    field, band = problem.field, band_of(problem)
    if isinstance(field.jacobian, Sparse):
        groups = field.jacobian.groups_for(field, problem.y0)
        tensors = [x.to(problem.y0.device) for x in (groups.colours, groups.pattern)]
        (colours, mask), seen = held_too(seen, tensors)
        return Pattern(mask, Products(groups.number, colours, not groups.of_rows)), seen
    if isinstance(field.jacobian, Given):
        t = field.time(problem.t0).to(problem.layout.real_dtype)
        y = problem.layout.unravel(problem.finite_start().detach())
        with refused("runner='compiled' does not go with this jac: "), torch.no_grad():
            told = tracer_of(field.jacobian.function)(field.jacobian.function, t, y, field.args)
        checked(told.slopes[0], field)
        function, seen = Beside.of(told, seen)
        return Told(function), seen
    return (Whole() if band is None else band), seen


def look_into(pure: Pure, how: Whole, t: Tensor, ys: State, held: State) -> None:
    """Find the derivatives before the loop, which finds them again; raise if ``f`` has some where there should be none. That is
    asked once, along one direction, as the eager runner does."""
    graph = derivative_of(pure, t, ys, held, how.products)
    if not isinstance(how, Band | Pattern):
        return
    asked = ("checked", how, held[how.mask].cpu().numpy().tobytes() if isinstance(how, Pattern) else b"")
    if asked in pure.programs:
        return
    matrix: Any = how.matrix(how.found(graph(t, *ys, *held)[:-1], t, ys, held), held)
    along = torch.cos(1.0 + torch.arange(flat(ys, t.dim()).shape[-1], device=t.device)).to(ys[0].dtype)
    with torch.enable_grad():
        vjp = torch.func.vjp(lambda *ys: tuple(pure(t, ys, held)), *ys)[1]
    compare(matrix.times_from_left(along), flat(vjp(leaves_of(along.expand(*t.shape, -1), ys)), t.dim()))
    pure.programs[asked] = True


def linearised(
    form: Form, pure: Pure, fixed: Fixed, held: State, t: Tensor, ys: State
) -> tuple[DenseMatrix | BandMatrix, Tensor]:
    """The Jacobian, and the derivative by the time ``[*batch, n]``, as the library counts it."""
    how: Whole = form.jacobian
    t = limited(fixed, t)
    t = (t * fixed.sign if form.turned else t).to(form.time_dtype)
    inside = [y.to(dtype) for y, dtype in zip(ys, form.dtypes)]
    *lines, by_time = derivative_of(pure, t, inside, held, how.products)(t, *inside, *held)
    found = how.found(lines, t, inside, held).to(ys[0].dtype)
    found = found * wide(fixed.sign, found) if form.turned else found
    return how.matrix(found, held), by_time.to(ys[0].dtype)
