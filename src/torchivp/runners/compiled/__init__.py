"""``runner="compiled"``: the whole loop as one program."""

from . import back, fewer, inline, rows, rows_back, single

__all__ = ["back", "fewer", "inline", "rows", "rows_back", "single"]
