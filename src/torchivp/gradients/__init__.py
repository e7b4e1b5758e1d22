"""How gradients are computed: one file each, and the table of names. Which to use: README.md beside this file."""

from .adjoint import Adjoint
from .base import Gradient
from .direct import Direct
from .discrete import Discrete
from .forward import Forward
from .gauss import Gauss
from .implicit import Implicit
from .interpolated import Interpolated
from .reversible import Reversible

GRADIENTS: dict[str, type[Gradient]] = {
    "adjoint": Adjoint,
    "direct": Direct,
    "discrete": Discrete,
    "forward": Forward,
    "gauss": Gauss,
    "implicit": Implicit,
    "interpolated": Interpolated,
    "reversible": Reversible,
}

__all__ = [
    "GRADIENTS", "Adjoint", "Direct", "Discrete", "Forward", "Gauss", "Gradient", "Implicit", "Interpolated", "Reversible",
]  # fmt: skip
