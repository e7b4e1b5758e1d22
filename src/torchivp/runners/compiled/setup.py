"""From a problem and a plan to what a compiled loop needs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from types import NoneType
from typing import Any

import torch
from torch import Tensor

from ..._types import Rows
from ...controllers import PID
from ...errors import NotCompilable
from ...linalg.jacobian import Autograd, Given
from ...linalg.kept import dear
from ...linalg.lapack import routines
from ...linalg.structured import Banded, Sparse
from ...methods import ALF, ExplicitAdams, ImplicitAdams, Method, Projected, Reversible, ReversibleHeun
from ...methods.chord import Chord
from ...methods.diagonal_rk import DiagonalRungeKutta
from ...methods.explicit_rk import ExplicitRungeKutta
from ...methods.geometric import RKN4, SplittingMethod
from ...methods.projected import with_way_back
from ...methods.rosenbrock_rk import Rosenbrock
from ...methods.two_slopes import two_slopes
from ...per_sample.loop import RUNNING
from ...per_sample.problem import RowsProblem
from ...per_sample.tolerance import RowTolerance
from ...plan import Plan
from ...problem import Problem
from ...state import Layout
from ...transforms import recorded
from .adams import adams_stages, coefficients, formula_of, opening_of
from .adams import tables_of as tables_of_adams
from .around import CHORD, INSIDE, ONTO, Manner, around, just_inside
from .columns import Leaves
from .converging import Converged
from .diagonal import diagonal_back, diagonal_stages, parts_of, tableau_of, tables_of
from .explicit import explicit_stages
from .geometric import NYSTROEM, composition_of, nystroem_stages, splitting_stages, splitting_undone
from .jacobians import Whole, band_of
from .past import past_of
from .pure import Beside
from .reversible import (
    TWO_SLOPES,
    alf_stages,
    alf_undone,
    heun_stages,
    heun_undone,
    interpolant,
    reversible_stages,
    reversible_undone,
    twofold_of,
)
from .rosenbrock import rosenbrock_stages
from .split import is_split, split_back, split_parts, split_stages, split_tableau, split_tables, split_weights
from .step import ALL, TIMES, Carry, Fixed, Form, NormOf, Opening, Part, Stages, Where, stages_inside

_UNROLL, TINY = 2, 64  # in states of so few numbers the turns of a loop cost more than the steps
_SLOTS, _NUMBERS = 1024, 2**22  # steps written down at once: at most so many, and so many numbers


def check(problem: Problem, plan: Plan, name: str) -> None:
    """Raise for what only the eager runner can do; the message says what."""
    method = bare(plan.method)
    reasons = {
        "{method!r} (explicit and diagonally implicit Runge-Kutta methods, Rosenbrock's, Adams's, reversible and geometric "
        "ones do)": not isinstance(method, tuple(FAMILIES)),
        "{method!r}, which iterates": name == "cuda_graph" and isinstance(method, DiagonalRungeKutta),
        "{method!r}, which begins with other steps": name == "cuda_graph"
        and isinstance(method, ExplicitAdams | ImplicitAdams),
        "{jacobian!r} (a band, a pattern or a function do)": not isinstance(
            problem.field.jacobian, Autograd | Banded | Sparse | Given | NoneType
        ),
        "a band without SciPy, whose LAPACK it needs (install scipy), or on another device than the CPU": band_of(
            problem
        )
        is not None
        and (routines("float64") is None or problem.layout.device.type != "cpu" or name == "cuda_graph"),
        "a complex state": problem.layout.dtype.is_complex,
        "on_step": plan.on_step is not None,
        "callbacks": plan.watch is not None,
        "{controller!r} (PID and FixedSteps do)": plan.controller.adaptive and not isinstance(plan.controller, PID),
        "torch.func transforms and forward mode": recorded(),
        "random numbers in f": problem.field.draws,
    }
    for reason, there in reasons.items():
        if there:
            named = reason.format(method=plan.method, controller=plan.controller, jacobian=problem.field.jacobian)
            raise NotCompilable(f"runner={name!r} does not go with {named}. Write runner='eager'.")


@dataclass(frozen=True)
class Family:
    """How a family of methods takes its steps in a compiled loop; see ``Form`` and ``Fixed``.

    Attributes:
        stages, back, undo, lead, hands_on: as in ``Form``.
        tableau: of a method.
        weights: of a method's interpolant, ``[P, S]``.
        tables, parts: of a method.
        asks, past, opening, inside: of a tableau.
    """

    stages: Callable[..., Stages]
    back: Callable[..., Any] | None = None
    undo: Callable[..., Where] | None = None
    lead: int | Callable[[Any], int] = 0
    hands_on: bool = False
    tableau: Callable[[Any], Any] = lambda method: method.tableau
    weights: Callable[..., Tensor] = lambda method, dtype, device: method.interpolant(dtype, device)
    tables: Callable[..., tuple[Tensor, ...]] = lambda *_: ()
    parts: Callable[[Any], tuple[Part, ...]] = lambda method: ()
    asks: Callable[[Any], int] = lambda tableau: len(tableau.a) - 1
    past: Callable[[Any], int] = lambda tableau: 0
    opening: Callable[[Any], Opening | None] = lambda tableau: None
    inside: Callable[[Any], tuple[int, int]] = stages_inside


_ADAMS = Family(
    adams_stages,
    lead=1,
    tableau=formula_of,
    weights=lambda method, dtype, device: coefficients(formula_of(method), dtype, device),
    tables=tables_of_adams,
    asks=lambda formula: formula.corrections if formula.converged is None else 0,
    past=lambda formula: formula.past - 1,
    opening=opening_of,
)
_HEUN = Family(
    heun_stages,
    undo=heun_undone,
    hands_on=True,
    tableau=lambda method: TWO_SLOPES,
    weights=lambda method, dtype, device: two_slopes(dtype, device).weights,
    past=lambda tableau: 1,
)
FAMILIES: dict[type[Method], Family] = {
    ExplicitRungeKutta: Family(explicit_stages),
    Rosenbrock: Family(rosenbrock_stages, lead=1),
    DiagonalRungeKutta: Family(
        diagonal_stages,
        diagonal_back,
        tableau=tableau_of,
        tables=tables_of,
        parts=parts_of,
        asks=lambda tableau: 0,  # iterations are counted in the loop
    ),
    ExplicitAdams: _ADAMS,
    ImplicitAdams: _ADAMS,
    ReversibleHeun: _HEUN,
    ALF: replace(_HEUN, stages=alf_stages, undo=alf_undone, past=lambda tableau: 0),
    Reversible: Family(
        reversible_stages,
        undo=reversible_undone,
        lead=1,
        hands_on=True,
        tableau=twofold_of,
        weights=interpolant,
        asks=lambda twofold: twofold.asks,
        past=lambda twofold: 1,
    ),
    SplittingMethod: Family(
        splitting_stages,
        undo=splitting_undone,
        lead=1,
        hands_on=True,
        tableau=composition_of,
        asks=lambda composition: composition.asks,
        inside=lambda composition: composition.inside,
    ),
    RKN4: Family(
        nystroem_stages,
        tableau=lambda method: NYSTROEM,
        asks=lambda nystroem: nystroem.asks,
        inside=lambda nystroem: nystroem.inside,
    ),
}


IMEX = Family(
    split_stages,
    split_back,
    tableau=split_tableau,
    weights=split_weights,
    tables=split_tables,
    parts=split_parts,
    lead=lambda tableau: 1 + len(tableau.b),
    asks=lambda tableau: len(tableau.b),  # for the other part; iterations are counted in the loop
)


def bare(method: Method) -> Method:
    """The method inside of one with something around it."""
    while type(method) in (Projected, Chord):
        method = method.base  # type: ignore[attr-defined]
    return method


def family_of(method: Method, problem: Problem | None = None) -> Family:
    """
    Args:
        problem: to be solved, where it matters whether its ``f`` comes in two parts.
    """
    if problem is not None and is_split(problem, bare(method)):
        return IMEX
    return _family_of(type(bare(method)))


@lru_cache(maxsize=256)
def _family_of(kind: type[Method]) -> Family:
    return next(family for base, family in FAMILIES.items() if issubclass(kind, base))


def manners_of(plan: Plan) -> list[Manner]:
    """What is around the steps of the method, from inside out."""
    kinds = {CHORD: isinstance(plan.method, Chord), ONTO: isinstance(plan.method, Projected), INSIDE: asks_inside(plan)}
    return [manner for manner, there in kinds.items() if there]


def asks_inside(plan: Plan) -> bool:
    """Whether ``f`` is never asked at the ends of a step."""
    return getattr(plan.limits, "open_starts", False)


def form_of(
    problem: Problem,
    plan: Plan,
    leaves: Leaves,
    *,
    slots: int,
    slopes: int,
    looks_inside: bool,
    norm: str | NormOf,
    small: bool = False,
    onto: Beside | None = None,
    jacobian: Whole | None = None,
    converged: Converged | None = None,
    parts: tuple[Beside, ...] = (),
) -> Form:
    layout, family, method = problem.layout, family_of(plan.method, problem), bare(plan.method)
    by_rows = isinstance(problem, RowsProblem)
    tableau = family.tableau(method)
    tableau = tableau if converged is None else replace(tableau, converged=converged)
    tableau = replace(tableau, parts=parts) if parts else tableau
    form = Form(
        stages=family.stages,
        tableau=tableau,
        controller=plan.controller
        if plan.controller.adaptive
        else type(plan.controller)(),  # the grid is among the landings
        error_order=plan.method.error_order or plan.method.order,
        dtypes=leaves.each(layout.dtypes),
        time_dtype=layout.real_dtype,
        by_rows=by_rows,
        couple=isinstance(problem.tolerance, RowTolerance) and problem.tolerance.couple,
        norm=norm,
        looks_inside=looks_inside,
        slopes=slopes,
        slots=slots,
        unroll=_UNROLL if small and not method.uses_jacobian else 1,
        starts=not by_rows,
        turned=problem.field.turn is not None,
        lead=family.lead if isinstance(family.lead, int) else family.lead(tableau),
        parts=family.parts(method),
        smoothed=getattr(method, "smoothed", False),
        jacobian=jacobian or Whole(),
        small=small,
        back=family.back,
        asks=family.asks(tableau),
        past=family.past(tableau),
        opening=family.opening(tableau),
        hands_on=family.hands_on,
        of_q=len(leaves.each(layout.shapes[: layout.of_q])) if method.needs else 0,
        inside=family.inside(tableau) if looks_inside else (0, 0),
        onto=onto,
        undo=family.undo,
        within=just_inside if asks_inside(plan) else None,
        keeps=keeps(problem, plan),
    )
    for manner in manners_of(plan):
        form = around(form, manner)
    return form


def suits(problem: Problem, plan: Plan) -> bool:
    """Whether a backward solve by this plan is compiled."""
    try:
        check(problem, plan, "compiled")
    except NotCompilable:
        return False
    return isinstance(plan.method, ExplicitRungeKutta | Rosenbrock)


def keeps(problem: Problem, plan: Plan) -> bool:
    """Whether a matrix is carried from attempt to attempt."""
    return family_of(plan.method).back is not None and dear(problem.field.jacobian, problem.layout.width)


def goes_back(problem: Problem, plan: Plan, undoes: bool, retakes: bool) -> bool:
    """Whether the discrete gradient is compiled, too: not that by times where steps are undone, their equations are solved, their
    polynomials change with their sizes, or ``f`` is asked just inside of them; nor that of an ``f`` in two parts, if
    a projection follows.

    Args:
        undoes: the steps; ``retakes``: them (which a matrix that was kept makes others).
    """
    if (retakes and keeps(problem, plan)) or (
        is_split(problem, bare(plan.method)) and isinstance(plan.method, Projected)
    ):
        return False
    solves = family_of(plan.method).back is not None
    by_times = problem.clock.times is not None
    moves = undoes or solves or bare(plan.method).weights_depend_on_times or asks_inside(plan)
    return not (by_times and moves) and problem.layout.size > 0


def weights_of(problem: Problem, plan: Plan) -> Tensor:
    """Of the method's interpolant, ``[P, S]``."""
    family, method = family_of(plan.method, problem), bare(plan.method)
    weights = family.weights(method, problem.y0.dtype, problem.y0.device)
    if isinstance(plan.method, Chord):  # its slope stands in front of those of the method
        slopes = 1 + len(family.tableau(method).b)
        return torch.nn.functional.pad(weights.new_ones(1, 1), (0, slopes - 1))
    return with_way_back(weights) if isinstance(plan.method, Projected) else weights


def slopes_for(plan: Plan, looks_inside: bool, reads: bool, goes_back: bool) -> int:
    """How many slopes of a step are written down (see ``Form``).

    Args:
        looks_inside: those of its interpolant are wanted; ``reads``: states are.
        goes_back: a backward pass begins from what is written down.
    """
    iterates = family_of(plan.method).back is not None
    if looks_inside or (goes_back and iterates):
        return ALL
    return int(goes_back) if goes_back or reads else TIMES


def slots_for(problem: Problem, plan: Plan, slopes: int) -> int:
    """How many accepted steps are written down at once."""
    family = family_of(plan.method)
    tableau = family.tableau(bare(plan.method))
    states = min(slopes, len(tableau.b)) + 1 + family.past(tableau) if slopes > TIMES else 0
    each = problem.layout.size * states + problem.layout.rows
    return max(8, min(_SLOTS, _NUMBERS // max(1, each)))


def fixed_of(problem: Problem, plan: Plan, leaves: Leaves, end: Tensor, first: Any, last: Any) -> Fixed:
    """
    Args:
        end: where this part of the solve ends, ``[B]``.
        first, last: limits of the times that ``f`` gets, ``[B]``, numbers, or None.
    """
    layout, limits = problem.layout, plan.limits

    def tolerance(x: Any) -> tuple[Tensor, ...]:
        x = torch.as_tensor(x, dtype=layout.dtype.to_real(), device=layout.device)
        return leaves.of(x) if x.numel() == layout.size and x.dim() == 2 else leaves.each([x] * len(layout.shapes))

    landings = end.to(layout.device).reshape(layout.rows, 1)
    stops = limits.stops
    if isinstance(stops, Tensor):
        landings = torch.cat([landings, torch.where(stops < end.unsqueeze(1), stops, math.inf)], dim=1)
    elif stops is not None and stops[0] < float(end):
        inside = [x for x in stops if x < float(end)]
        landings = torch.cat([landings, torch.tensor([inside], dtype=torch.float64, device=layout.device)], dim=1)
    return Fixed(
        bounds=numbers_of_rows(
            layout,
            -math.inf if first is None else first,
            math.inf if last is None else last,
            problem.field.direction,
            plan.max_steps,
        ),
        landings=landings.reshape(*layout.batch, -1).clone(),  # no two inputs of a compiled loop may share memory
        rtol=tolerance(problem.tolerance.rtol),
        atol=tolerance(problem.tolerance.atol),
        walls=walls_of(plan, layout),
    )


def walls_of(plan: Plan, layout: Layout) -> tuple[Tensor, ...]:
    """The landings without those of a grid, where a method has nodes beyond its steps."""
    if plan.controller.adaptive or getattr(bare(plan.method), "at_limits", None) is None:
        return ()
    if isinstance(plan.limits.end, Tensor):
        walls = plan.limits.end.unsqueeze(1)
        inside = plan.limits.bounds
        return ((walls if inside is None else torch.cat([walls, inside], dim=1)).reshape(*layout.batch, -1),)
    return (torch.tensor(plan.limits.landings, dtype=torch.float64, device=layout.device),)


def numbers_of_rows(layout: Layout, *numbers: Any) -> Tensor:
    """One line for each argument, a number or a tensor ``[B]``: ``[n, *batch]``."""
    if not any(isinstance(x, Tensor) for x in numbers):
        line = torch.tensor(numbers, dtype=torch.float64, device=layout.device)
        return line.reshape(-1, *[1] * len(layout.batch)).expand(-1, *layout.batch).contiguous()
    lines = [torch.as_tensor(x, dtype=torch.float64, device=layout.device).expand(layout.rows) for x in numbers]
    return torch.stack(lines).reshape(-1, *layout.batch)


def carry_of(problem: Problem, plan: Plan, leaves: Leaves, state: Any, slope: Rows | None, tries: int = 0) -> Carry:
    """Where the loop starts from: a ``LoopState`` or ``RowsState`` before its first step, or between two.

    Args:
        slope: at the start, ``[1, B * D]``; None: the loop asks for it.
        tries: attempts so far.
    """
    layout = problem.layout
    remembers = isinstance(plan.controller, PID) and bool(plan.controller.p or plan.controller.d)
    memory = (*state.memory, 1.0, 1.0)[:2] if remembers else ()
    code = getattr(state, "code", RUNNING)
    rows = numbers_of_rows(layout, state.t, state.dt, code, state.attempted, state.accepted, *memory)
    ys = leaves.of(state.y)
    ks = tuple(torch.zeros_like(y) for y in ys) if slope is None else leaves.of(slope)
    totals = torch.tensor([1, tries, 0, 0, slope is None, 0], device=layout.device)
    return Carry(totals, rows, ys, ks, past_before(plan.method, state, leaves))


def past_before(method: Method, state: Any, leaves: Leaves) -> tuple[Tensor, ...]:
    """What the method carries into the first step from this state."""
    family = family_of(method)
    tableau = family.tableau(bare(method))
    known = state.history[1:] if state.ready or family.hands_on else state.history
    return past_of(family.past(tableau), family.opening(tableau) is not None, known, state.y, leaves)
