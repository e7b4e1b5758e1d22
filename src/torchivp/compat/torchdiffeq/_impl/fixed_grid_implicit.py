"""Names of ``torchdiffeq._impl.fixed_grid_implicit``."""

from ..implicit import (
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

__all__ = [
    "SDIRK2", "TRBDF2", "GaussLegendre4", "GaussLegendre6", "ImplicitEuler", "ImplicitMidpoint", "RadauIIA3", "RadauIIA5",
    "Trapezoid",
]  # fmt: skip
