"""How the loop is executed. Table of names; ``eager`` is plain PyTorch."""

from .eager import run

RUNNERS = {"eager": run}

__all__ = ["RUNNERS", "run"]
