"""Checkpoints that are either complete or not there, and the state of every random number generator."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch

FORMAT = "torchivp-examples-odenet-1"


class CheckpointError(RuntimeError):
    """A checkpoint is missing or damaged."""


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Writes ``state`` beside ``path`` first and then renames it, so that a kill never leaves half a file.

    The folder is made if need be.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".unfinished")
    torch.save({"format": FORMAT, **state}, unfinished)
    os.replace(unfinished, path)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Reads what ``save_checkpoint`` wrote, tensors on the CPU. No code in the file is run (``weights_only``).

    Raises:
        CheckpointError: if the file is missing, damaged or something else.
    """
    hint = "Name a file that train_odenet.py wrote, or leave --resume out to start anew"
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such checkpoint. {hint}.")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises half a dozen unrelated types on damaged files
        raise CheckpointError(f"{path}: not a readable checkpoint ({type(error).__name__}). {hint}.") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(f"{path}: not a checkpoint of train_odenet.py (expected the format {FORMAT!r}). {hint}.")
    return state


def rng_state() -> dict[str, Any]:
    """The states of torch's (CPU and all CUDA devices), NumPy's and Python's global generators."""
    name, keys, *rest = np.random.get_state()  # noqa: NPY002 (the global generator is what augmentations draw from)
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": (str(name), keys.tolist(), *rest),
        "python": random.getstate(),
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """Puts back what ``rng_state`` returned; CUDA's only if there are as many devices as then."""
    torch.set_rng_state(state["torch"])
    if len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    np.random.set_state(state["numpy"])  # noqa: NPY002
    random.setstate(state["python"])
