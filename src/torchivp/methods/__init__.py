"""The methods: one file each, and the table of their names."""

from __future__ import annotations

from .adams import ExplicitAdams, ImplicitAdams
from .alf import ALF
from .automatic import Auto
from .base import History, Method, Step
from .bdf import BDF
from .diagonal_rk import DiagonalRungeKutta
from .dirk import (
    SDIRK2,
    TRBDF2,
    ImplicitEuler,
    ImplicitMidpoint,
    KenCarp3,
    KenCarp4,
    KenCarp5,
    Kvaerno3,
    Kvaerno4,
    Kvaerno5,
    Trapezoid,
)
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
from .implicit_rk import ImplicitRungeKutta
from .irk import Gauss4, Gauss6, Radau3, Radau5
from .projected import Projected
from .reversible import Reversible
from .reversible_heun import ReversibleHeun
from .rosenbrock import Rodas4, Rodas5P, Rosenbrock23
from .rosenbrock_rk import Rosenbrock
from .rosenbrock_tableau import RosenbrockTableau
from .table import GEOMETRIC_METHODS, METHODS, SWITCHING_METHODS
from .tableau import DenseOutput, Tableau

__all__ = [
    "ALF", "AdaptiveHeun", "Auto", "BDF", "Bosh3", "DenseOutput", "DiagonalRungeKutta", "Dopri5", "Dopri8", "Euler",
    "ExplicitAdams", "ExplicitRungeKutta", "Fehlberg2", "GEOMETRIC_METHODS", "Gauss4", "Gauss6", "Heun2", "Heun3",
    "History", "ImplicitAdams", "ImplicitEuler", "ImplicitMidpoint", "ImplicitRungeKutta", "KenCarp3", "KenCarp4",
    "KenCarp5", "Kvaerno3", "Kvaerno4", "Kvaerno5", "Leapfrog", "METHODS", "McLachlan4", "Method", "Midpoint",
    "Projected", "RK4", "RK4Classic", "RKN4", "Radau3", "Radau5", "Ralston", "Reversible", "ReversibleHeun",
    "Rodas4", "Rodas5P", "Rosenbrock", "Rosenbrock23", "RosenbrockTableau", "SDIRK2", "SWITCHING_METHODS", "Step", "TRBDF2", "Tableau",
    "Trapezoid", "Tsit5", "Yoshida4", "Yoshida6",
]  # fmt: skip
