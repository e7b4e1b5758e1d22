"""The exceptions of torchivp. Every message says what we got, why that is a problem, and what to write instead."""

from __future__ import annotations

from typing import Any


class TorchIVPError(Exception):
    """Base class of all exceptions of this package."""


class InputError(TorchIVPError, ValueError):
    """An argument of the front door does not make sense."""


class InputTypeError(TorchIVPError, TypeError):
    """An argument of the front door has a wrong type or dtype."""


class NotCompilable(InputError):
    """A solve that ``runner="compiled"`` cannot make a program of; ``runner="auto"`` solves it by plain PyTorch."""


class OutputError(TorchIVPError, ValueError):
    """The user's ``f`` returned something that is not a slope of its state."""


class GradientError(TorchIVPError, RuntimeError):
    """A gradient was asked for that the chosen method cannot give (never answered with a silent zero)."""


class PrecisionWarning(UserWarning):
    """A tolerance lies below what the numbers can resolve."""


class NotCompiledWarning(UserWarning):
    """``runner="auto"`` could not compile something, and goes on without."""


class StiffnessWarning(UserWarning):
    """An explicit method solves a stiff problem: rightly, but with many more steps than an implicit one."""


class SolveError(TorchIVPError, RuntimeError):
    """A solve did not reach its end.

    Attributes:
        solution: everything that was computed before the failure (as ``throw=False`` would have returned).
    """

    def __init__(self, message: str, solution: Any = None):
        super().__init__(message)
        self.solution = solution
