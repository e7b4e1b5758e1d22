"""A signal given as samples, as a function of time to use inside ``f``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .errors import InputError, InputTypeError
from .field import time_dtype


class Interpolation(nn.Module):
    """A function of time through samples: ``u(t)``, piecewise linear or cubic Hermite.

    Before the first sample and after the last it keeps their values, as ``numpy.interp`` does. It is differentiable in ``t``,
    in ``values`` and in ``slopes``, works under ``torch.func.vmap`` and never waits for the device. As a module it moves with
    ``.to``, is part of the state dict of a module that holds it, copies and pickles. Values that are an ``nn.Parameter`` are
    trained.

    A solve crosses a kink with many small steps. Where the samples are farther apart than its steps, land on them:
    ``solve(..., jump_times=u.knots)``.

    Args:
        times: the times of the samples, strictly increasing, ``[T]`` with T >= 2: a tensor, array or sequence, in the units
            of ``t``. Kept in float64, whatever dtype the module is moved to.
        values: the samples ``[T, ...]``, any float or complex dtype: a tensor, array or sequence.
        kind: ``'linear'`` (continuous, error O(h^2) for samples h apart) or ``'cubic'`` (continuously differentiable).
        slopes: du/dt at the samples, shaped like ``values``, for ``'cubic'`` alone; the error is then O(h^4). Without them each
            is the slope of the parabola through the sample and its two neighbours (at the ends: through the three nearest
            samples; with two samples: of the line), exact for quadratics; the error is then O(h^3).

    Attributes:
        knots: the times of the samples, as ``jump_times`` or ``stop_times`` of a solve take them.

    Raises:
        InputError: if times, values and slopes do not fit together, or the times do not increase.
        InputTypeError: if one of them is not made of real (or, for values, complex) numbers.

    Example:
        >>> times = torch.linspace(0, 10, 21)
        >>> u = torchivp.Interpolation(times, torch.sin(times), kind="cubic")
        >>> sol = torchivp.solve(lambda t, y: u(t) - y, torch.tensor(0.0), (0.0, 10.0), jump_times=u.knots)

    Source: C. de Boor, A Practical Guide to Splines, chapter IV (piecewise cubic Hermite and Bessel interpolation),
    doi:10.1007/978-1-4612-6333-3.
    """

    def __init__(self, times: Any, values: Any, kind: str = "linear", slopes: Any = None):
        super().__init__()
        if kind not in _KINDS:
            raise InputError(f"kind={kind!r} is not known. Write 'linear' or 'cubic'.")
        if slopes is not None and kind != "cubic":
            raise InputError(f"slopes were given, but kind={kind!r} has no use for them. Write kind='cubic'.")
        self.kind = kind
        values = _numbers(values, "values")
        times = _numbers(times, "times")
        if times.is_complex():
            raise InputTypeError("times are complex, but time runs along a line. Give real numbers.")
        times = times.detach().to(values.device, time_dtype(values.device))
        _check_times(times)
        if values.dim() == 0 or len(values) != len(times):
            raise InputError(
                f"values has shape {tuple(values.shape)}, but there are {len(times)} times. "
                f"Give one value for each time, [{len(times)}, ...]."
            )
        if slopes is not None:
            slopes = _numbers(slopes, "slopes").to(values.device, values.dtype)
            if slopes.shape != values.shape:
                raise InputError(
                    f"slopes has shape {tuple(slopes.shape)}, but values has {tuple(values.shape)}. "
                    f"Give the slope du/dt of every value, in the same shape."
                )
        elif kind == "cubic" and not values.requires_grad:  # else they follow the values, at every call
            slopes = estimated_slopes(times, values)
        self.times: Tensor
        self.values: Tensor
        self.slopes: Tensor | None
        self._keep("times", times)
        self._keep("values", values)
        self._keep("slopes", slopes)

    def forward(self, t: Tensor | float) -> Tensor:
        """The signal at the times ``t``, in the dtype of the values.

        Args:
            t: a number, or a tensor of any shape ``S`` and real dtype.

        Returns:
            ``[*S, ...]``, where ``...`` is the shape of one value.
        """
        t = torch.as_tensor(t, device=self.times.device).to(self.times.dtype)
        t = torch.clamp(t, self.times[0], self.times[-1])
        index = (torch.searchsorted(self.times, t.detach().contiguous(), right=True) - 1).clamp(0, len(self.times) - 2)
        left, right = _at(self.times, index), _at(self.times, index + 1)
        dt = right - left
        one_each = t.shape + (1,) * (self.values.dim() - 1)
        real = self.values.real.dtype
        theta = ((t - left) / dt).to(real).reshape(one_each)
        return _KINDS[self.kind](self, index, theta, dt.to(real).reshape(one_each))

    @property
    def knots(self) -> Tensor:
        return self.times

    def extra_repr(self) -> str:
        ends = f"{float(self.times[0]):g}..{float(self.times[-1]):g}"
        return f"kind={self.kind!r}, {len(self.times)} samples on {ends}, shape {tuple(self.values.shape[1:])}"

    def _keep(self, name: str, tensor: Tensor | None) -> None:
        if isinstance(tensor, nn.Parameter):
            self.register_parameter(name, tensor)
        else:
            self.register_buffer(name, tensor)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Interpolation:
        """What ``.to`` and its like do; times change the device, never the precision."""
        times = self.times
        super()._apply(fn, recurse)
        self.times = times.to(self.times.device, time_dtype(self.times.device))
        return self


def _linear(u: Interpolation, index: Tensor, theta: Tensor, dt: Tensor) -> Tensor:
    return torch.lerp(_at(u.values, index), _at(u.values, index + 1), theta.to(u.values.dtype))


def _cubic(u: Interpolation, index: Tensor, theta: Tensor, dt: Tensor) -> Tensor:
    slopes = estimated_slopes(u.times, u.values) if u.slopes is None else u.slopes
    u0, u1 = _at(u.values, index), _at(u.values, index + 1)
    rise, start, end = u1 - u0, dt * _at(slopes, index), dt * _at(slopes, index + 1)
    return u0 + theta * (start + theta * (3 * rise - 2 * start - end + theta * (start + end - 2 * rise)))


_KINDS: dict[str, Callable[[Interpolation, Tensor, Tensor, Tensor], Tensor]] = {"linear": _linear, "cubic": _cubic}


def estimated_slopes(times: Tensor, values: Tensor) -> Tensor:
    """Slopes ``[T, ...]`` at the samples from the parabolas through three neighbours: exact for quadratics."""
    h = (times[1:] - times[:-1]).to(values.real.dtype).reshape(-1, *(1,) * (values.dim() - 1))
    secants = (values[1:] - values[:-1]) / h
    if len(times) == 2:
        return torch.cat([secants, secants])
    h0, h1 = h[:-1], h[1:]
    inside = (h1 * secants[:-1] + h0 * secants[1:]) / (h0 + h1)
    first = 2 * secants[:1] - inside[:1]  # a parabola's secant is the mean of the slopes at its ends
    last = 2 * secants[-1:] - inside[-1:]
    return torch.cat([first, inside, last])


def _at(samples: Tensor, index: Tensor) -> Tensor:
    """``samples[index]`` for an index of any shape, 0-d included, without asking the device for its value."""
    return samples.index_select(0, index.reshape(-1)).reshape(index.shape + samples.shape[1:])


def _numbers(x: Any, name: str) -> Tensor:
    try:
        x = torch.as_tensor(x)
    except (TypeError, ValueError, RuntimeError):
        raise InputTypeError(
            f"{name} is a {type(x).__name__} that is no array of numbers. Give a tensor, an array, or a sequence of numbers."
        ) from None
    if x.dtype == torch.bool or not (x.is_floating_point() or x.is_complex()):
        x = x.to(torch.get_default_dtype())
    return x


def _check_times(times: Tensor) -> None:
    if times.dim() != 1 or len(times) < 2:
        raise InputError(
            f"times has shape {tuple(times.shape)}, but a signal needs one sequence of at least two times. "
            f"Give a 1-D tensor [T]."
        )
    if not bool(torch.isfinite(times).all()):
        raise InputError("times holds nan or inf. Give finite times, in the units of t.")
    wrong = (times[1:] <= times[:-1]).nonzero()
    if len(wrong):
        i = int(wrong[0])
        raise InputError(
            f"times must be strictly increasing, but times[{i}]={float(times[i]):g} is followed by "
            f"times[{i + 1}]={float(times[i + 1]):g}. Sort the samples by time and drop duplicates."
        )
