"""Scripts that run in several processes at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def run_together(script: Path, folder: Path, size: int, *arguments: str, seconds: float) -> list[tuple[str, str]]:
    """What the processes ``script RANK FOLDER ARGUMENTS`` print on stdout and stderr.

    A hang ends after some seconds with what they said so far.
    """
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), str(folder), *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env,
        )
        for rank in range(size)
    ]  # fmt: skip
    said = []
    try:
        for process in processes:
            try:
                said.append(process.communicate(timeout=seconds))
            except subprocess.TimeoutExpired:
                process.kill()
                out, err = process.communicate()
                said.append((out, f"{err}\nkilled after {seconds} s"))
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return said
