"""The user's ``f`` as the methods see it: counted, checked, flat, and never asked outside its interval."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ._types import PyTree, Rows, Time, VectorField
from .autocast import autocast_dtypes, current_autocast
from .errors import OutputError
from .randomness import RandomState
from .span import Span, spread
from .split import Split
from .state import Layout, flatten


@dataclass
class Counts:
    """What an implicit method did with a field.

    Attributes:
        jacobians, factorisations: so many.
        batched: no operation in ``f`` has refused yet to be differentiated in batches.
        structure_checked: the Jacobian was seen to have the structure it is said to have.
        hidden_time: ``f`` depends on the time in a way that autograd does not see; None: nobody has looked yet.
    """

    jacobians: int = 0
    factorisations: int = 0
    batched: bool = True
    structure_checked: bool = False
    hidden_time: bool | None = None

    def afresh(self) -> Counts:
        """What is known, with nothing counted."""
        return replace(self, jacobians=0, factorisations=0)


class Field:
    """``field(t, y): [1, D] -> [1, D]`` (of all rows, ``[1, B * D]``) around the user's ``f(t, y)`` or ``f(t, y, args)``.

    Args:
        f: the user's callable; gets ``t`` in the state's real dtype: a 0-d tensor, or one time for each row.
        layout: how the state lies in a row.
        direction: -1 where the user's time decreases (a tensor ``[B]`` where rows differ); inside, time always increases.
        args: third argument of ``f``; an empty tuple means that ``f`` takes two.
        broadcast: accept any output that broadcasts to the state's shape and cast it (the drop-in's way).

    Attributes:
        evaluations: calls of ``f`` so far.
        jacobian: how implicit methods come by Jacobians (a ``linalg.Jacobian``); None: by autograd.
        linearised: state and slope where the newest one was found, and what was (see ``linalg.linearise``).
        linearises_time: the time derivative is wanted with a Jacobian.
        kept: the matrix of the latest iteration; ``origin``: what that of the next one must come from (see ``linalg.kept``).
        tolerance: of the problem: what implicit methods call small (a ``Tolerance``; set by ``Problem``).
        draws: ``f`` draws random numbers, and whoever takes its steps again wants the same ones.
    """

    def __init__(
        self,
        f: VectorField,
        layout: Layout,
        direction: int | Tensor = 1,
        args: tuple[PyTree, ...] = (),
        broadcast: bool = False,
    ):
        self.f = f
        self.layout = layout
        self.direction = direction
        self.turn = turned(direction, layout)
        self.args = args
        self.broadcast = broadcast
        self.autocast = current_autocast(layout.device)
        self.autocast_dtypes = autocast_dtypes(layout.device)
        self.evaluations = 0
        self.draws = False
        self.jacobian: Any = None
        self.tolerance: Any = None
        self.linearises_time = True
        self.linearised: tuple[Rows, Rows, Any] | None = None
        self.kept: Any = None
        self.origin: Any = None
        self.counts = Counts()

    def random_state(self) -> RandomState | None:
        """The state of the random generators, if ``f`` draws from them."""
        return RandomState.now(self.layout.device) if self.draws else None

    def parts(self) -> tuple[Field, Field] | None:
        """The stiff and the other part of the field, with counters of their own, if the user gave it as a ``Split``."""
        if type(self) is not Field or not isinstance(self.f, Split):
            return None
        stiff, other = copy.copy(self), copy.copy(self)
        stiff.f, other.f = self.f.implicit, self.f.explicit
        for part in (stiff, other):
            part.evaluations, part.linearised, part.kept = 0, None, None
        return stiff, other

    def with_args(self, args: tuple[PyTree, ...]) -> Field:
        """The same field with other ``args`` and a counter of its own."""
        new = copy.copy(self)
        new.args, new.evaluations, new.linearised, new.kept = args, 0, None, None
        new.counts = self.counts.afresh()
        return new

    def __call__(self, t: Tensor, y: Rows) -> Rows:
        """The slope at time ``t`` (0-d, in the user's direction and dtype: see ``times``)."""
        self.evaluations += 1
        return self.slope(self.f, t, y)

    def drift(self, t: Tensor, y: Rows) -> Rows:
        """The slope of ``q`` in a state ``(q, p)``, with that of ``p`` 0; of an ``f`` in two parts. Not counted: it mostly is
        ``p`` itself."""
        return self.slope(self.f.drift, t, y)  # type: ignore[attr-defined]

    def kick(self, t: Tensor, y: Rows) -> Rows:
        """The slope of ``p``, with that of ``q`` 0; counted as an evaluation."""
        self.evaluations += 1
        return self.slope(self.f.kick, t, y)  # type: ignore[attr-defined]

    def slope(self, f: VectorField, t: Tensor, y: Rows) -> Rows:
        """What ``f``, or a part of it, says at time ``t``."""
        if self.autocast is None:
            slope = self._ravel(f(t, self.layout.unravel(y), *self.args))
        else:
            with self.autocast():
                slope = self._ravel(f(t, self.layout.unravel(y), *self.args))
        return slope if self.turn is None else slope * self.turn

    def ask(self, function: Callable[..., Any], t: Tensor, y: Rows) -> Any:
        """Another function of the user's, of the same arguments as ``f``."""
        return function(t, self.layout.unravel(y), *self.args)

    def projected(self, project: Callable[[PyTree], PyTree], y: Rows) -> Rows:
        """The state that ``project`` makes of a state."""
        layout = self.layout
        state = project(layout.unravel(y))
        leaves, spec = flatten(state)
        if spec != layout.spec or [getattr(x, "shape", None) for x in leaves] != list(layout.shapes):
            raise OutputError(
                f"The projection made a {spec} with tensors of shapes {[tuple(getattr(x, 'shape', ())) for x in leaves]} of a "
                f"state {layout.spec} with {[tuple(x) for x in layout.shapes]}. Return a state like the one it gets."
            )
        return layout.ravel(state)

    def times(self, span: Span, from_end: Tensor) -> tuple[Tensor, ...]:
        """Stage times ``t1 + (c - 1) * dt`` as the user sees them.

        Counted from the end so that ``c = 1`` is exactly ``t1``: ``f`` is never asked past the interval.

        Args:
            span: the step's interval.
            from_end: ``c - 1`` of the stages, float64 ``[s]``, on the state's device.
        """
        times = span.times(from_end)
        times = times if self.turn is None else times * self.direction
        times = times.to(self.layout.real_dtype)
        return times.unbind(0) if len(self.layout.batch) < 2 else times.view(-1, *self.layout.batch).unbind(0)

    def start_slope(self, span: Span, y: Rows) -> Rows:
        """The slope at the start of a step (just after it, where ``f`` jumps)."""
        return self(self.time(span.start()), y).clone()  # kept over later calls: f may return one buffer every time

    def time(self, t: Time) -> Tensor:
        """One time (of each row) as the user sees it."""
        if not isinstance(t, Tensor):
            return torch.full((), t * self.direction, dtype=self.layout.real_dtype, device=self.layout.device)
        t = (t * self.direction).to(dtype=self.layout.real_dtype, device=self.layout.device)
        return t.view(self.layout.batch)

    def _ravel(self, slope: PyTree) -> Rows:
        layout = self.layout
        if layout.is_tensor:
            dtype = layout.dtypes[0]
            if not isinstance(slope, Tensor) or slope.shape != layout.shape or slope.dtype != dtype:
                slope = self._mend(slope, layout.shape, dtype, "")
            row = slope if layout.is_row else slope.reshape(1, layout.size)
            return row if dtype == layout.dtype else row.to(layout.dtype)
        leaves, spec = flatten(slope)
        if spec != layout.spec and not self._same_but_for_type(slope, len(leaves)):
            raise OutputError(
                f"f(t, y) returned the structure {spec}, but y0 has {layout.spec}. "
                f"Return one slope for each tensor of the state, in the same structure."
            )
        parts = [
            x
            if isinstance(x, Tensor) and x.shape == shape and x.dtype == dtype
            else self._mend(x, shape, dtype, layout.name(i))
            for i, (x, shape, dtype) in enumerate(zip(leaves, layout.shapes, layout.dtypes))
        ]
        return layout.joined(parts)

    def _same_but_for_type(self, slope: PyTree, n: int) -> bool:
        """A list where the state is a tuple, or the other way round: what one returns from a function without a thought."""
        spec = self.layout.spec
        flat = isinstance(slope, list | tuple) and len(slope) == n == spec.num_children == spec.num_leaves
        return flat and issubclass(spec.type or object, list | tuple)

    def _mend(self, slope: object, shape: torch.Size, dtype: torch.dtype, which: str) -> Tensor:
        """Accept what is surely meant (a number, one element, a lower precision), refuse the rest."""
        if not isinstance(slope, Tensor | int | float | complex):
            raise OutputError(
                f"f(t, y) returned a {type(slope).__name__} as slope{which}, but the state{which} is a tensor of shape "
                f"{tuple(shape)}. Return a tensor of that shape."
            )
        slope = torch.as_tensor(slope, device=self.layout.device)
        if slope.shape != shape:
            if not (slope.numel() == 1 and slope.dim() == 0) and not (
                self.broadcast and _broadcasts(slope.shape, shape)
            ):
                raise OutputError(
                    f"f(t, y) returned a slope{which} of shape {tuple(slope.shape)}, but the state{which} has shape "
                    f"{tuple(shape)}. A slope has the shape of its state: return a tensor of shape {tuple(shape)}."
                )
            slope = slope.expand(shape)
        if slope.dtype != dtype:
            loses = torch.promote_types(slope.dtype, dtype) != dtype
            if loses and (not self.broadcast or (slope.is_complex() and not dtype.is_complex)):
                raise OutputError(
                    f"f(t, y) returned a slope{which} of dtype {slope.dtype}, but the state{which} has {dtype}: the result "
                    f"would be rounded silently. Make y0 {slope.dtype}, or return `slope.to({dtype})`."
                )
            slope = slope.to(dtype)
        return slope


def turned(direction: int | Tensor, layout: Layout) -> Tensor | int | None:
    """The sign of every slope; None where no row goes backwards."""
    if isinstance(direction, Tensor):
        row = torch.empty(1, layout.size, dtype=layout.dtype, device=layout.device)
        return spread(direction, row) if bool((direction < 0).any()) else None
    return -1 if direction < 0 else None


def _broadcasts(small: torch.Size, large: torch.Size) -> bool:
    return len(small) <= len(large) and all(a in (1, b) for a, b in zip(reversed(small), reversed(large)))


def time_dtype(device: torch.device) -> torch.dtype:
    """float64, or float32 on a device that has nothing better."""
    return torch.float32 if device.type == "mps" else torch.float64
