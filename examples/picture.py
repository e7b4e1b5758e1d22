"""Matplotlib without a display, and the one flag that all examples share."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

matplotlib.use("Agg")  # draws into files; no display needed

from matplotlib import pyplot as plt

__all__ = ["folder", "plt", "read_output_dir", "save"]


def save(figure: Figure, path: Path) -> Path:
    """Writes and closes a figure; its folder is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130, bbox_inches="tight")
    plt.close(figure)
    return path


def folder(text: str) -> Path:
    """A folder that is there or can be made, as the value of a command-line flag."""
    path = Path(text)
    blocked = next((p for p in (path, *path.parents) if p.exists() and not p.is_dir()), None)
    if blocked is not None:
        raise argparse.ArgumentTypeError(f"{blocked} is a file, not a folder; name a folder, new or not")
    return path


def read_output_dir(arguments: Sequence[str] | None, description: str | None) -> Path:
    """Reads ``--output-dir`` from the command line (``arguments`` instead of it, if given)."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", type=folder, default=Path("examples-output"), help="default: examples-output")
    return parser.parse_args(arguments).output_dir
