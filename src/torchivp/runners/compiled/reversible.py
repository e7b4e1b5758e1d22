"""The steps of reversible methods in a compiled loop: their second state goes round in it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

import torch
from torch import Tensor

from ...methods.reversible import Reversible, _coefficients
from ...methods.tableau import DenseOutput, Row, Tableau
from .explicit import advanced, explicit_stages
from .pure import Pure
from .step import Fixed, Form, Stages, State, Where, slopes, weighted, wide

_HALF = Fraction(1, 2)
TWO_SLOPES = Tableau(
    order=2,
    c=(0, 1),
    a=((), (1,)),
    b=(_HALF, _HALF),
    b_err=(-_HALF, _HALF),
    error_order=2,
    dense=DenseOutput(2, ((1, 0), (-_HALF, _HALF))),
)
"""A step by the mean of two slopes, as in ``methods.two_slopes``."""


def heun_stages(
    form: Form, pure: Pure, fixed: Fixed, held: State, t1: Tensor, h: Tensor, ys: State, ks: State, rests: bool = False,
    past: State = (),
) -> Stages:  # fmt: skip
    """A step of the reversible Heun method; ``ks`` are the slopes at the second state, which is the past."""
    z1 = tuple(advanced(h, 2 * y - z[0], k, rests) for y, z, k in zip(ys, past, ks))
    slope = slopes(form, pure, fixed, held, t1, z1)
    return by_mean(h, ys, ks, slope, rests)._replace(past=tuple(z.unsqueeze(0) for z in z1))


def heun_undone(
    form: Form, pure: Pure, fixed: Fixed, held: State, t: Tensor, t1: Tensor, h: Tensor, end: Where
) -> Where:  # fmt: skip
    """Where the step from ``t`` to ``t1`` began."""
    zs = tuple(2 * y - z[0] - wide(h, y) * k for y, z, k in zip(end.ys, end.past, end.ks))
    ks = slopes(form, pure, fixed, held, t, zs)
    return Where(by_mean_back(h, end, ks), ks, tuple(z.unsqueeze(0) for z in zs))


def alf_stages(
    form: Form, pure: Pure, fixed: Fixed, held: State, t1: Tensor, h: Tensor, ys: State, ks: State, rests: bool = False,
    past: State = (),
) -> Stages:  # fmt: skip
    """A step of the asynchronous leapfrog method; ``ks`` are velocities."""
    middle = tuple(advanced(h, y, 0.5 * k, rests) for y, k in zip(ys, ks))
    there = slopes(form, pure, fixed, held, t1 - 0.5 * h, middle)
    return by_mean(h, ys, ks, tuple(2 * u - k for u, k in zip(there, ks)), rests)


def alf_undone(
    form: Form, pure: Pure, fixed: Fixed, held: State, t: Tensor, t1: Tensor, h: Tensor, end: Where
) -> Where:  # fmt: skip
    """Where the step from ``t`` to ``t1`` began."""
    middle = tuple(y - wide(h, y) * (0.5 * k) for y, k in zip(end.ys, end.ks))
    there = slopes(form, pure, fixed, held, t1 - 0.5 * h, middle)
    ks = tuple(2 * u - k for u, k in zip(there, end.ks))
    return Where(by_mean_back(h, end, ks), ks)


def by_mean_back(h: Tensor, end: Where, ks: State) -> tuple[Tensor, ...]:
    """Where a step that ``by_mean`` took began, with ``ks``."""
    return tuple(y - wide(h, y) * (0.5 * k + 0.5 * k1) for y, k, k1 in zip(end.ys, ks, end.ks))


def by_mean(h: Tensor, ys: State, ks: State, slope: State, rests: bool) -> Stages:
    """A step by the mean of what it began with and what the next one begins with."""
    y1 = tuple(advanced(h, y, 0.5 * k + 0.5 * k1, rests) for y, k, k1 in zip(ys, ks, slope))
    return Stages([ks, slope], y1, slope=slope)


@dataclass(frozen=True)
class Twofold:
    """A base method with a second state, as the tableau of a form: in front of its slopes stands the way from ``y`` to ``z``.

    Attributes:
        base: of the explicit Runge-Kutta method.
        lam: how strongly ``y`` is its own.
    """

    base: Tableau
    lam: float

    @property
    def b(self) -> Row:
        return 1 - self.lam, *self.base.b

    @property
    def b_err(self) -> Row | None:
        return None if self.base.b_err is None else (0, *self.base.b_err)

    @property
    def b_err_lower(self) -> Row | None:
        return None if self.base.b_err_lower is None else (0, *self.base.b_err_lower)

    @property
    def stages(self) -> int:
        """How many the base method's increment needs (not the slope at the end)."""
        return max(i for i, b in enumerate(self.base.b) if b) + 1

    @property
    def asks(self) -> int:
        """Evaluations in an attempt: the steps forth and back, and the slope for the next one."""
        return len(self.base.a) - 1 + self.stages + 1


def twofold_of(method: Reversible) -> Twofold:
    return Twofold(method.base.tableau, method.lam)


def interpolant(method: Reversible, dtype: torch.dtype, device: torch.device) -> Tensor:
    return _coefficients(method.base.tableau, method.lam, dtype, device).weights


def reversible_stages(
    form: Form, pure: Pure, fixed: Fixed, held: State, t1: Tensor, h: Tensor, ys: State, ks: State, rests: bool = False,
    past: State = (),
) -> Stages:  # fmt: skip
    """A step of a ``Reversible`` method: one of the base method from the second state, and one back from the new ``y``."""
    twofold: Twofold = form.tableau
    base, b = replace(form, tableau=twofold.base, lead=0), twofold.base.b[: twofold.stages]
    zs = tuple(z[0] for z in past)
    gaps = tuple(z - y for z, y in zip(zs, ys))
    forth = explicit_stages(base, pure, fixed, held, t1, h, zs, ks, rests).slopes
    mixed = (y + (1 - twofold.lam) * gap for y, gap in zip(ys, gaps))
    y1 = tuple(advanced(h, y, weighted(b, [k[i] for k in forth]), rests) for i, y in enumerate(mixed))
    back = slopes_back(twofold, base, pure, fixed, held, t1, h, y1, rests)
    z1 = tuple(advanced(h, z, weighted(b, [k[i] for k in back]), rests) for i, z in enumerate(zs))
    rates = tuple(gap / wide(torch.where(h == 0, 1.0, h), gap) for gap in gaps)
    slope = slopes(form, pure, fixed, held, t1, z1)
    return Stages([ks, rates, *forth], y1, slope=slope, past=tuple(z.unsqueeze(0) for z in z1))


def slopes_back(
    twofold: Twofold, base: Form, pure: Pure, fixed: Fixed, held: State, t1: Tensor, h: Tensor, y1: State, rests: bool
) -> list[State]:
    """The stages of the base method's step back from the end; times are asked for inside the step only."""
    found: list[State] = [slopes(base, pure, fixed, held, t1, y1)]
    for c, row in zip(twofold.base.c[1 : twofold.stages], twofold.base.a[1 : twofold.stages]):
        back = [-float(x) for x in row]
        stage = tuple(advanced(h, y, weighted(back, [k[i] for k in found]), rests) for i, y in enumerate(y1))
        found.append(slopes(base, pure, fixed, held, torch.maximum(t1 - float(c) * h, t1 - h), stage))
    return found


def reversible_undone(
    form: Form, pure: Pure, fixed: Fixed, held: State, t: Tensor, t1: Tensor, h: Tensor, end: Where
) -> Where:
    """Where the step from ``t`` to ``t1`` began."""
    twofold: Twofold = form.tableau
    base, b = replace(form, tableau=twofold.base, lead=0, looks_inside=False), twofold.base.b[: twofold.stages]
    back = slopes_back(twofold, base, pure, fixed, held, t1, h, end.ys, rests=False)
    zs = tuple(z[0] - wide(h, z[0]) * weighted(b, [k[i] for k in back]) for i, z in enumerate(end.past))
    ks = slopes(form, pure, fixed, held, t, zs)
    forth = explicit_stages(base, pure, fixed, held, t1, h, zs, ks).slopes
    mixed = (y - wide(h, y) * weighted(b, [k[i] for k in forth]) for i, y in enumerate(end.ys))
    ys = tuple(m + (1 - twofold.lam) / twofold.lam * (m - z) for m, z in zip(mixed, zs))
    return Where(ys, ks, tuple(z.unsqueeze(0) for z in zs))
