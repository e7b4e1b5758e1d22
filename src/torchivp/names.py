"""Pieces are looked up by name in tables."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, TypeVar

from .errors import InputError

T = TypeVar("T")


def named(kind: str, name: object, table: Mapping[str, T]) -> T:
    """The entry of this name, or an error that says what was probably meant."""
    if isinstance(name, str) and name in table:
        return table[name]
    close = difflib.get_close_matches(str(name), table, n=1)
    meant = f" Did you mean {close[0]!r}?" if close else ""
    raise InputError(f"{kind}={name!r} is not known.{meant} Choose one of: {', '.join(sorted(table))}.")


def choose(kind: str, piece: object, base: Any, table: Mapping[str, type[T]]) -> T:
    """A piece (a method, a gradient) from its name, its class, or itself."""
    if isinstance(piece, base):
        return piece
    if isinstance(piece, type) and issubclass(piece, base):
        return piece()
    return named(kind, piece, table)()
