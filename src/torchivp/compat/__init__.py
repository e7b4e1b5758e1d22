"""Other libraries' interfaces on top of torchivp.

``torchivp.compat.torchdiffeq`` has torchdiffeq's public functions and the private names that programs import.
``install()`` puts it in torchdiffeq's place, so that packages that import torchdiffeq run on torchivp.
"""

from __future__ import annotations

import sys
from types import ModuleType

from . import torchdiffeq
from .torchdiffeq import _impl

_NAME = "torchdiffeq"
_replaced: dict[str, ModuleType] = {}
_installed = False


def _modules() -> dict[str, ModuleType]:
    """Our modules under the names that torchdiffeq gives its own."""
    ours = f"{__name__}.{_NAME}"
    inside = {
        f"{_NAME}{name.removeprefix(ours)}": module for name, module in sys.modules.items() if _is_ours(name, ours)
    }
    return {_NAME: torchdiffeq, f"{_NAME}._impl": _impl, **inside}


def _is_ours(name: str, ours: str) -> bool:
    return name.startswith(f"{ours}._impl.")


def install() -> None:
    """Make ``import torchdiffeq`` (and ``torchdiffeq._impl...``) find torchivp's drop-in from now on.

    What was imported from torchdiffeq before keeps running on torchdiffeq: call this first. Calling it twice does no harm.

    Example:
        >>> import torchivp.compat
        >>> torchivp.compat.install()
        >>> from torchdiffeq import odeint  # torchivp's
    """
    global _installed
    if _installed:
        return
    for name in [name for name in sys.modules if name == _NAME or name.startswith(f"{_NAME}.")]:
        _replaced[name] = sys.modules.pop(name)
    sys.modules.update(_modules())
    _installed = True


def uninstall() -> None:
    """Undo ``install()``: later imports find what is installed under the name of torchdiffeq, if anything is."""
    global _installed
    if not _installed:
        return
    for name in _modules():
        sys.modules.pop(name, None)
    sys.modules.update(_replaced)
    _replaced.clear()
    _installed = False


__all__ = ["install", "torchdiffeq", "uninstall"]
