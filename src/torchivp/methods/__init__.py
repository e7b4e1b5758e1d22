"""All methods, by name."""

from __future__ import annotations

from .adams import ExplicitAdams, ImplicitAdams
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
from .tableau import DenseOutput, Tableau

METHODS: dict[str, type[Method]] = {
    "euler": Euler,
    "midpoint": Midpoint,
    "heun2": Heun2,
    "heun3": Heun3,
    "ralston": Ralston,
    "rk4": RK4,
    "rk4_classic": RK4Classic,
    "bosh3": Bosh3,
    "fehlberg2": Fehlberg2,
    "adaptive_heun": AdaptiveHeun,
    "dopri5": Dopri5,
    "tsit5": Tsit5,
    "dopri8": Dopri8,
    "explicit_adams": ExplicitAdams,
    "implicit_adams": ImplicitAdams,
}

__all__ = [
    "METHODS", "AdaptiveHeun", "Bosh3", "DenseOutput", "Dopri5", "Dopri8", "Euler", "ExplicitAdams", "ExplicitRungeKutta",
    "Fehlberg2", "Heun2", "Heun3", "History", "ImplicitAdams", "Method", "Midpoint", "RK4", "RK4Classic", "Ralston", "Step",
    "Tableau", "Tsit5",
]  # fmt: skip
