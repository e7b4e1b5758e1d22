"""The matrix ``I - c J`` of an iteration, kept from step to step for as long as it serves.

A Jacobian is found again where the iteration became slow with an old one, or failed; the matrix is factorised again where c has
changed by more than a fifth. What it came from is noted with each step, which can be taken again, exactly, that way.

Source of the rules: A. C. Hindmarsh et al., SUNDIALS (2005), doi:10.1145/1089014.1089020; the numbers are OrdinaryDiffEq.jl's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch

from .._types import Rows
from ..field import Field
from ..span import Span
from .jacobian import Linear, Shifted, linearise
from .newton import Root

NEAR = 0.2  # by so much, relatively, c may have changed
SLOW = 0.25  # of an increment remains: the next one is a fifth of it


class Place(NamedTuple):
    """Where a Jacobian is found."""

    span: Span
    y: Rows
    slope: Rows


class Origin(NamedTuple):
    """What a matrix came from: enough to find it again."""

    place: Place
    c: float


@dataclass
class Kept:
    """A factorised matrix.

    Attributes:
        slow: the iteration with it was slow, though it could have been better.
    """

    origin: Origin
    linear: Linear
    shifted: Shifted
    slow: bool = False

    def solve(self, c: float) -> Callable[[Rows], Rows]:
        """``b -> (I - c J)^-1 b``, nearly: the factor makes up for one half of what c differs by."""
        factor = 2 / (1 + c / self.origin.c)
        return lambda b: self.shifted.solve(b) * factor if factor != 1 else self.shifted.solve(b)


@torch.no_grad()
def root_by_kept_matrix(
    field: Field, place: Place, c: float, root: Callable[[Callable[[Rows], Rows]], Root]
) -> tuple[Root, Origin]:
    """The root that an iteration finds, and what its matrix came from.

    Args:
        place, c: of the matrix that would be exact.
        root: the iteration, of ``solve``.
    """
    if field.origin is not None:  # a step that is taken again
        kept = field.kept = found_again(field, field.origin)
        return root(kept.solve(c)), kept.origin
    kept = serving(field, place, c)
    found = root(kept.solve(c))
    if not found.found and kept.origin.place is not place:
        kept = made(field, Origin(place, c))
        found = root(kept.solve(c))
    kept.slow = kept.origin.place is not place and found.remains > SLOW
    field.kept = kept
    return found, kept.origin


def serving(field: Field, place: Place, c: float) -> Kept:
    """The matrix that was kept, as far as it will do."""
    kept = field.kept
    if kept is None or kept.slow:
        return made(field, Origin(place, c))
    if abs(c / kept.origin.c - 1) > NEAR:
        return factorised(Origin(kept.origin.place, c), kept.linear)
    return kept


def made(field: Field, origin: Origin) -> Kept:
    """A matrix with a Jacobian of its own."""
    span, y, slope = origin.place
    return factorised(origin, linearise(field, span, y, slope, False))


def factorised(origin: Origin, linear: Linear) -> Kept:
    return Kept(origin, linear, linear.shifted(origin.c))


def found_again(field: Field, origin: Origin) -> Kept:
    """The matrix that came from there; the steps taken again one after the other mostly share it."""
    kept = field.kept
    if kept is not None and kept.origin is origin:
        return kept
    if kept is not None and kept.origin.place is origin.place:
        return factorised(origin, kept.linear)
    return made(field, origin)
