"""Compiled code called directly, where arguments of the very same kinds came before: torch.compile asks a few hundred guards at
every call, which takes longer than a hundred steps of a small system."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import optree
import torch
from torch import Tensor

from ...state import unflatten


class Seen(NamedTuple):
    """A call of compiled code: the code, and what went in and came out."""

    code: Callable[..., Any]
    inputs: Sequence[Any]
    outputs: Sequence[Any]


def kinds(leaves: Sequence[Tensor], structure: Any) -> tuple[Any, ...]:
    """All that compiled code depends on beside the numbers in its tensors."""
    first: dict[int, int] = {}
    same = tuple(first.setdefault(id(x), i) for i, x in enumerate(leaves))
    tensors = tuple((x.shape, x.stride(), x.dtype, x.device) for x in leaves)
    return (
        structure, tensors, same, torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_num_threads(),
        torch.get_default_dtype(), torch.are_deterministic_algorithms_enabled(),
    )  # fmt: skip


def direct(seen: Seen, leaves: Sequence[Tensor], result: Any) -> Callable[[Sequence[Tensor]], Any]:
    """``call(leaves)``: what the function that was compiled gives for other arguments of the same kinds.

    Args:
        seen: what its call came down to; ``leaves``: its arguments; ``result``: what it gave.
    """
    places = {id(x): i for i, x in enumerate(leaves)}
    taken = [(places.get(id(x), -1), x) for x in seen.inputs]
    constants = [None if place >= 0 else x for place, x in taken]  # sizes, and tensors that belong to the code
    arguments = [place for place, _ in taken]
    results, structure = optree.tree_flatten(result)
    numbers = {id(x): i for i, x in enumerate(seen.outputs)}
    sources = [(True, numbers[id(x)]) if id(x) in numbers else (False, places[id(x)]) for x in results]
    code = seen.code

    def call(leaves: Sequence[Tensor]) -> Any:
        out = code(*(c if i < 0 else leaves[i] for i, c in zip(arguments, constants)))
        return unflatten(structure, [out[i] if computed else leaves[i] for computed, i in sources])

    return call
