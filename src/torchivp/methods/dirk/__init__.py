"""Diagonally implicit Runge-Kutta methods, one file each."""

from .implicit_euler import ImplicitEuler
from .implicit_midpoint import ImplicitMidpoint
from .kencarp3 import KenCarp3
from .kencarp4 import KenCarp4
from .kencarp5 import KenCarp5
from .kvaerno3 import Kvaerno3
from .kvaerno4 import Kvaerno4
from .kvaerno5 import Kvaerno5
from .sdirk2 import SDIRK2
from .trapezoid import Trapezoid
from .trbdf2 import TRBDF2

__all__ = [
    "ImplicitEuler",
    "ImplicitMidpoint",
    "KenCarp3",
    "KenCarp4",
    "KenCarp5",
    "Kvaerno3",
    "Kvaerno4",
    "Kvaerno5",
    "SDIRK2",
    "TRBDF2",
    "Trapezoid",
]
