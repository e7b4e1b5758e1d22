"""How the loop is executed. Table of names; ``eager`` is plain PyTorch."""

from . import rows
from .eager import run

RUNNERS = {"eager": run}
ROW_RUNNERS = {"eager": rows.run}

__all__ = ["ROW_RUNNERS", "RUNNERS", "run"]
