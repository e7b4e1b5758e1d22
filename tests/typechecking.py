"""The run-time type checker of the test run; ``conftest.py`` puts it on every function and dataclass of torchivp."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

from beartype import BeartypeConf, beartype
from beartype.roar import BeartypeDecorHintPep3119Exception

# What torch.compile looks into, which it cannot through checks: these modules, and those inside them.
TRACED = (
    "torchivp.runners.compiled",
    "torchivp.controllers.pid",
    "torchivp.controllers.fixed",
    "torchivp.compat.torchdiffeq.control",
    "torchivp.compat.torchdiffeq.functions",
    "torchivp.compat.torchdiffeq.norms",
    "torchivp.methods.tableau",
    "torchivp.estimates",
    "torchivp.nn.ode_block",
)


def checked_modules() -> list[str]:
    """The modules whose functions are checked; packages are left out, because their names would stand for all inside."""
    source = Path(importlib.util.find_spec("torchivp").origin).parent
    names = (".".join(("torchivp", *path.relative_to(source).with_suffix("").parts)) for path in source.rglob("*.py"))
    traced = tuple(f"{name}." for name in TRACED)
    return sorted(name for name in names if not name.endswith(".__init__") and not f"{name}.".startswith(traced))


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
