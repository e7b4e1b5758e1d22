"""The norms of torchdiffeq: one number for a tensor, or for a tuple of tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def rms_norm(tensor: Tensor) -> Tensor:
    """Root mean square of all entries (0 for an empty tensor)."""
    return torch.linalg.vector_norm(tensor) / max(1, tensor.numel()) ** 0.5


def linf_norm(tensor: Tensor) -> Tensor:
    """Largest absolute value (0 for an empty tensor)."""
    return tensor.abs().amax() if tensor.numel() else tensor.new_zeros(()).abs()


def mixed_norm(tensors: Sequence[Tensor]) -> Tensor | float:
    """The largest root mean square of several tensors (0.0 for none)."""
    return torch.stack([rms_norm(x) for x in tensors]).amax() if tensors else 0.0


def zero_norm(tensor: Tensor) -> float:
    return 0.0
