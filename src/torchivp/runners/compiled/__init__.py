"""``runner="compiled"``: the whole loop as one program."""

from .single import run

__all__ = ["run"]
