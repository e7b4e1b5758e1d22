"""Methods that solve the equations of their stages to a tolerance, so that rounding is not all they differ by."""

from __future__ import annotations

from torchivp.methods import METHODS, DiagonalRungeKutta, ImplicitRungeKutta

ITERATING = {name for name, cls in METHODS.items() if issubclass(cls, DiagonalRungeKutta | ImplicitRungeKutta)}
