"""The members of an ensemble: what each of them has for itself, and what all share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optree
import torch
from torch import Tensor

from ._types import PyTree
from .errors import InputError
from .per_sample.problem import forward, row_times
from .state import Layout, as_state, batch_shape, flatten, unflatten


@dataclass(frozen=True)
class Split:
    """A pytree some of whose tensors have an axis of members in front.

    Attributes:
        each: which of the leaves have.
    """

    leaves: list[Any]
    each: list[bool]
    spec: optree.PyTreeSpec

    def part(self, chunk: slice, device: torch.device | str | None) -> PyTree:
        """What some of the members have."""
        leaves = [x[chunk] if each else x for x, each in zip(self.leaves, self.each)]
        if device is not None:
            leaves = [x.to(device) if isinstance(x, Tensor) else x for x in leaves]
        return unflatten(self.spec, leaves)

    def names(self, each: bool) -> str:
        """The tensors that the members have for themselves, or share."""
        paths = zip(self.leaves, self.each, optree.treespec_paths(self.spec))
        found = ["args" + "".join(f"[{key!r}]" for key in p) for x, e, p in paths if e == each and is_array(x)]
        return ", ".join(found) or "nothing"


@dataclass(frozen=True)
class Members:
    """All members of an ensemble, brought into order.

    Attributes:
        layout: of the states ``[N, ...]``.
        t: ``[N, T]``; a single row of memory where all have the same times.
    """

    layout: Layout
    y0: Split
    t: Tensor
    args: Split
    rtol: Split
    atol: Split

    def __len__(self) -> int:
        return self.layout.rows

    def part(self, chunk: slice, device: torch.device | str | None) -> dict[str, Any]:
        """Arguments of ``solve`` for some of them."""
        parts = {name: getattr(self, name).part(chunk, device) for name in ("y0", "args", "rtol", "atol")}
        return {**parts, "t": self.t[chunk] if device is None else self.t[chunk].to(device)}

    def describe(self) -> str:
        """How the arguments were understood, for who meant them otherwise."""
        return f"each member has its own {self.args.names(True)}; all share {self.args.names(False)}"


def make_members(y0: PyTree, t: Any, args: PyTree, members: Any, shared: Any, rtol: PyTree, atol: PyTree) -> Members:
    """Look for the axis of members in everything that may have one."""
    state = with_members(as_state(y0), members)
    layout = Layout(state, 1)
    if layout.rows == 0:
        raise InputError("y0 holds no member: its leading axis has length 0. Give at least one.")
    times = row_times(t, layout)
    forward(times[:1] if times.stride(0) == 0 else times)
    leaves, spec = flatten(state)
    return Members(
        layout=layout,
        y0=Split(leaves, [True] * len(leaves), spec),
        t=times,
        args=split_args(args, layout.rows, shared),
        rtol=split_tolerance(rtol, layout, "rtol"),
        atol=split_tolerance(atol, layout, "atol"),
    )


def with_members(state: PyTree, members: Any) -> PyTree:
    """The state with an axis of members in front of every tensor (a view, where there was none)."""
    leaves, spec = flatten(state)
    check_count("members", members)
    if members is None:
        if any(x.dim() == 0 for x in leaves):
            raise InputError(
                "y0 has a tensor without axes, so it does not say how many members there are. Give members=..., and it is "
                "the state in which all of them start; or give it a leading axis that counts them."
            )
        batch_shape(leaves, 1, spec)
        return state
    own = [x.dim() > 0 and x.shape[0] == members for x in leaves]
    return unflatten(spec, [x if mine else x.expand(members, *x.shape) for x, mine in zip(leaves, own)])


def check_count(name: str, value: Any) -> None:
    """Raise unless this is None or a number of members."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise InputError(f"{name}={value!r} does not count members. Give a whole number of at least 1.")


def split_args(args: PyTree, members: int, shared: Any) -> Split:
    """Tensors and arrays whose leading axis counts the members are theirs, unless they are said to be shared."""
    leaves, spec = flatten(args)
    paths = optree.treespec_paths(spec)
    entries = {path[0] for path in paths if path}
    named = entries if shared is True else set(listed_names(shared))
    if named - entries:
        raise InputError(
            f"shared={shared!r} names what args does not have: {', '.join(map(repr, named - entries))}. Name entries of args "
            f"({', '.join(map(repr, sorted(entries, key=str))) or 'it has none'}), or write shared=True for all of it."
        )
    each = [
        shared is not True and is_array(x) and x.shape[:1] == (members,) and not set(path[:1]) & named
        for x, path in zip(leaves, paths)
    ]
    return Split(leaves, each, spec)


def listed_names(shared: Any) -> Sequence[Any]:
    return [shared] if isinstance(shared, str | int) and shared is not False else list(shared or ())


def split_tolerance(tolerance: PyTree, layout: Layout, name: str) -> Split:
    """A tolerance with as many axes as its part of the state has one for each member."""
    parts = layout.parts_for(tolerance, name)
    each = [
        is_array(x) and x.ndim == len(shape) and x.shape[0] == layout.rows for x, shape in zip(parts, layout.shapes)
    ]
    return Split(parts, each, layout.spec)


def is_array(x: Any) -> bool:
    return isinstance(x, Tensor | np.ndarray)
