"""``runner="compiled"``: the whole loop as one program."""

from . import rows, single

__all__ = ["rows", "single"]
