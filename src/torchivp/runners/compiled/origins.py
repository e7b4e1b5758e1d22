"""What the matrices of a compiled loop came from, where plain PyTorch will take its steps again (see ``linalg.kept``)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..._types import Rows, Slopes
from ...linalg.kept import Origin, Place, chosen
from ...span import Span
from .program import Record
from .step import Form


class Origins:
    """Of the accepted steps, one after the other: a Jacobian is that of the step's start, or of the step before."""

    def __init__(self) -> None:
        self.newest: Origin | None = None

    def of(self, form: Form, record: Record, n: int, span: Span, y: Rows, k: Slopes) -> Origin | None:
        """Of step ``n`` in a record, which starts from ``y`` with the slopes ``k [S, D]``; None: its matrix was its own."""
        if not record.keep:
            return None
        step, c, _ = record.keep[0][n]
        rows = isinstance(span.begins, Tensor)
        step, c = (x.reshape(-1) if rows else float(x) for x in (step, c))
        firsts = [part.first for part in form.parts]
        slope = k[firsts].sum(0, keepdim=True)  # of the part that it did not go by they are zero
        here = Place(span.begins, span.start(), y, slope)
        newest = self.newest
        place = here if newest is None else self.place(step == here.step, here, newest.place)
        if newest is None or place is not newest.place or bool(torch.as_tensor(c != newest.c).any()):
            self.newest = newest = Origin(place, c)
        return newest

    def place(self, own: Any, here: Place, before: Place) -> Place:
        if not isinstance(own, Tensor):
            return here if own else before
        return chosen(own, here, before) if bool(own.any()) else before
