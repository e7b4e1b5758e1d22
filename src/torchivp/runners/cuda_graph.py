"""``runner="cuda_graph"``: attempted steps as one CUDA graph, with the step-size control on the device."""

from __future__ import annotations

from typing import Any

from ..errors import NotCompilable
from ..plan import Plan
from ..problem import Problem
from .compiled import rows, single
from .compiled.march import Kind
from .compiled.program import Program
from .compiled.pure import Pure
from .compiled.repeated import make_repeated
from .compiled.step import Form
from .eager import Run

_ATTEMPTS = 8  # in one graph


def kind_of(k: int, captured: bool = True) -> Kind:
    """Loops of ``k`` attempts at once; without a capture they run anywhere."""

    def program_for(form: Form, pure: Pure) -> Program:
        key = (form, k, captured)
        if key not in pure.programs:
            pure.programs[key] = make_repeated(form, pure, k, captured)
        program: Program = pure.programs[key]
        return program

    return Kind("cuda_graph", program_for, fuses=False)


_KIND = kind_of(_ATTEMPTS)


def run(problem: Problem, plan: Plan, **how: Any) -> Run:
    """What ``eager.run`` does, as replays of a graph."""
    on_a_gpu(problem)
    return single.run(problem, plan, kind=_KIND, **how)


def run_rows(problem: Any, plan: Plan, **how: Any) -> Run:
    """What ``rows.run`` does, as replays of a graph."""
    on_a_gpu(problem)
    return rows.run(problem, plan, kind=_KIND, **how)


def on_a_gpu(problem: Problem) -> None:
    device = problem.layout.device
    if device.type != "cuda":
        raise NotCompilable(
            f"runner='cuda_graph' needs a state on a CUDA device, but y0 is on {device}, where there are no such graphs. Move y0 "
            f"(and what f uses) there with .to('cuda'), or write runner='compiled' or runner='eager'."
        )
