"""How the loop is executed. Table of names; ``eager`` is plain PyTorch."""

from . import compiled, rows
from .eager import run

RUNNERS = {"eager": run, "compiled": compiled.run}
ROW_RUNNERS = {"eager": rows.run}
COMPACT_RUNNERS = {"eager": rows.run_compacted}

__all__ = ["COMPACT_RUNNERS", "ROW_RUNNERS", "RUNNERS", "run"]
