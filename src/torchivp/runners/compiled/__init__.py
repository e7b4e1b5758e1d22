"""``runner="compiled"``: the whole loop as one program."""

from . import back, inline, rows, single

__all__ = ["back", "inline", "rows", "single"]
