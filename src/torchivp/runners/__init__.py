"""How the loop is executed. Tables of names: ``eager`` is plain PyTorch, ``compiled`` the whole loop as one program,
``cuda_graph`` a few steps as one CUDA graph, ``auto`` the first until the second pays."""

from collections.abc import Callable
from typing import Any, NamedTuple

from . import compiled, cuda_graph, rows
from .auto import Auto
from .compiled.compile import Compilation, compilations
from .eager import run


class Runner(NamedTuple):
    """
    Attributes:
        run: runs the loop: ``run(problem, plan, new_tape=..., known=...)``.
        steps_back: ``steps_back(field)``: what takes the steps of a backward solve of this ``f`` for a continuous adjoint
            (``compiled.back.steps``, of rows ``compiled.rows_back.steps``), if the runner has a way of its own; None, or an
            answer of None: plain PyTorch.
        with_gradient: ``with_gradient(problem, plan)`` runs it with the gradient of ``discrete``, if the runner has a way of its
            own; None, or an answer of None, leave that to ``gradients``. ``with_gradient(problem, plan, check_start)``: with that
            of ``reversible`` (see ``compiled.undone``); ``with_gradient(..., series=...)``: with fewer starts than steps.
    """

    run: Callable[..., Any]
    with_gradient: Callable[..., Any] | None = None
    steps_back: Callable[..., Any] | None = None


TRACING = ("compiled",)  # runners that look at ``f`` once, so that under vmap they want all rows in sight

_auto = Auto(run, compiled.single.run, compiled.single.with_gradient, compiled.back.steps)
_auto_rows = Auto(rows.run, compiled.rows.run, compiled.rows.with_gradient, compiled.rows_back.steps)

RUNNERS = {
    "eager": Runner(run),
    "compiled": Runner(compiled.single.run, compiled.single.with_gradient, lambda field: compiled.back.steps),
    "cuda_graph": Runner(cuda_graph.run),
    "auto": Runner(_auto.run, _auto.with_gradient, _auto.steps_back),
}
ROW_RUNNERS = {
    "eager": Runner(rows.run),
    "compiled": Runner(compiled.rows.run, compiled.rows.with_gradient, lambda field: compiled.rows_back.steps),
    "cuda_graph": Runner(cuda_graph.run_rows),
    "auto": Runner(_auto_rows.run, _auto_rows.with_gradient, _auto_rows.steps_back),
}
COMPACT_RUNNERS = {
    "eager": Runner(rows.run_compacted),
    "compiled": Runner(compiled.fewer.run),
    "auto": Runner(rows.run_compacted),
}
INLINE = dict.fromkeys(("compiled", "auto"), compiled.inline)  # runners that can solve inside a graph being traced

__all__ = [
    "COMPACT_RUNNERS",
    "INLINE",
    "ROW_RUNNERS",
    "RUNNERS",
    "TRACING",
    "Compilation",
    "Runner",
    "compilations",
    "run",
]
