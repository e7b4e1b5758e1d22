"""``runner="compiled"``: the whole loop as one program."""

from . import inline, rows, single

__all__ = ["inline", "rows", "single"]
