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
from .reversible import Reversible
from .reversible_heun import ReversibleHeun
from .rosenbrock import Rodas4, Rodas5P, Rosenbrock23
from .rosenbrock_rk import Rosenbrock
from .rosenbrock_tableau import RosenbrockTableau
from .table import METHODS
from .tableau import DenseOutput, Tableau

__all__ = [
    "ALF", "METHODS", "AdaptiveHeun", "Bosh3", "DenseOutput", "Dopri5", "Dopri8", "Euler", "ExplicitAdams",
    "ExplicitRungeKutta", "Fehlberg2", "Heun2", "Heun3", "History", "ImplicitAdams", "Method", "Midpoint", "RK4",
    "RK4Classic", "Ralston", "Reversible", "ReversibleHeun", "Rodas4", "Rodas5P", "Rosenbrock", "Rosenbrock23",
    "RosenbrockTableau", "Step", "Tableau", "Tsit5",
]  # fmt: skip
