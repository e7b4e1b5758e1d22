"""The reader of IDX files: it reads good ones, and says what is wrong with bad ones."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from odenet.data import load_mnist_data
from odenet.idx import DataFileError, read_idx
from torch import Tensor

IMAGES = torch.arange(5 * 28 * 28, dtype=torch.int64).remainder(251).to(torch.uint8).reshape(5, 28, 28)
LABELS = torch.tensor([3, 1, 4, 1, 9], dtype=torch.uint8)


def idx_bytes(values: Tensor) -> bytes:
    """An IDX file of unsigned bytes."""
    header = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    return header + values.numpy().tobytes()


def write_mnist(folder: Path, images: Tensor = IMAGES, labels: Tensor = LABELS) -> None:
    """Four small files under the standard names, half of them gzipped."""
    (folder / "train-images-idx3-ubyte").write_bytes(idx_bytes(images))
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx_bytes(labels)))
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx_bytes(IMAGES)))
    (folder / "t10k-labels-idx1-ubyte").write_bytes(idx_bytes(LABELS))


def message_of(path: Path, content: bytes | None, ndim: int = 3) -> str:
    """What the reader says about a file with this content; the file and where to get a good one are always named."""
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataFileError) as caught:
        read_idx(path, ndim)
    message = str(caught.value)
    assert str(path) in message
    assert "Expected: " in message
    assert "storage.googleapis.com" in message
    return message


@pytest.mark.parametrize("name", ["images", "images.gz"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_reads_plain_and_gzipped_files(tmp_path: Path, name: str, pack: Callable[[bytes], bytes]) -> None:
    (tmp_path / name).write_bytes(pack(idx_bytes(IMAGES)))
    values = read_idx(tmp_path / name, ndim=3)
    assert values.dtype == torch.uint8
    assert torch.equal(values, IMAGES)


def test_reads_labels(tmp_path: Path) -> None:
    (tmp_path / "labels").write_bytes(idx_bytes(LABELS))
    assert torch.equal(read_idx(tmp_path / "labels", ndim=1), LABELS)


def test_missing_file(tmp_path: Path) -> None:
    assert "No such file" in message_of(tmp_path / "images", None)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    assert "cannot be read" in message_of(tmp_path / "images", None)


@pytest.mark.parametrize("length", [4, 7, 15])
def test_ends_inside_its_header(tmp_path: Path, length: int) -> None:
    assert "a header of 16 bytes" in message_of(tmp_path / "images", idx_bytes(IMAGES)[:length])


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_truncated(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    message = message_of(tmp_path / "images", pack(idx_bytes(IMAGES)[:-1]))
    assert "truncated: 3935 bytes" in message
    assert "3936 bytes for the shape [5, 28, 28]" in message


def test_longer_than_its_header_says(tmp_path: Path) -> None:
    assert "longer than it says: 3937 bytes" in message_of(tmp_path / "images", idx_bytes(IMAGES) + b"x")


@pytest.mark.parametrize("start", [b"", b"<html>", bytes([0, 0, 8, 1]), bytes([0, 0, 13, 3]), bytes([1, 0, 8, 3])])
def test_wrong_magic_number(tmp_path: Path, start: bytes) -> None:
    message = message_of(tmp_path / "images", start + idx_bytes(IMAGES)[4:] if start else b"")
    assert "starts with the bytes" in message
    assert "magic number 00 00 08 03" in message


def test_corrupt_gzip_checksum(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(idx_bytes(IMAGES)))
    packed[-8] ^= 0xFF  # the checksum
    assert "CRC" in message_of(tmp_path / "images.gz", bytes(packed))


def test_corrupt_gzip_content(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(idx_bytes(IMAGES)))
    packed[20:60] = bytes(40)
    assert "cannot be read" in message_of(tmp_path / "images.gz", bytes(packed))


def test_truncated_gzip(tmp_path: Path) -> None:
    assert "cannot be read" in message_of(tmp_path / "images.gz", gzip.compress(idx_bytes(IMAGES))[:-20])


def test_mnist_folder(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    data = load_mnist_data(tmp_path)
    assert data.x_train.shape == (5, 784)
    assert data.x_train.dtype == torch.float32
    assert torch.equal(data.x_train, IMAGES.reshape(5, 784).float() / 255)
    assert data.y_test.tolist() == [3, 1, 4, 1, 9]
    assert data.y_test.dtype == torch.int64


def test_mnist_folder_without_a_file(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataFileError, match=r"t10k-labels-idx1-ubyte: there is no such file\. Expected: .*\.gz in "):
        load_mnist_data(tmp_path)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (IMAGES, LABELS[:4], r"train-labels-idx1-ubyte\.gz: holds 4 labels\. Expected: 5, one for each image in"),
        (IMAGES, LABELS + 1, r"train-labels-idx1-ubyte\.gz: holds the label 10\. Expected: labels from 0 to 9"),
        (IMAGES[:, :8, :8], LABELS, r"train-images-idx3-ubyte: holds \[5, 8, 8\] .* 28 x 28 pixels"),
        (IMAGES[:0], LABELS[:0], r"train-images-idx3-ubyte: holds \[0, 28, 28\] .* at least one image"),
    ],
)
def test_mnist_files_that_do_not_belong_together(tmp_path: Path, images: Tensor, labels: Tensor, message: str) -> None:
    write_mnist(tmp_path, images, labels)
    with pytest.raises(DataFileError, match=message):
        load_mnist_data(tmp_path)


def test_the_real_files(shared: Path) -> None:
    folder = shared / "data" / "mnist"
    assert read_idx(folder / "train-images-idx3-ubyte.gz", ndim=3).shape == (60000, 28, 28)
    data = load_mnist_data(folder)
    assert data.x_train.shape == (60000, 784)
    assert data.x_test.shape == (10000, 784)
    assert data.y_train[:8].tolist() == [5, 0, 4, 1, 9, 2, 1, 3]
    assert data.y_train.bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert data.x_test.aminmax() == (0.0, 1.0)
