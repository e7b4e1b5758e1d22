"""The user's state, whatever its shape or structure, as one row ``[1, D]`` and back.

A batch of B states that are solved row by row is such a row too, ``[1, B * D]``: one state behind the other.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import optree
import torch
from torch import Tensor

from ._types import PyTree, Rows
from .errors import InputError, InputTypeError
from .transforms import outside_of_transforms, worst

_NAMESPACE = "torchivp"
_registered: set[type] = set()
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128)


def flatten(tree: PyTree) -> tuple[list[Any], optree.PyTreeSpec]:
    """Leaves and structure of a pytree of dicts, tuples, lists, namedtuples and dataclasses."""
    leaves, spec = optree.tree_flatten(tree, namespace=_NAMESPACE)
    new = {type(x) for x in leaves if dataclasses.is_dataclass(x)} - _registered
    if not new:
        return leaves, spec
    for cls in new:
        _register_dataclass(cls)
    return flatten(tree)


def unflatten(spec: optree.PyTreeSpec, leaves: list[Any]) -> PyTree:
    return optree.tree_unflatten(spec, leaves)


def tree_map(f: Callable[[Any], Any], tree: PyTree) -> PyTree:
    """``f`` of every leaf."""
    leaves, spec = flatten(tree)
    return unflatten(spec, [f(x) for x in leaves])


def _register_dataclass(cls: type) -> None:
    names = [field.name for field in dataclasses.fields(cls) if field.init]
    optree.register_pytree_node(
        cls,
        lambda x: ([getattr(x, name) for name in names], None, names),
        lambda _, children: cls(**dict(zip(names, children))),
        namespace=_NAMESPACE,
    )
    _registered.add(cls)


def _is_array_like(y: Any) -> bool:
    """A number, or a list or tuple of nothing but numbers (nested or not): read as an array, not as a pytree."""
    if isinstance(y, list | tuple) and not hasattr(y, "_fields"):
        return len(y) > 0 and all(_is_array_like(x) for x in y)
    return isinstance(y, numbers.Number)


def from_numpy(x: Any, name: str) -> Tensor:
    """A tensor of its own memory from any NumPy array or scalar (read-only and reversed ones too)."""
    try:
        return torch.from_numpy(np.array(x))
    except TypeError:
        raise InputTypeError(
            f"{name} is a NumPy array of dtype {x.dtype}, for which PyTorch has no counterpart. "
            f"Write `{name}.astype(float)`."
        ) from None


def as_state(y0: PyTree) -> PyTree:
    """The user's ``y0`` with numbers and NumPy arrays turned into tensors."""
    if _is_array_like(y0):
        return _state_tensor(y0, "y0")
    leaves, spec = flatten(y0)
    names = optree.treespec_paths(spec)
    return unflatten(spec, [_state_tensor(x, "y0" + _path(p)) for x, p in zip(leaves, names)])


def _path(path: tuple[Any, ...]) -> str:
    return "".join(f"[{key!r}]" for key in path)


def as_tensor(x: Any, name: str, what: str) -> Tensor:
    """A tensor from a tensor, an array, a number or nested lists of numbers; integers as the default float dtype.

    Args:
        name: what the user calls it.
        what: what it should be, for the message.
    """
    if isinstance(x, Tensor):
        return x
    if isinstance(x, np.ndarray | np.generic):
        return from_numpy(x, name)
    if not _is_array_like(x):
        raise InputTypeError(f"{name} is a {type(x).__name__}, which is no tensor, array or number. {what}")
    tensor = _from_numbers(x, name)
    return tensor if tensor.is_floating_point() or tensor.is_complex() else tensor.to(torch.get_default_dtype())


def _state_tensor(x: Any, name: str) -> Tensor:
    tensor = as_tensor(x, name, "A state is a tensor of any shape, or a dict, list, tuple or dataclass of them.")
    if not (tensor.is_floating_point() or tensor.is_complex()):
        raise InputTypeError(
            f"{name} has dtype {tensor.dtype}, but a solution of an ODE is not made of integers. "
            f"Write `{name}.float()` or `{name}.double()`."
        )
    if tensor.dtype not in _DTYPES:
        raise InputTypeError(
            f"{name} has dtype {tensor.dtype}, in which PyTorch does not calculate. Write `{name}.to(...)` with one of "
            f"{', '.join(map(str, _DTYPES))}."
        )
    return tensor


def _from_numbers(x: Any, name: str) -> Tensor:
    try:
        return torch.tensor(x)
    except (TypeError, ValueError):
        raise InputError(
            f"{name} is a list whose rows differ in length: {x!r}. An array has rows of one length; for parts of different "
            f"sizes give a list of tensors, `[torch.tensor(...), ...]`."
        ) from None


class Layout:
    """How the user's state lies in one row.

    Args:
        example: a state (a pytree of tensors) of the structure, shapes and dtypes to remember.
        batch_dims: so many leading axes count the rows of a batch.

    Attributes:
        batch: shape of the batch axes; ``rows``: how many states they hold; ``width``: numbers in each.
        dtype: of the row: what the state's dtypes promote to, float32 for half precision.
        real_dtype: the real dtype the user sees, for times.
    """

    def __init__(self, example: PyTree, batch_dims: int = 0):
        leaves, self.spec = flatten(example)
        if not leaves:
            raise InputError("y0 holds no tensor at all. Give a tensor, or a pytree with at least one tensor in it.")
        self.is_tensor = isinstance(example, Tensor)
        self.shapes = [x.shape for x in leaves]
        self.batch = batch_shape(leaves, batch_dims, self.spec)
        self.rows = math.prod(self.batch)
        self.dtypes = [x.dtype for x in leaves]
        self.sizes = [x.numel() for x in leaves]
        self.size = sum(self.sizes)
        self.widths = [math.prod(shape[batch_dims:]) for shape in self.shapes]
        self.width = sum(self.widths)
        self.device = leaves[0].device
        elsewhere = [str(x.device) for x in leaves if x.device != self.device]
        if elsewhere:
            raise InputError(
                f"The tensors of y0 are on several devices ({self.device}, {', '.join(elsewhere)}). "
                f"Move them to one with `.to(device)`."
            )
        self.dtype = self.dtypes[0]
        for dtype in self.dtypes[1:]:
            self.dtype = torch.promote_types(self.dtype, dtype)
        self.real_dtype = self.dtype.to_real()
        if self.dtype in (torch.float16, torch.bfloat16):  # steps would drown in rounding; f still sees half precision
            self.dtype = torch.float32
        self.shape = self.shapes[0]
        self.is_row = self.is_tensor and self.shape == (1, self.size) and self.dtype == self.dtypes[0]

    @property
    def of_q(self) -> int:
        """How many tensors make up the first of the two parts of a state ``(q, p)``."""
        return self.spec.children()[0].num_leaves

    @cached_property
    @outside_of_transforms
    def in_second(self) -> Tensor:
        """Which numbers of a row belong to the second of the two parts of a state ``(q, p)``, ``[1, D]``."""
        first = sum(self.widths[: self.of_q])
        return (torch.arange(self.width, device=self.device) >= first).repeat(self.rows).view(1, self.size)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as a state of no memory: another process may not know the user's classes as pytrees yet."""
        leaves = [
            torch.zeros((), dtype=dtype, device=self.device).expand(shape)
            for dtype, shape in zip(self.dtypes, self.shapes)
        ]
        return Layout, (unflatten(self.spec, leaves), len(self.batch))

    def ravel(self, state: PyTree) -> Rows:
        """``[1, D]`` from a state of this layout."""
        if self.is_tensor:
            return state.reshape(1, self.size).to(self.dtype)
        return self.joined(flatten(state)[0])

    def joined(self, leaves: list[Any]) -> Rows:
        """The same from the leaves of a state."""
        parts = [x.reshape(self.rows, width).to(self.dtype) for x, width in zip(leaves, self.widths)]
        return torch.cat(parts, dim=1).view(1, self.size)

    def unravel(self, row: Tensor, *, lead: tuple[int, ...] = ()) -> PyTree:
        """The state in a row ``[1, D]``; or in rows ``[*lead, D]``, its leaves with ``lead`` before their own shape."""
        if self.is_row and not lead:
            return row
        if self.is_tensor:
            state = row.view((*lead, *self.shape) if lead else self.shape)
            return state if self.dtypes[0] == self.dtype else _cast(state, self.dtypes[0])
        pieces = row.view((*lead, self.rows, self.width)).split(self.widths, dim=-1)
        leaves = [
            _cast(piece, dtype).reshape((*lead, *shape))
            for piece, shape, dtype in zip(pieces, self.shapes, self.dtypes)
        ]
        return unflatten(self.spec, leaves)

    def broadcast(self, tree: PyTree, name: str, dtype: torch.dtype) -> Tensor:
        """A tolerance ``[1, D]`` from one number or tensor for all parts of the state, or from a tree like it."""
        parts = self.parts_for(tree, name)
        numbers = [self._tolerance(x, shape, name, dtype) for x, shape in zip(parts, self.shapes)]
        return torch.cat([x.view(self.rows, width) for x, width in zip(numbers, self.widths)], dim=1).view(1, self.size)

    def parts_for(self, tree: PyTree, name: str) -> list[Any]:
        """What belongs to each tensor of the state: from one thing for all of them, or a tree like it."""
        n = len(self.shapes)
        if self.is_tensor or isinstance(tree, Tensor | np.ndarray | np.generic | numbers.Number):
            return [tree] * n
        if (
            isinstance(tree, list | tuple)
            and self.spec.type in (list, tuple)
            and self.spec.num_children == len(tree) == n
        ):
            return list(tree)
        try:
            return self.spec.flatten_up_to(tree)
        except ValueError:
            raise InputError(
                f"{name} has the structure {flatten(tree)[1]}, but y0 has {self.spec}, so it is not clear which number "
                f"belongs to which tensor. Give one number for all, or a tree like y0."
            ) from None

    def _tolerance(self, x: Any, shape: torch.Size, name: str, dtype: torch.dtype) -> Tensor:
        number = isinstance(x, int | float)
        value = (
            torch.tensor(x, dtype=dtype) if number else as_tensor(x, name, "Give positive numbers, or a tree like y0.")
        )
        value = value.detach()
        if value.is_complex() or bool(worst((~(value >= 0)).any())):
            raise InputError(
                f"{name} holds {_least(value).tolist()}, which is no tolerance. Give positive numbers, such as 1e-5."
            )
        value = value.to(device=self.device, dtype=dtype)
        try:
            return value.broadcast_to(shape).reshape(-1)
        except RuntimeError:
            raise InputError(
                f"{name} of shape {tuple(value.shape)} does not broadcast to its part of y0, {tuple(shape)}. "
                f"Give a number, or a tensor of a shape like y0's."
            ) from None

    def map(self, f: Callable[[Tensor], Tensor]) -> Layout:
        """The layout of states whose tensors went through ``f`` (another device or dtype)."""
        row = torch.zeros(1, self.size, dtype=self.dtype, device=self.device)
        return Layout(unflatten(self.spec, [f(x) for x in flatten(self.unravel(row))[0]]), len(self.batch))

    def of_a_row(self) -> Layout:
        """The layout of the state of a single row."""
        leaves = [
            torch.zeros((), dtype=dtype, device=self.device).expand(shape[len(self.batch) :])
            for dtype, shape in zip(self.dtypes, self.shapes)
        ]
        return Layout(unflatten(self.spec, leaves))

    def of_rows(self, n: int) -> Layout:
        """The layout of ``n`` such states, solved row by row."""
        leaves = [
            torch.zeros((), dtype=dtype, device=self.device).expand(n, *shape)
            for dtype, shape in zip(self.dtypes, self.shapes)
        ]
        return Layout(unflatten(self.spec, leaves), 1)

    def name(self, i: int) -> str:
        """How one indexes the i-th tensor of the state."""
        return _path(optree.treespec_paths(self.spec)[i])

    def describe(self, mask: Tensor, limit: int = 4, state: str = "y") -> str:
        """The entries of the user's state where ``mask [1, D]`` is true, as one would index them."""
        mask = worst(mask)
        total = int(mask.sum())
        found: list[str] = []
        parts = mask.view(self.rows, self.width).split(self.widths, dim=1)
        for i, (part, shape) in enumerate(zip(parts, self.shapes)):
            for index in part.reshape(shape).nonzero().tolist()[: limit - len(found)]:
                found.append(f"{state}{self.name(i)}" + (f"{index}" if index else ""))
        more = f" and {total - len(found)} more" if total > len(found) else ""
        return f"{', '.join(found)}{more} ({total} of {self.size} entries)"


def batch_shape(leaves: list[Tensor], batch_dims: int, spec: optree.PyTreeSpec) -> torch.Size:
    """The leading axes that all tensors of a batch of states share."""
    first = leaves[0].shape[:batch_dims]
    for x, path in zip(leaves, optree.treespec_paths(spec)):
        if x.dim() < batch_dims or x.shape[:batch_dims] != first:
            raise InputError(
                f"batch_dims={batch_dims} says that the first {batch_dims} axes of every tensor of y0 count the rows, but "
                f"y0{_path(path)} has shape {tuple(x.shape)} beside a batch of {tuple(first)}. Give every tensor the same "
                f"leading axes, or another batch_dims."
            )
    return first


def _least(x: Tensor) -> Tensor:
    """``x``; under vmap the smallest of all rows."""
    return x if x.is_complex() else -worst(-x)


def _cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    if x.dtype == dtype:
        return x
    if x.is_complex() and not dtype.is_complex:
        x = x.real
    return x.to(dtype)
