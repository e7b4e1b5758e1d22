"""How gradients are computed: one file each, and the table of names."""

from . import adjoint, direct, discrete

GRADIENTS = {"adjoint": adjoint.integrate, "direct": direct.integrate, "discrete": discrete.integrate}

__all__ = ["GRADIENTS"]
