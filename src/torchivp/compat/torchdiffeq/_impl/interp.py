"""Names of ``torchdiffeq._impl.interp``: the quartic through both ends of a step and its middle."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..errors import OutsideInterval


def _interp_fit(y0: Tensor, y1: Tensor, y_mid: Tensor, f0: Tensor, f1: Tensor, dt: Tensor) -> list[Tensor]:
    """Coefficients of ``1, x, .., x^4`` (x from 0 to 1 over the step) from values at both ends and the middle, and slopes."""
    to_end, to_middle = y1 - y0, y_mid - y0
    square = 16 * to_middle - 5 * to_end + dt * (f1 - 4 * f0)
    cube = 14 * to_end - 32 * to_middle + dt * (5 * f0 - 3 * f1)
    fourth = 16 * to_middle - 8 * to_end + 2 * dt * (f1 - f0)
    return [y0, dt * f0, square, cube, fourth]


def _interp_evaluate(coefficients: Sequence[Tensor], t0: Tensor, t1: Tensor, t: Tensor) -> Tensor:
    """The polynomial at time ``t`` in ``[t0, t1]``."""
    if not bool((t0 <= t) & (t <= t1)):
        raise OutsideInterval(f"invalid interpolation, fails `t0 <= t <= t1`: {t0}, {t}, {t1}")
    x = ((t - t0) / (t1 - t0)).to(coefficients[0].real.dtype)
    value = coefficients[-1]
    for coefficient in reversed(coefficients[:-1]):
        value = coefficient + x * value
    return value
