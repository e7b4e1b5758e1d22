"""Rosenbrock methods, a file each."""

from __future__ import annotations

from .rodas4 import Rodas4
from .rodas5p import Rodas5P
from .rosenbrock23 import Rosenbrock23

__all__ = ["Rodas4", "Rodas5P", "Rosenbrock23"]
