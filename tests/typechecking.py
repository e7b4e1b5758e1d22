"""The run-time type checker of the test run; ``conftest.py`` puts it on every function and dataclass of torchivp."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from beartype import BeartypeConf, beartype
from beartype.roar import BeartypeDecorHintPep3119Exception

# An int is a float to people and to PEP 484: solve(f, y0, (0, 1), rtol=1).
_check = beartype(conf=BeartypeConf(is_pep484_tower=True))


def typechecked(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with its arguments and its result checked against their annotations.

    ``solve`` and ``ensemble`` are left out: front doors check their arguments themselves, and their errors are tested.
    """
    if (function.__module__, function.__qualname__) in (("torchivp.solve", "solve"), ("torchivp.ensemble", "ensemble")):
        return function
    try:
        return _check(function)
    except BeartypeDecorHintPep3119Exception as error:
        raise TypeError(
            f"The annotations of {function.__module__}.{function.__qualname__} name a Protocol that cannot be "
            f"checked at run time. Put @typing.runtime_checkable on that Protocol."
        ) from error
