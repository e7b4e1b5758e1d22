"""The table of names. Programs add their own classes to it, and offer its keys on their command lines."""

from __future__ import annotations

from typing import Any

from .adaptive import AdaptiveHeunSolver, Bosh3Solver, Dopri5Solver, Dopri8Solver, Fehlberg2, Tsit5Solver
from .fixed import RK4, AdamsBashforth, AdamsBashforthMoulton, Euler, Heun2, Heun3, Midpoint
from .implicit import (
    SDIRK2,
    TRBDF2,
    GaussLegendre4,
    GaussLegendre6,
    ImplicitEuler,
    ImplicitMidpoint,
    RadauIIA3,
    RadauIIA5,
    Trapezoid,
)
from .scipy import ScipyWrapperODESolver

SOLVERS: dict[str, type[Any]] = {
    "dopri8": Dopri8Solver,
    "dopri5": Dopri5Solver,
    "tsit5": Tsit5Solver,
    "bosh3": Bosh3Solver,
    "fehlberg2": Fehlberg2,
    "adaptive_heun": AdaptiveHeunSolver,
    "euler": Euler,
    "midpoint": Midpoint,
    "heun2": Heun2,
    "heun3": Heun3,
    "rk4": RK4,
    "explicit_adams": AdamsBashforth,
    "implicit_adams": AdamsBashforthMoulton,
    "fixed_adams": AdamsBashforthMoulton,
    "implicit_euler": ImplicitEuler,
    "implicit_midpoint": ImplicitMidpoint,
    "trapezoid": Trapezoid,
    "radauIIA3": RadauIIA3,
    "gl4": GaussLegendre4,
    "radauIIA5": RadauIIA5,
    "gl6": GaussLegendre6,
    "sdirk2": SDIRK2,
    "trbdf2": TRBDF2,
    "scipy_solver": ScipyWrapperODESolver,
}
