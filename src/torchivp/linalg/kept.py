"""The matrix of an iteration, kept from step to step for as long as it serves, where it is dear; of every row its own.

A Jacobian is found again where the iteration became slow with an old one, or failed; the matrix is factorised again where the
size of the step has changed by more than a fifth. What it came from is noted with each step, which can be taken again, exactly,
that way.

Source of the rules: A. C. Hindmarsh et al., SUNDIALS (2005), doi:10.1145/1089014.1089020; the numbers are OrdinaryDiffEq.jl's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._types import Rows, Slopes
from ..field import Field
from ..span import OneSpan, Span, spread
from .jacobian import Jacobian, Linear, linearise
from .newton import constant

NEAR = 0.2  # by so much, relatively, c may have changed
SLOW = 0.25  # of an increment remains: the next one is a fifth of it
DEAR = 50  # numbers of a row: a full matrix of fewer costs less than the iterations that it saves (docs/design/implicit-rk.md)

Factorise = Callable[[Linear, Any], Any]
"""From a Jacobian and c (a float, or ``[B, 1]``) to the factors of a matrix; they ``solve(b)``."""


class Place(NamedTuple):
    """Where a Jacobian is found.

    Attributes:
        step: start of the step that it is found for, a float or ``[B]``.
        t: the time.
    """

    step: Any
    t: Any
    y: Rows
    slope: Rows

    def of_rows(self, rows: Tensor) -> Place:
        """That of these rows ``[n]`` alone."""
        y, slope = (x.view(len(self.step), -1)[rows].view(1, -1) for x in (self.y, self.slope))
        return Place(self.step[rows], self.t[rows], y, slope)


class Origin(NamedTuple):
    """What a matrix came from, enough to find it again: a place, and the size ``c``, a float or ``[B]``."""

    place: Place
    c: Any


@dataclass
class Kept:
    """A factorised matrix.

    Attributes:
        slow: the iteration with it was slow, or failed, though it could have been better (of each row ``[B]`` of many).
    """

    origin: Origin
    linear: Linear
    factorise: Factorise
    factors: Any
    slow: Any = False

    def of_rows(self, rows: Tensor, field: Field) -> Kept:
        """That of these rows ``[n]`` alone, whose field this is."""
        part = made(field, Origin(self.origin.place.of_rows(rows), self.origin.c[rows]), self.factorise)
        part.slow = self.slow[rows]
        return part


class Serving(NamedTuple):
    """The matrix that a step iterates with.

    Attributes:
        factors: of the matrix; they ``solve(b)``.
        scale: what its solutions are multiplied by, a float or ``[1, B * D]``; None: nothing.
        still: numbers of rows whose step has no size: their matrix is the identity, ``[1, B * D]``.
        kept: the same, if it is one that is kept.
        old: its Jacobian is that of another step (of each row ``[B]`` of many).
    """

    factors: Any
    scale: Any = None
    still: Tensor | None = None
    kept: Kept | None = None
    old: Any = False

    @property
    def origin(self) -> Origin | None:
        return None if self.kept is None else self.kept.origin

    def solve(self, b: Slopes) -> Slopes:
        """Of the exact matrix, nearly."""
        x = self.factors.solve(b)
        x = x if self.scale is None else x * self.scale
        return x if self.still is None else torch.where(self.still, b, x)

    def served(self, remains: Any) -> None:
        """Note how the iterations went.

        Args:
            remains: the most that remained of an increment (see ``Root``), of each row ``[B]`` of many.
        """
        if self.kept is not None:
            self.kept.slow = self.old & (remains > SLOW)


@torch.no_grad()
def matrix_for(
    field: Field, span: Span, y: Rows, slope: Rows, c: Any, factorise: Factorise, full: bool = False
) -> Serving:
    """The matrix for a step that starts there: one that was kept, where it is dear, or its own.

    Args:
        c: of the exact matrix, a float or ``[B]``.
        full: its systems are solved with all entries, whatever the form of the Jacobian.
    """
    if not dear(field.jacobian, field.layout.width, full):
        return Serving(factorise(linearise(field, span, y, slope, False), sized(c, y)))
    begins = span.start()
    begins = begins.detach() if isinstance(begins, Tensor) else begins
    return kept_matrix(field, Place(span.begins, begins, constant(y), constant(slope)), c, factorise)


def dear(jacobian: Jacobian | None, width: int, full: bool = False) -> bool:
    """Whether a matrix for ``width`` numbers costs more than the iterations that its own one would save; ``full``: as in
    ``matrix_for``."""
    return width > DEAR and (full or jacobian is None or jacobian.full)


@torch.no_grad()
def kept_matrix(field: Field, place: Place, c: Any, factorise: Factorise) -> Serving:
    """The matrix that was kept, as far as it will do.

    Args:
        place, c: of the matrix that would be exact.
    """
    if field.origin is not None:  # a step that is taken again
        kept, old = found_again(field, field.origin, factorise), no_row(place)
    else:
        kept = renewed(field, field.kept, Origin(place, c), factorise)
        old = kept.origin.place.step != place.step
    field.kept = kept
    still = spread(c == 0, place.y) if isinstance(c, Tensor) else None
    return Serving(kept.factors, scale(c, kept.origin.c, place.y), still, kept, old)


def scale(c: Any, was: Any, like: Rows) -> Any:
    """Makes up for one half of what c differs by."""
    if not isinstance(was, Tensor):
        return None if c == was else 2 / (1 + c / was)
    return spread(torch.where(c == was, 1.0, 2 / (1 + c / was)), like)


def renewed(field: Field, kept: Kept | None, exact: Origin, factorise: Factorise) -> Kept:
    """What is kept, or the exact one in its place."""
    if kept is None:
        return made(field, exact, factorise)
    if isinstance(exact.c, Tensor):
        return renewed_by_rows(field, kept, exact, factorise)
    if kept.slow:
        return made(field, exact, factorise)
    if abs(exact.c / kept.origin.c - 1) > NEAR:
        return factorised(kept.origin._replace(c=exact.c), kept.linear, factorise)
    return kept


def renewed_by_rows(field: Field, kept: Kept, exact: Origin, factorise: Factorise) -> Kept:
    """The same of the rows that need it; one look at the device. The others get theirs again: a batch is one call."""
    was, moving = kept.origin, exact.c > 0
    anew = kept.slow & moving
    resized = anew | (((exact.c / was.c - 1).abs() > NEAR) & moving)
    some_anew, some_resized = torch.stack([anew.any(), resized.any()]).tolist()
    if not some_resized:
        return kept
    place = chosen(anew, exact.place, was.place) if some_anew else was.place
    origin = Origin(place, torch.where(resized, exact.c, was.c))
    return made(field, origin, factorise) if some_anew else factorised(origin, kept.linear, factorise)


def chosen(rows: Tensor, new: Place, old: Place) -> Place:
    """The new place of these rows ``[B]``, the old one of the others."""
    wide = spread(rows, new.y)
    return Place(
        torch.where(rows, new.step, old.step),
        torch.where(rows, new.t, old.t),
        torch.where(wide, new.y, old.y),
        torch.where(wide, new.slope, old.slope),
    )


def made(field: Field, origin: Origin, factorise: Factorise) -> Kept:
    """A matrix with a Jacobian of its own."""
    _, t, y, slope = origin.place
    return factorised(origin, linearise(field, OneSpan(t, t), y, slope, False), factorise)


def factorised(origin: Origin, linear: Linear, factorise: Factorise) -> Kept:
    factors = factorise(linear, sized(origin.c, origin.place.y))
    return Kept(origin, linear, factorise, factors, no_row(origin.place))


def sized(c: Any, y: Rows) -> Any:
    """``c`` as matrices take it."""
    return c.to(y.real.dtype).unsqueeze(1) if isinstance(c, Tensor) else c


def no_row(place: Place) -> Any:
    """False, of each row ``[B]`` of many."""
    return torch.zeros_like(place.step, dtype=torch.bool) if isinstance(place.step, Tensor) else False


def found_again(field: Field, origin: Origin, factorise: Factorise) -> Kept:
    """The matrix that came from there; the steps taken again one after the other mostly share it."""
    kept = field.kept
    if kept is not None and kept.origin is origin:
        return kept
    if kept is not None and kept.origin.place is origin.place:
        return factorised(origin, kept.linear, factorise)
    return made(field, origin, factorise)
