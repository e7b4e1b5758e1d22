"""Algebraic numbers to sixty digits, as fractions: for tableaux whose coefficients are no rationals."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import isqrt

_DIGITS = 10**60


def square_root(x: int | Fraction) -> Fraction:
    """The positive root of a positive number.

    Example:
        >>> float(square_root(2))
        1.4142135623730951
    """
    return Fraction(isqrt(int(x * _DIGITS * _DIGITS)), _DIGITS)


def root(coefficients: Sequence[int | Fraction], near: float) -> Fraction:
    """The simple root of a polynomial next to ``near``, by Newton's method.

    Args:
        coefficients: highest power first.

    Example:
        >>> float(root((1, 0, -2), near=1.4))
        1.4142135623730951
    """
    x = Fraction(near)
    for _ in range(7):  # 16 digits, doubled each time
        value, slope = Fraction(0), Fraction(0)
        for c in coefficients:
            slope = slope * x + value
            value = value * x + c
        x = Fraction(round((x - value / slope) * _DIGITS), _DIGITS)
    return x


def polynomial(coefficients: Sequence[int], x: Fraction) -> Fraction:
    """Its value at ``x``, highest power first."""
    value = Fraction(0)
    for c in coefficients:
        value = value * x + c
    return value
