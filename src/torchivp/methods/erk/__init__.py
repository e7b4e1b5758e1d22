"""Explicit Runge-Kutta methods, one file each."""

from .adaptive_heun import AdaptiveHeun
from .bosh3 import Bosh3
from .dop853 import Dop853
from .dopri5 import Dopri5
from .dopri8 import Dopri8
from .euler import Euler
from .fehlberg2 import Fehlberg2
from .heun2 import Heun2
from .heun3 import Heun3
from .midpoint import Midpoint
from .ralston import Ralston
from .rk4 import RK4
from .rk4_classic import RK4Classic
from .tsit5 import Tsit5
from .vern6 import Vern6
from .vern7 import Vern7
from .vern8 import Vern8
from .vern9 import Vern9

__all__ = [
    "AdaptiveHeun",
    "Bosh3",
    "Dop853",
    "Dopri5",
    "Dopri8",
    "Euler",
    "Fehlberg2",
    "Heun2",
    "Heun3",
    "Midpoint",
    "RK4",
    "RK4Classic",
    "Ralston",
    "Tsit5",
    "Vern6",
    "Vern7",
    "Vern8",
    "Vern9",
]
