"""Fully implicit Runge-Kutta methods, one file each."""

from .gauss4 import Gauss4
from .gauss6 import Gauss6
from .radau3 import Radau3
from .radau5 import Radau5

__all__ = ["Gauss4", "Gauss6", "Radau3", "Radau5"]
