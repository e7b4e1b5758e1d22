"""How far an explicit Runge-Kutta method is stable, and what its stages tell of the problem, without an evaluation."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .._types import Slopes
from ..errors import InputError
from ..transforms import as_float, outside_of_transforms
from .base import Method
from .tableau import Tableau

_DAMPED = 0.05  # of |lambda|: a mode that decays less within a radian is an oscillation, which no implicit method makes easier
_APART = 1.0  # weights of slopes in the states of twins differ by more (0.5: adaptive_heun, 0.002: fehlberg2, others from 9 on)
_STILL = 0.1  # shorter steps are stable in all directions but for rounding


def explicit_tableau(method: Method) -> Tableau | None:
    """That of an explicit Runge-Kutta method; None of any other."""
    tableau = getattr(method, "tableau", None)
    return tableau if isinstance(tableau, Tableau) and not method.uses_jacobian else None


@lru_cache(maxsize=256)
def growth(tableau: Tableau) -> tuple[float, ...]:
    """What a step multiplies ``y`` by where ``f`` is ``lambda * y``: a polynomial in ``dt * lambda``, lowest power first."""
    a = np.zeros((tableau.stages, tableau.stages))
    for row, entries in zip(a, tableau.a):
        row[: len(entries)] = [float(x) for x in entries]
    terms, powers = [1.0], np.ones(tableau.stages)
    for _ in range(tableau.stages):
        terms.append(float(np.dot([float(x) for x in tableau.b], powers)))
        powers = a @ powers
    return tuple(terms)


@lru_cache(maxsize=256)
def stability_size(tableau: Tableau) -> float:
    """The largest x for which steps with ``dt * lambda`` in ``[-x, 0]`` do not grow (3.3 for ``dopri5``)."""
    factor = np.polynomial.Polynomial(growth(tableau))
    crossings = [z for bound in (1, -1) for z in (factor - bound).roots() if abs(z.imag) < 1e-7 and z.real < -1e-3]
    return min(-float(z.real) for z in crossings)


def outgrows(tableau: Tableau, z: Tensor) -> Tensor:
    """Whether ``z = dt * lambda``, any number of them, lies beyond where the method is stable, of a mode that the problem damps.

    Looked at is the outer half of the way to ``z``: behind the first border a polynomial may be small again.
    """
    at = z.unsqueeze(-1) * torch.linspace(0.5, 1, 11, dtype=z.real.dtype, device=z.device)
    factor = torch.zeros_like(at)
    for term in reversed(growth(tableau)):
        factor = factor * at + term
    damped = (z.real < -_DAMPED * z.abs()) & (z.abs() > _STILL)
    return damped & (factor.abs() > 1).any(-1)


def twin_stages(tableau: Tableau) -> tuple[int, int] | None:
    """The last two stages at one time, mostly the end of the step, whose states differ enough to tell something; None if a
    tableau has no such pair."""

    def apart(i: int, j: int) -> bool:
        length = max(len(tableau.a[i]), len(tableau.a[j]))
        first, second = ((*tableau.a[s], *(0,) * length)[:length] for s in (i, j))
        return max((abs(float(x) - float(y)) for x, y in zip(first, second)), default=0.0) > _APART

    pairs = [(i, j) for i in range(tableau.stages) for j in range(i) if tableau.c[i] == tableau.c[j]]
    return max((pair for pair in pairs if apart(*pair)), default=None)


@lru_cache(maxsize=64)
def with_slope_at_end(tableau: Tableau) -> Tableau:
    """The stages of a step, and behind them the slope that the next step begins with."""
    if tableau.fsal:
        return tableau
    return replace(tableau, c=(*tableau.c, 1), a=(*tableau.a, tableau.b), b=(*tableau.b, 0))


class Twins(NamedTuple):
    """Two stages at one time, whose slopes differ only because their states do: ``|df| / |dy|`` estimates the largest
    eigenvalue of the Jacobian, as soon as the step is so long that this eigenvalue's error dominates.

    Attributes:
        tableau: of the method; of late ones, with the slope at the end.
        size: of its stability.
        late: one of them is the slope that the next step begins with.

    Source: L. F. Shampine, Lipschitz constants and robust ODE codes (1980); E. Hairer, G. Wanner, Solving ODEs II, section IV.2,
    doi:10.1007/978-3-642-05221-7.
    """

    tableau: Tableau
    size: float
    late: bool = False

    @classmethod
    def of(cls, method: Method) -> Twins | None:
        """Those of a method; None if it has none, or is not explicit."""
        tableau = explicit_tableau(method)
        if tableau is None:
            return None
        for stages, late in ((tableau, False), (with_slope_at_end(tableau), True)):
            if twin_stages(stages) is not None:
                return cls(stages, stability_size(tableau), late)
        return None

    @classmethod
    def required(cls, method: Method) -> Twins:
        """The same, of a method that is known to have them in one step."""
        twins = cls.of(method)
        if twins is None or twins.late:
            raise InputError(
                f"The steps of {method!r} do not tell whether the problem is stiff: that takes an explicit Runge-Kutta method "
                f"with two stages at one time. Give 'tsit5', 'dopri5', 'dopri8', or one of 'vern6' to 'vern9'."
            )
        return twins

    def stiffness(self, k: Slopes, scale: Tensor) -> float:
        """``dt |lambda|`` of a step in units of the stability; reads one number.

        Near 1 stability limits the step; nan if the two states do not differ.

        Args:
            k: slopes of the step, ``[S, D]``.
            scale: what counts as one in each number of the state, ``[1, D]``: its tolerance, because what limits the steps may be
                a small number among large ones.
        """
        return as_float(self.stiffness_of_rows(k, scale, 1)[0])

    def stiffness_of_rows(self, k: Slopes, scale: Tensor, rows: int) -> Tensor:
        """The same of each of B rows, ``[B]``; stays on the device."""
        weights = difference_weights(self.tableau, k.dtype, k.device)
        differences = torch.mm(weights, k[: self.tableau.stages].detach())
        scaled = torch.where(scale > 0, differences / scale, 0).view(2, rows, scale.shape[1] // rows)
        slopes, states = torch.linalg.vector_norm(scaled, dim=2)
        return slopes / states / self.size


@lru_cache(maxsize=64)
@outside_of_transforms
def difference_weights(tableau: Tableau, dtype: torch.dtype, device: torch.device) -> Tensor:
    """``[2, S]``: weights of the slopes that give the difference of the twins' slopes, and of their states over ``dt``."""
    i, j = twin_stages(tableau) or (0, 0)
    weights = torch.zeros(2, tableau.stages, dtype=torch.float64)
    weights[0, i], weights[0, j] = 1, -1
    for stage, sign in ((i, 1), (j, -1)):
        row = tableau.a[stage]
        weights[1, : len(row)] += sign * torch.tensor([float(x) for x in row], dtype=torch.float64)
    return weights.to(device=device, dtype=dtype)
