"""``runner="compiled"``: the whole loop as one program."""

from . import back, inline, rows, rows_back, single

__all__ = ["back", "inline", "rows", "rows_back", "single"]
