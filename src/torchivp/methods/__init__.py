"""The methods: one file each, and the table of their names."""

from __future__ import annotations

from .adams import ExplicitAdams, ImplicitAdams
from .alf import ALF
from .base import History, Method, Step
from .erk import (
    RK4,
    AdaptiveHeun,
    Bosh3,
    Dopri5,
    Dopri8,
    Euler,
    Fehlberg2,
    Heun2,
    Heun3,
    Midpoint,
    Ralston,
    RK4Classic,
    Tsit5,
)
from .explicit_rk import ExplicitRungeKutta
from .geometric import RKN4, Leapfrog, McLachlan4, Yoshida4, Yoshida6
from .projected import Projected
from .reversible import Reversible
from .reversible_heun import ReversibleHeun
from .table import GEOMETRIC_METHODS, METHODS
from .tableau import DenseOutput, Tableau

__all__ = [
    "ALF", "GEOMETRIC_METHODS", "METHODS", "AdaptiveHeun", "Bosh3", "DenseOutput", "Dopri5", "Dopri8", "Euler",
    "ExplicitAdams", "ExplicitRungeKutta", "Fehlberg2", "Heun2", "Heun3", "History", "ImplicitAdams", "Leapfrog",
    "McLachlan4", "Method", "Midpoint", "Projected", "RK4", "RK4Classic", "RKN4", "Ralston", "Reversible",
    "ReversibleHeun", "Step", "Tableau", "Tsit5", "Yoshida4", "Yoshida6",
]  # fmt: skip
