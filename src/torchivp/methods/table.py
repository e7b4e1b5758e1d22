"""All methods, by name."""

from __future__ import annotations

from ..names import choose
from .adams import ExplicitAdams, ImplicitAdams
from .alf import ALF
from .base import Method
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
from .reversible_heun import ReversibleHeun

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


def choose_method(method: str | Method | type[Method]) -> Method:
    """A method from its name, its class, or itself."""
    return choose("method", method, Method, {**METHODS, **GEOMETRIC_METHODS})
