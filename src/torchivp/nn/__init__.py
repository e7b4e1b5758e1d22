"""Layers."""

from .ode_block import ODEBlock

__all__ = ["ODEBlock"]
