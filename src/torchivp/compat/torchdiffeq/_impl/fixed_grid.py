"""Names of ``torchdiffeq._impl.fixed_grid``."""

from ..fixed import RK4, Euler, Heun2, Heun3, Midpoint

__all__ = ["RK4", "Euler", "Heun2", "Heun3", "Midpoint"]
