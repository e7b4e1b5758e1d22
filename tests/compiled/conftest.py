"""Programs of the compiled runner without their compilation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from torch import Tensor

from torchivp.runners.compiled import backward, diagonal, program, quadrature, retake, split, undo
from torchivp.runners.compiled import compile as compiling


@pytest.fixture
def python_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python goes through the loops, turn by turn: the same programs, without the time to compile them."""

    def while_loop(
        goes_on: Callable[..., Tensor], turn: Callable[..., Sequence[Tensor]], now: Sequence[Tensor]
    ) -> Sequence[Tensor]:
        while bool(goes_on(*now)):
            now = turn(*now)
        return tuple(now)

    for module in (program, backward, undo, quadrature, diagonal, retake, split):
        monkeypatch.setattr(module, "while_loop", while_loop)
    monkeypatch.setattr(compiling, "compiled", lambda program, *about, **how: program)
