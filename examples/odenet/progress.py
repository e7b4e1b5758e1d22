"""A progress bar: tqdm's where it is installed, a line for every tenth of the way where it is not."""

from __future__ import annotations

import sys
from typing import Any


class PlainProgress:
    """The four methods of a tqdm bar that the examples use, as printed lines."""

    def __init__(self, total: int, initial: int, desc: str):
        self.total, self.done, self.desc, self.note = max(1, total), initial, desc, ""

    def set_postfix_str(self, note: str, refresh: bool = True) -> None:
        """Sets the text behind the bar."""
        self.note = note

    def update(self, n: int = 1) -> None:
        """Moves on by ``n``."""
        before, self.done = self.done, self.done + n
        if 10 * before // self.total < 10 * self.done // self.total:
            print(f"{self.desc}: {100 * self.done // self.total:3d} % {self.note}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Nothing to tidy up."""


def progress_bar(total: int, initial: int, desc: str, shown: bool = True) -> Any:
    """A bar of ``total`` steps of which ``initial`` are done; ``shown=False`` keeps it silent."""
    if not shown:
        return PlainProgress(sys.maxsize, 0, desc)
    try:
        from tqdm import tqdm
    except ImportError:
        return PlainProgress(total, initial, desc)
    return tqdm(total=total, initial=initial, desc=desc, unit="step", dynamic_ncols=True, mininterval=0.5)
