"""The two sets of handwritten digits: scikit-learn's 1,797 scans (bundled), and MNIST (from files you have)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor

from .idx import DataFileError, find_file, read_idx


@dataclass(frozen=True)
class Data:
    """A training and a test part: images ``[N, pixels]`` in [0, 1] (float32) and labels ``[N]`` in 0..9 (int64)."""

    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor

    def to(self, device: torch.device) -> Data:
        """The same data on another device."""
        return Data(*(part.to(device) for part in (self.x_train, self.y_train, self.x_test, self.y_test)))


def digit_scans() -> tuple[Tensor, Tensor]:
    """All 1,797 scans of 8 x 8 pixels: images ``[1797, 64]`` in [0, 1] and labels ``[1797]``."""
    x, y = load_digits(return_X_y=True)
    return torch.tensor(x, dtype=torch.float32) / 16, torch.tensor(y, dtype=torch.int64)


def digit_split(y: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of the training part and of the stratified 20 % test part, ``[1437]`` and ``[360]``."""
    train, test = train_test_split(torch.arange(len(y)).numpy(), test_size=0.2, stratify=y.numpy(), random_state=seed)
    return torch.from_numpy(train), torch.from_numpy(test)


def load_digits_data(seed: int) -> Data:
    """scikit-learn's bundled scans with a stratified 20 % test part drawn with ``random_state=seed``."""
    x, y = digit_scans()
    train, test = digit_split(y, seed)
    return Data(x[train], y[train], x[test], y[test])


def load_mnist_data(folder: Path | str) -> Data:
    """MNIST from its four standard files in ``folder``, gzipped or not.

    Raises:
        DataFileError: if a file is missing or damaged, or images and labels do not belong together.
    """
    folder = Path(folder)
    return Data(*_read_pair(folder, "train"), *_read_pair(folder, "t10k"))


def _read_pair(folder: Path, part: str) -> tuple[Tensor, Tensor]:
    """The images ``[N, 784]`` and labels ``[N]`` of one part."""
    image_path = find_file(folder, f"{part}-images-idx3-ubyte")
    label_path = find_file(folder, f"{part}-labels-idx1-ubyte")
    images, labels = read_idx(image_path, ndim=3), read_idx(label_path, ndim=1)
    if images.shape[1:] != (28, 28) or len(images) == 0:
        raise DataFileError(image_path, f"holds {list(images.shape)} numbers", "at least one image of 28 x 28 pixels")
    if len(labels) != len(images):
        expected = f"{len(images)}, one for each image in {image_path}"
        raise DataFileError(label_path, f"holds {len(labels)} labels", expected)
    if labels.max() > 9:
        raise DataFileError(label_path, f"holds the label {int(labels.max())}", "labels from 0 to 9")
    return images.reshape(len(images), -1).float() / 255, labels.long()
