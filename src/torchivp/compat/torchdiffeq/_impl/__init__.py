"""The private modules of torchdiffeq that programs import from, under the same names."""

from . import (
    adaptive_heun,
    adjoint,
    bosh3,
    dopri5,
    dopri8,
    event_handling,
    fehlberg2,
    fixed_adams,
    fixed_grid,
    fixed_grid_implicit,
    interp,
    misc,
    rk_common,
    scipy_wrapper,
    solvers,
    tsit5,
)
from .adjoint import odeint_adjoint
from .odeint import odeint, odeint_dense, odeint_event

__all__ = [
    "adaptive_heun", "adjoint", "bosh3", "dopri5", "dopri8", "event_handling", "fehlberg2", "fixed_adams", "fixed_grid",
    "fixed_grid_implicit", "interp", "misc", "odeint", "odeint_adjoint", "odeint_dense", "odeint_event", "rk_common",
    "scipy_wrapper", "solvers", "tsit5",
]  # fmt: skip
