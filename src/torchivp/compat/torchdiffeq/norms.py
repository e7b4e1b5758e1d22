"""The norms of torchdiffeq: one number for a tensor, or for a tuple of tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

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


def row_norm(state: Tensor | Sequence[Tensor]) -> Tensor:
    """The largest root mean square of a row; the first axis of every tensor counts the rows. By name: ``"rows"``.

    An easy row then does not hide the error of a hard one, as it does in the mean over all.
    """
    parts = [state] if isinstance(state, Tensor) else state
    rows = torch.cat([x.reshape(x.shape[0] if x.dim() else 1, -1) for x in parts], dim=1)
    return (torch.linalg.vector_norm(rows, dim=1) / max(1, rows.shape[1]) ** 0.5).amax()


def zero_norm(tensor: Tensor) -> float:
    return 0.0


NORMS: dict[str, tuple[Callable[[Tensor], Any], Callable[[Sequence[Tensor]], Any]]] = {
    "rms": (rms_norm, mixed_norm),
    "max": (linf_norm, lambda parts: torch.stack([linf_norm(x) for x in parts]).amax()),
    "rows": (row_norm, row_norm),
}
"""By name: of a tensor, and of a tuple of tensors."""


@dataclass(frozen=True)
class Seminorm:
    """Of the parts ``(t, y, adj_y, *params)`` of a backward solve: the largest of those of ``t``, ``y`` and ``adj_y``.

    Args:
        of_state: the norm of a state.
    """

    of_state: Callable[[Tensor], Any]

    def __call__(self, tensors: Sequence[Tensor]) -> Tensor:
        t, y, adj_y, *_ = tensors
        size = t.abs()
        return torch.stack(
            [size, *(torch.as_tensor(self.of_state(x)).to(size) for x in (y, adj_y))]
        ).amax()  # keeps nan
