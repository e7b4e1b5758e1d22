"""Zeros of many functions at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def locate(g: Callable[[Tensor], Tensor], a: Tensor, b: Tensor, g_a: Tensor, g_b: Tensor) -> Tensor:
    """The crossings of functions in their brackets ``(a, b]``, to rounding, and not before them (see ``Detector._locate``).

    Args:
        g: values ``[n]`` at times ``[n]``, one for each function.
        a, b, g_a, g_b: the brackets and the values at their ends, of opposite signs (or ``g_b`` is zero), ``[n]``.
    """
    precision = 1.8 * torch.finfo(a.dtype).eps * torch.maximum(a.abs(), b.abs())
    negative, side = g_a < 0, torch.zeros_like(a)
    for i in range(1, 100):
        wide = (b - a > precision) & (g_b != 0)
        if not bool(wide.any()):
            break
        middle = (a * g_b - b * g_a) / (g_b - g_a) if i % 3 else 0.5 * (a + b)
        middle = torch.minimum(torch.maximum(middle, a + 0.5 * precision), b - 0.5 * precision)
        middle = torch.where(wide, middle, b)
        value = g(middle)
        before = (value != 0) & ((value < 0) == negative)
        left, right = wide & before, wide & ~before
        a, b = torch.where(left, middle, a), torch.where(right, middle, b)
        # a value that is used a second time counts half (Illinois)
        new_a = torch.where(left, value, torch.where(right & (side > 0), 0.5 * g_a, g_a))
        g_b = torch.where(right, value, torch.where(left & (side < 0), 0.5 * g_b, g_b))
        g_a = new_a
        side = torch.where(left, -1.0, torch.where(right, 1.0, side))
    return b
