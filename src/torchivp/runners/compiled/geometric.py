"""The steps of geometric methods in a compiled loop.

Every substep asks for the whole ``f``. What only the half that rests needs of it is never computed: a compiler leaves it out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...methods.geometric import SplittingMethod
from ...methods.geometric.hermite import CUBIC, INNER, QUINTIC, values_at
from ...methods.geometric.splitting import DRIFT, KICK
from .explicit import advanced, moved
from .pure import Pure
from .step import Fixed, Form, Stages, State, Where, slopes, weighted, wide

_INNER = [[(float(c - 1), tuple(map(float, values_at(weights, c)))) for c in INNER] for weights in (CUBIC, QUINTIC)]
"""Of the cubic interpolant and of the quintic one: where the inner nodes are, from the end, and the values there."""


@dataclass(frozen=True)
class Composition:
    """Drifts and kicks in turns, as the tableau of a form. The slopes of a step are that of its first substep, the mean, and that
    of its last substep (whole slopes where somebody looks inside), and of order 6 two between them.

    Attributes:
        kinds, weights: of the substeps; ``from_end``: when they ask, of all but the first (as in ``Splitting``).
        quintic: the interpolant is the longer one.
    """

    kinds: tuple[int, ...]
    weights: tuple[float, ...]
    from_end: tuple[float, ...]
    quintic: bool

    b = (0.0, 1.0, 0.0)
    b_err = None

    @property
    def first(self) -> int:
        return self.kinds[0]

    @property
    def asks(self) -> int:
        """Kicks in a step; the first substep's slope is known."""
        return self.kinds[1:].count(KICK)

    @property
    def inside(self) -> tuple[int, int]:
        kicks = 2 if self.first == DRIFT else 0
        return (2, kicks + 4) if self.quintic else (0, kicks)


def composition_of(method: SplittingMethod) -> Composition:
    """All in numbers: dynamo does not go through cached properties."""
    splitting = method.splitting
    kinds = tuple(splitting.kind(j) for j in range(len(splitting.weights)))
    return Composition(kinds, splitting.weights, splitting.from_end, method.order > 4)


def splitting_stages(
    form: Form, pure: Pure, fixed: Fixed, held: State, t1: Tensor, h: Tensor, ys: State, ks: State, rests: bool = False,
    past: State = (),
) -> Stages:  # fmt: skip
    """A step of drifts and kicks; of the slopes ``ks`` it begins with the half of the first substep counts."""
    composition: Composition = form.tableau
    n = form.of_q
    starts, now, means = in_halves(ys, n), in_halves(ys, n), in_halves(ys, n)
    found: tuple[list[State], list[State]] = ([], [])
    slope = first = in_halves(ks, n)[composition.first]
    for j, kind in enumerate(composition.kinds):
        if j:
            t = t1 + composition.from_end[j - 1] * h
            slope = in_halves(slopes(form, pure, fixed, held, t, joined(now)), n)[kind]
        found[kind].append(slope)
        weights = composition.weights[j % 2 : j + 1 : 2]
        means[kind] = tuple(weighted(weights, terms) for terms in zip(*found[kind]))
        now[kind] = tuple(advanced(h, y, mean, rests) for y, mean in zip(starts[kind], means[kind]))
    last = alone(slope, ys, n, composition.first)
    known = [alone(first, ys, n, composition.first), joined(means), last]
    if form.looks_inside:
        known = looked_inside(form, pure, fixed, held, t1, h, ys, joined(now), known, rests)
    return Stages([ks, *known], joined(now), slope=last)


def splitting_undone(
    form: Form, pure: Pure, fixed: Fixed, held: State, t: Tensor, t1: Tensor, h: Tensor, end: Where
) -> Where:  # fmt: skip
    """Where the step from ``t`` to ``t1`` began: the same composition with a step of negative size."""
    bare = replace(form, looks_inside=False, inside=(0, 0))
    step = splitting_stages(bare, pure, fixed, held, t, -h, end.ys, end.ks, form.by_rows)
    return Where(tuple(step.end), tuple(step.slope or ()), end.past)


def looked_inside(
    form: Form, pure: Pure, fixed: Fixed, held: State, t1: Tensor, h: Tensor, ys: State, y1: State, known: list[State],
    rests: bool,
) -> list[State]:  # fmt: skip
    """The slopes of the interpolant, from the halves at both ends and the mean."""
    composition: Composition = form.tableau
    n, other = form.of_q, 1 - composition.first

    def whole(half: State, t: Tensor, at: State) -> State:
        rest = in_halves(slopes(form, pure, fixed, held, t, at), n)[other]
        return tuple(a + b for a, b in zip(half, alone(rest, ys, n, other)))

    first, mean, last = known
    known = [whole(first, t1 - h, ys), mean, whole(last, t1, y1)]
    inner: list[State] = []
    for nodes in _INNER if composition.quintic else ():
        states = [moved(h, ys, weights, [*known, *inner], rests) for _, weights in nodes]
        inner = [slopes(form, pure, fixed, held, t1 + from_end * h, y) for (from_end, _), y in zip(nodes, states)]
    return [*known, *inner]


@dataclass(frozen=True)
class Nystroem:
    """Nystroem's method as the tableau of a form: slopes at the start, the mean, and at the end where somebody looks inside."""

    b = (0.0, 1.0)
    b_err = None
    asks = 2
    inside = (1, 1)
    at_end = (2,)


NYSTROEM = Nystroem()


def nystroem_stages(
    form: Form, pure: Pure, fixed: Fixed, held: State, t1: Tensor, h: Tensor, ys: State, ks: State, rests: bool = False,
    past: State = (),
) -> Stages:  # fmt: skip
    """A step of Nystroem's method, for which q' = p."""
    n = form.of_q
    (q, p), (v, k1) = in_halves(ys, n), in_halves(ks, n)

    def towards(weight: float, k: State) -> State:
        """The slope of ``q`` after a kick by so much of ``k``."""
        kicks = [x * wide(fixed.sign, x) * weight if form.turned else x * weight for x in k]
        return tuple(advanced(h, x, kick, rests) for x, kick in zip(v, kicks))

    def kick(t: Tensor, weight: float, slope: State) -> State:
        there = tuple(advanced(h, x, weight * k, rests) for x, k in zip(q, slope))
        return slopes(form, pure, fixed, held, t, (*there, *p))[n:]

    k2 = kick(t1 - 0.5 * h, 0.5, towards(0.25, k1))
    k3 = kick(t1, 1.0, towards(0.5, k2))
    mean = (
        *towards(1 / 6, tuple(a + 2 * b for a, b in zip(k1, k2))),
        *((a + 4 * b + c) / 6 for a, b, c in zip(k1, k2, k3)),
    )
    y1 = tuple(advanced(h, y, k, rests) for y, k in zip(ys, mean))
    at_end = [slopes(form, pure, fixed, held, t1, y1)] if form.looks_inside else []
    return Stages([ks, mean, *at_end], y1)


def in_halves(xs: State, n: int) -> list[State]:
    """What belongs to ``q``, and what to ``p``."""
    return [tuple(xs[:n]), tuple(xs[n:])]


def joined(halves: Sequence[State]) -> State:
    return (*halves[DRIFT], *halves[KICK])


def alone(half: State, like: State, n: int, kind: int) -> State:
    """A slope of the whole state that moves one half only."""
    whole = in_halves(tuple(torch.zeros_like(y) for y in like), n)
    whole[kind] = half
    return joined(whole)
