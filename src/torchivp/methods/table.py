"""All methods, by name."""

from __future__ import annotations

from ..names import choose
from .adams import ExplicitAdams, ImplicitAdams
from .alf import ALF
from .automatic import Auto
from .base import Method
from .bdf import BDF
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
    Dop853,
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
    Vern6,
    Vern7,
    Vern8,
    Vern9,
)
from .geometric import RKN4, Leapfrog, McLachlan4, Yoshida4, Yoshida6
from .irk import Gauss4, Gauss6, Radau3, Radau5
from .reversible_heun import ReversibleHeun
from .rosenbrock import Rodas4, Rodas5P, Rosenbrock23

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
    "dop853": Dop853,
    "vern6": Vern6,
    "vern7": Vern7,
    "vern8": Vern8,
    "vern9": Vern9,
    "explicit_adams": ExplicitAdams,
    "implicit_adams": ImplicitAdams,
    "reversible_heun": ReversibleHeun,
    "alf": ALF,
    "implicit_euler": ImplicitEuler,
    "implicit_midpoint": ImplicitMidpoint,
    "trapezoid": Trapezoid,
    "sdirk2": SDIRK2,
    "trbdf2": TRBDF2,
    "kvaerno3": Kvaerno3,
    "kvaerno4": Kvaerno4,
    "kvaerno5": Kvaerno5,
    "kencarp3": KenCarp3,
    "kencarp4": KenCarp4,
    "kencarp5": KenCarp5,
    "radau3": Radau3,
    "radau5": Radau5,
    "gauss4": Gauss4,
    "gauss6": Gauss6,
    "rosenbrock23": Rosenbrock23,
    "rodas4": Rodas4,
    "rodas5p": Rodas5P,
}

"""For any ``f``."""

GEOMETRIC_METHODS: dict[str, type[Method]] = {
    "leapfrog": Leapfrog,
    "yoshida4": Yoshida4,
    "yoshida6": Yoshida6,
    "mclachlan4": McLachlan4,
    "rkn4": RKN4,
}
"""For systems in two parts: ``SecondOrder``, ``Partitioned``, ``Hamiltonian``."""

MULTISTEP_METHODS: dict[str, type[Method]] = {"bdf": BDF}
"""They choose their order."""

SWITCHING_METHODS: dict[str, type[Method]] = {"auto": Auto}
"""They choose between others."""

_ALL = {**METHODS, **GEOMETRIC_METHODS, **MULTISTEP_METHODS, **SWITCHING_METHODS}


def choose_method(method: str | Method | type[Method]) -> Method:
    """A method from its name, its class, or itself."""
    return choose("method", method, Method, _ALL)
