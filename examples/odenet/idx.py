"""Reads the IDX files in which MNIST is published, plain or gzipped; it never downloads.

The format: https://yann.lecun.com/exdb/mnist
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import torch
from torch import Tensor

UNSIGNED_BYTE = 0x08
WHERE = (
    "Get the four MNIST files from https://storage.googleapis.com/cvdf-datasets/mnist/ "
    "(torchvision.datasets.MNIST(root, download=True) puts them in root/MNIST/raw); name their folder with --data-dir."
)


class DataFileError(RuntimeError):
    """A data file is missing or damaged; the message says which, what was expected and where to get it."""

    def __init__(self, path: Path, found: str, expected: str):
        super().__init__(f"{path}: {found}. Expected: {expected}. {WHERE}")


def find_file(folder: Path, name: str) -> Path:
    """``folder/name`` or ``folder/name.gz``, whichever exists.

    Raises:
        DataFileError: if neither exists.
    """
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise DataFileError(folder / name, "there is no such file", f"{name} or {name}.gz in {folder}")


def read_bytes(path: Path) -> bytes:
    """The content of a file, unpacked if it is gzipped (seen by its first two bytes, not by its name).

    Raises:
        DataFileError: if the file cannot be read or unpacked.
    """
    try:
        raw = path.read_bytes()
        return gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    except (OSError, EOFError, zlib.error) as error:  # gzip.BadGzipFile is an OSError
        raise DataFileError(path, f"cannot be read ({error})", "an IDX file, plain or gzipped and complete") from error


def read_idx(path: Path | str, ndim: int) -> Tensor:
    """Reads an IDX file of unsigned bytes.

    Args:
        path: the file, plain or gzipped.
        ndim: number of axes it must have: 3 for images ``[N, H, W]``, 1 for labels ``[N]``.

    Returns:
        A uint8 tensor with ``ndim`` axes.

    Raises:
        DataFileError: if the file is missing, has another magic number, or is longer or shorter than its header says.
    """
    path = Path(path)
    data = read_bytes(path)
    expected_magic = bytes([0, 0, UNSIGNED_BYTE, ndim])
    if data[:4] != expected_magic:
        found = f"starts with the bytes {data[:4].hex(' ') or '(none: it is empty)'}"
        raise DataFileError(path, found, f"the magic number {expected_magic.hex(' ')} (unsigned bytes, {ndim} axes)")
    header = 4 + 4 * ndim
    if len(data) < header:
        raise DataFileError(path, f"ends inside its header, after {len(data)} bytes", f"a header of {header} bytes")
    shape = struct.unpack(f">{ndim}I", data[4:header])
    size = header + math.prod(shape)
    if len(data) != size:
        problem = "truncated" if len(data) < size else "longer than it says"
        expected = f"{size} bytes for the shape {list(shape)} in its header"
        raise DataFileError(path, f"{problem}: {len(data)} bytes", expected)
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)[header:].reshape(shape)
