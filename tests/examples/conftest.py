"""The examples are scripts beside their helpers: their folder goes onto the path, as it does when Python runs one."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
