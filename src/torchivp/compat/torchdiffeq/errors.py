"""Exceptions of the drop-in: ours by class, and also of the type that torchdiffeq raises in the same situation.

Programs written for torchdiffeq catch ``AssertionError`` and ``RuntimeError``; ours are both these and ``TorchIVPError``.
"""

from __future__ import annotations

from ...errors import InputError, InputTypeError, OutputError, SolveError, TorchIVPError


class ArgumentError(TorchIVPError, AssertionError):
    """An argument does not make sense (torchdiffeq: a bare ``assert``)."""


class NoTimesError(InputError, IndexError):
    """``t`` is empty."""


class NoTensorsError(InputTypeError, AttributeError):
    """A part of the state is no tensor."""


class StepSizeError(InputError, RuntimeError):
    """``step_size`` is no size of a step."""


class StepCountError(InputError, RuntimeError):
    """``max_num_steps`` is no number of steps."""


class IterationsError(InputError, UnboundLocalError):
    """``max_iters`` leaves a corrector nothing to do."""


class IntegerStateError(InputTypeError, NotImplementedError):
    """The state is made of integers."""


class NotSupportedError(TorchIVPError, AttributeError):
    """This solver cannot do what was asked of it."""


class MaxStepsExceeded(SolveError, AssertionError):
    """``max_num_steps`` attempted steps did not reach the next output time."""


class StepUnderflow(SolveError, AssertionError):
    """The step size became too small for the time's precision."""


class NonFiniteState(SolveError, AssertionError):
    """nan or inf, in ``y0`` or from ``func``."""


class NotSolved(SolveError, AssertionError):
    """Newton's iteration did not find a stage of an implicit method."""


class FunctionOutputError(SolveError, OutputError, TypeError):
    """``func`` returned something that is not a slope of its state."""


class EventNotFound(SolveError, AssertionError):
    """No event within the largest number of fixed steps, or before the largest number that the time can be."""


class ScipyError(SolveError, AssertionError):
    """SciPy's solver gave up."""


class OutsideInterval(InputError, AssertionError, IndexError):
    """A dense solution was asked for a time that it does not cover."""
