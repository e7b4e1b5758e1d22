"""Values of command-line flags, with errors that say what to write instead."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import torch

from .training import Settings

MOST_SEED = 2**32 - 1  # NumPy's and scikit-learn's seeds have 32 bits


def whole_number(least: int, most: int = 2**63 - 1) -> Callable[[str], int]:
    """A reader of whole numbers from ``least`` to ``most``."""

    def read(text: str) -> int:
        digits = text.isascii() and text.isdigit() and len(text) < 20
        if not digits or not least <= int(text) <= most:
            up_to = f" and at most {most}" if digits and int(text) > most else ""
            hint = f"write a whole number of at least {least}{up_to}, such as {least + 10}"
            raise argparse.ArgumentTypeError(f"got {text!r}; {hint}")
        return int(text)

    return read


def positive_float(text: str) -> float:
    """A finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (0 < value < math.inf):
        raise argparse.ArgumentTypeError(f"got {text!r}; write a number above 0, such as 1e-3")
    return value


def device(text: str) -> torch.device:
    """A device that is there and holds numbers (meta does not)."""
    try:
        torch.zeros(1, device=text).tolist()
    except (RuntimeError, AssertionError) as error:  # torch raises either, depending on how it was built
        reason = str(error).splitlines()[0]
        raise argparse.ArgumentTypeError(f"{text!r} cannot be used here ({reason}); write cpu instead") from error
    return torch.device(text)


def read_settings(flags: argparse.Namespace, state: dict[str, Any] | None) -> Settings:
    """The settings that the flags give; those of the checkpoint ``state`` if there is one.

    Raises:
        ValueError: if a flag contradicts the checkpoint.
    """
    given = {f.name: value for f in fields(Settings) if (value := getattr(flags, f.name, None)) is not None}
    if state is None:
        return Settings(**given)
    saved = state["settings"]
    for name, value in given.items():
        if value != saved[name]:
            flag = "--" + name.replace("_", "-")
            raise ValueError(
                f"{flag} {value} contradicts the checkpoint, which was made with {flag} {saved[name]}: it could not go "
                f"on to the same numbers. Leave {flag} out, or leave --resume out to start anew."
            )
    return Settings(**saved)
