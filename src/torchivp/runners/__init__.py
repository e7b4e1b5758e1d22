"""How the loop is executed. Tables of names; ``eager`` is plain PyTorch, ``compiled`` the whole loop as one program."""

from collections.abc import Callable
from typing import Any, NamedTuple

from . import compiled, rows
from .eager import run


class Runner(NamedTuple):
    """
    Attributes:
        run: runs the loop: ``run(problem, plan, new_tape=..., known=...)``.
        run_back: the same for the backward solves of continuous adjoints.
        with_gradient: ``with_gradient(problem, plan)`` runs it with the gradient of ``discrete``, if the runner has a way of its
            own; None, or an answer of None, leave that to ``gradients``.
    """

    run: Callable[..., Any]
    run_back: Callable[..., Any]
    with_gradient: Callable[..., Any] | None = None


RUNNERS = {
    "eager": Runner(run, run),
    "compiled": Runner(compiled.single.run, run, compiled.single.with_gradient),
}
ROW_RUNNERS = {
    "eager": Runner(rows.run, rows.run),
    "compiled": Runner(compiled.rows.run, rows.run, compiled.rows.with_gradient),
}
COMPACT_RUNNERS = {"eager": Runner(rows.run_compacted, rows.run_compacted)}
INLINE = {"compiled": compiled.inline}  # runners that can solve inside a graph that is being traced

__all__ = ["COMPACT_RUNNERS", "INLINE", "ROW_RUNNERS", "RUNNERS", "Runner", "run"]
