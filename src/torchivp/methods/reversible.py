"""The reversible form of any explicit Runge-Kutta method."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from .._types import Rows, Slopes
from ..errors import InputError
from ..field import Field, time_dtype
from ..span import Span
from ..transforms import outside_of_transforms
from .base import History, Method, Step, second_state
from .explicit_rk import ExplicitRungeKutta, coefficients, combine
from .table import choose_method
from .tableau import Tableau


class Reversible(Method):
    """An explicit Runge-Kutta method made reversible by a second state ``z`` beside ``y``.

    Card: order, error estimate and interpolant of the base method; for s stages 2 s evaluations a step (one fewer with a last
    stage that is the slope at the end), and one at a start. With the base method's increment ``P(dt, t, y)``, a step is

        y1 = lam y0 + (1 - lam) z0 + P(dt, t0, z0),    z1 = z0 - P(-dt, t1, y1),

    and ``reverse`` solves this for z0 and y0, to rounding: each step back multiplies the rounding errors of y by ``1 / lam``.

    Args:
        base: an explicit Runge-Kutta method: its name, class, or an instance.
        lam: how strongly y is its own, in (0, 1]. Below 1, z and y are drawn together: a region of stability that is not empty.

    Raises:
        InputError: for a base that is no explicit Runge-Kutta method, or a ``lam`` outside (0, 1].

    Example:
        >>> sol = torchivp.solve(lambda t, y: -y, torch.ones(2), (0.0, 1.0), method=torchivp.methods.Reversible("tsit5"))

    Source: S. McCallum, J. Foster, Efficient, Accurate and Stable Gradients for Neural ODEs (2024),
    doi:10.48550/arXiv.2410.11648.
    """

    reversible = True
    carries = "the slope at z, z: Reversible"

    def __init__(self, base: str | Method | type[Method], lam: float = 0.999):
        method = choose_method(base)
        if not isinstance(method, ExplicitRungeKutta):
            raise InputError(
                f"Reversible got {method!r}, but only an explicit Runge-Kutta method takes one step forwards and one backwards "
                f"from a state alone. Give one of them, such as Reversible('tsit5')."
            )
        if not 0 < lam <= 1:
            raise InputError(
                f"Reversible got lam={lam!r}, but a step can only be taken back, and stays bounded, for 0 < lam <= 1. Give a "
                f"number in between; 0.999 is a good one."
            )
        self.base = method
        self.lam = float(lam)

    @property
    def order(self) -> int:  # type: ignore[override]
        return self.base.order

    @property
    def error_order(self) -> int | None:  # type: ignore[override]
        return self.base.error_order

    def needs_slope(self, history: History) -> bool:
        return not history

    def step(self, field: Field, span: Span, y: Rows, history: History) -> Step:
        z, slope = second_state(y, history)
        c = _coefficients(self.base.tableau, self.lam, y.dtype, y.device)
        forth = self.base.step(field, span, z, ((span.t, slope),))
        gap = z - y
        y1 = combine(torch.add(y, gap, alpha=1 - self.lam), c.b, forth.k[: c.stages], span)
        z1 = combine(z, c.b, slopes_back(c, field, span, y1), span)
        k = torch.cat((span.rate(gap), forth.k))
        (end,) = field.times(span, c.end)
        history = ((span.t1, field(end, z1).clone()), (span.t1, z1))
        return Step(y1, k, c.weights, forth.error, history, error_lower=forth.error_lower)

    def dense(self, field: Field, span: Span, y: Rows, step: Step) -> Step:
        """The base method's extra stages, which start from z as its others do."""
        gap, k = step.k[:1], step.k[1:]
        c = _coefficients(self.base.tableau, self.lam, y.dtype, y.device)
        looked_into = self.base.dense(field, span, combine(y, c.one, gap, span), step._replace(k=k))
        return step._replace(k=torch.cat((gap, looked_into.k)))

    def reverse(self, field: Field, span: Span, y1: Rows, history1: History) -> tuple[Rows, History]:
        c = _coefficients(self.base.tableau, self.lam, y1.dtype, y1.device)
        z1, _ = second_state(y1, history1)
        z = combine(z1, -c.b, slopes_back(c, field, span, y1), span)
        slope = field.start_slope(span, z)
        forth = self.base.step(field, span, z, ((span.t, slope),))
        mixed = combine(y1, -c.b, forth.k[: c.stages], span)  # lam y0 + (1 - lam) z0
        y = torch.add(mixed, mixed - z, alpha=(1 - self.lam) / self.lam)
        return y, ((span.t, slope), (span.t, z))

    def __repr__(self) -> str:
        return f"Reversible({self.base!r}, lam={self.lam:g})"


class _Coefficients(NamedTuple):
    """The base method's tableau as tensors, for steps forth and back.

    Attributes:
        stages: number of stages that the increment needs (not the slope at the end).
        b: their weights.
        end: the end of the step, for ``Field.times``.
        back_from_end: where the stages of the step back lie, for ``Field.times``.
        back_a: their rows, for a step of negative size.
        weights: the base method's interpolant, with z's distance from y in front of the stages.
    """

    stages: int
    one: Tensor
    b: Tensor
    end: Tensor
    back_from_end: Tensor
    back_a: tuple[Tensor, ...]
    weights: Tensor


@lru_cache(maxsize=256)
@outside_of_transforms
def _coefficients(tableau: Tableau, lam: float, dtype: torch.dtype, device: torch.device) -> _Coefficients:
    rk = coefficients(tableau, dtype, device)
    stages = max(i for i, b in enumerate(tableau.b) if b) + 1
    nodes = torch.tensor([-float(c) for c in tableau.c[:stages]], dtype=torch.float64)
    back_from_end = nodes.to(device=device, dtype=time_dtype(device))
    distance = rk.weights.new_zeros(len(rk.weights), 1)
    distance[0] = 1 - lam
    return _Coefficients(
        stages=stages,
        one=rk.b.new_ones(1, 1),
        b=rk.b[:, :stages].contiguous(),
        end=back_from_end[:1],
        back_from_end=back_from_end,
        back_a=tuple(-a for a in rk.a[: stages - 1]),
        weights=torch.cat((distance, rk.weights), dim=1),
    )


def slopes_back(c: _Coefficients, field: Field, span: Span, y1: Rows) -> Slopes:
    """The stages of the base method's step back from the end of ``span``: ``P(-dt, t1, y1) = -dt * b @ k``."""
    start, *times = field.times(span.closed(), c.back_from_end)
    k: Slopes = field(start, y1).clone()
    for a, t in zip(c.back_a, times):
        k = torch.cat((k, field(t, combine(y1, a, k, span))))
    return k
