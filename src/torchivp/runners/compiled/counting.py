"""How often plain PyTorch would have evaluated ``f``. A compiled loop asks more often, where that costs less than a branch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from torch import Tensor

from ...field import Field
from ...methods.rosenbrock_tableau import RosenbrockTableau
from .step import Form, at_end

if TYPE_CHECKING:
    from .outputs import Found


def evaluations(form: Form, attempts: int, looked: Sequence[bool], goes_on: bool, opened: int = 0) -> int:
    """Evaluations of ``f`` in some attempts, without that at the start of the first one.

    Args:
        attempts: attempted steps.
        looked: which of those that were accepted somebody looked into.
        goes_on: another step begins where the last one ends, with the slope there.
        opened: so many of the attempts are those of an opening.
    """
    total = sum(looked) * form.inside[1]
    opened = min(opened, attempts)
    total += (attempts - opened) * form.asks + (opened * form.opening.asks if form.opening else 0)
    if linearises(form):
        total += attempts if every_attempt(form) else len(looked)  # for Jacobians
    if form.hands_on or at_end(form, False) or opened >= len(looked):
        return total
    known = (
        looked[opened:] if at_end(form, True) else [False] * (len(looked) - opened)
    )  # the cubic interpolant has them
    return total + known.count(False) - (not goes_on and not known[-1])


def linearises(form: Form) -> bool:
    """Whether every step has a Jacobian of its own."""
    tableau = form.tableau
    while hasattr(tableau, "base"):
        tableau = tableau.base
    return (bool(form.parts) and not form.keeps) or isinstance(tableau, RosenbrockTableau)


def every_attempt(form: Form) -> bool:
    """Whether a rejected attempt has a Jacobian of its own, too."""
    tableau = form.tableau
    while not hasattr(tableau, "each_attempt") and hasattr(tableau, "base"):
        tableau = tableau.base
    return getattr(tableau, "each_attempt", False)


def looked_into(n: int, found: Found | None, ends: Tensor) -> list[bool]:
    """Which of ``n`` steps have outputs between their ends ``[n, B]``."""
    looked = [False] * n
    if found is not None:
        for slot in found.slots[found.t != ends[found.slots, found.rows]].unique_consecutive().tolist():
            looked[slot] = True
    return looked


def slope_at_end(form: Form, k: Tensor, looked: bool) -> Tensor:
    """The slope ``[1, D]`` that a step with slopes ``k [S, D]`` hands on in plain PyTorch; ``[0, D]``: none."""
    places = at_end(form, looked)
    return k[list(places)].sum(0, keepdim=True) if places else k[:0]


def count(field: Field, evaluations: int) -> None:
    """Evaluations of ``f`` that Python does not see: for the statistics, and for an ``f`` that counts its own."""
    field.evaluations += evaluations
    counts = getattr(field.f, "count_more", None)
    if counts is not None:
        counts(evaluations)


@contextmanager
def not_counted(field: Field, jacobians: bool = True) -> Iterator[None]:
    """What is done meanwhile has been counted before (``jacobians``: these, too)."""
    counts, evaluations = field.counts, field.evaluations
    before, kept, field.kept = (counts.jacobians, counts.factorisations), field.kept, None
    yield
    field.kept = kept
    field.evaluations, counts.factorisations = evaluations, before[1]
    counts.jacobians = before[0] if jacobians else counts.jacobians


def count_systems(field: Field, form: Form, attempts: int, steps: int) -> None:
    """The Jacobians and factorisations of so many attempts, and of the steps that were taken."""
    if linearises(form):
        field.counts.jacobians += attempts if every_attempt(form) else steps
        field.counts.factorisations += attempts


def count_matrices(field: Field, before: Sequence[Tensor], after: Sequence[Tensor]) -> None:
    """The same where the loop keeps a matrix (see ``kept.Keep``) and counts itself."""
    if after:
        jacobians, factorisations = (after[0] - before[0]).tolist()
        field.counts.jacobians += jacobians
        field.counts.factorisations += factorisations
