"""Orders of the geometric methods: by conditions for the coefficients that a step really uses, and as observed."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest
import torch
from torch import Tensor

import torchivp
from geometric.systems import F64, KNOWN, SECOND_ORDER, Known
from torchivp.field import Field
from torchivp.methods import GEOMETRIC_METHODS, Method
from torchivp.methods.geometric import Splitting, SplittingMethod
from torchivp.methods.geometric.hermite import CUBIC, QUINTIC
from torchivp.methods.geometric.splitting import DRIFT, KICK
from torchivp.methods.order_conditions import Tree, density, rooted_trees, size
from torchivp.span import OneSpan
from torchivp.state import Layout

METHODS = {name: cls() for name, cls in GEOMETRIC_METHODS.items()}
SPLITTINGS = {name: m.splitting for name, m in METHODS.items() if isinstance(m, SplittingMethod)}
ROUNDING, WRONG = 2e-14, 1e-4


def per_method(table: dict) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("method", table.values(), ids=table.keys())


def test_all_five_are_here() -> None:
    assert list(METHODS) == ["leapfrog", "yoshida4", "yoshida6", "mclachlan4", "rkn4"]
    assert list(SPLITTINGS) == ["leapfrog", "yoshida4", "yoshida6", "mclachlan4"]
    assert [m.order for m in METHODS.values()] == [2, 4, 6, 4, 4]


# ---- conditions: of separable systems q' = f(p), p' = g(q), time being a part of each


def substep_weights(splitting: Splitting, tree: Tree, root: int) -> list[float]:
    """``Phi`` of a tree at every substep whose kind is that of the root; what hangs below is of the other kind, in turns."""
    below = [substep_weights(splitting, branch, 1 - root) for branch in tree]
    found = []
    for j in range(len(splitting.weights)):
        if splitting.kind(j) != root:
            found.append(0.0)
            continue
        found.append(prod(sum(w * phi for w, phi in zip(splitting.weights[:j], branch)) for branch in below))
    return found


def violations(splitting: Splitting, order: int) -> list[float]:
    """Largest violation of the conditions of order 1, 2, ..: one for each rooted tree and each kind of its root."""
    worst = []
    for nodes in range(1, order + 1):
        errors = [
            sum(w * phi for w, phi in zip(splitting.weights, substep_weights(splitting, tree, root)))
            - 1 / density(tree)
            for tree in rooted_trees(nodes)
            for root in (DRIFT, KICK)
        ]
        worst.append(max(map(abs, errors)))
    return worst


@per_method(SPLITTINGS)
def test_conditions_of_separable_systems(method: Splitting) -> None:
    *upto, beyond = violations(method, method.order + 1)
    assert max(upto) < ROUNDING
    assert beyond > WRONG


def test_a_changed_digit_is_noticed() -> None:
    yoshida = SPLITTINGS["yoshida6"]
    weights = list(yoshida.weights)
    weights[0] += 1e-9
    weights[2] -= 1e-9
    assert max(violations(Splitting(6, DRIFT, tuple(weights)), 6)) > 1e-10


# ---- conditions of x'' = a(t, x), for the numbers that a step adds up


def executed(method: Method) -> tuple[list[float], np.ndarray, np.ndarray, np.ndarray]:
    """Nodes ``c``, rows ``a`` of the positions, and weights of x and of v, read off one step of size 1.

    The k-th acceleration is the k-th unit vector; the start is at 0 with a velocity along an axis of its own.
    """
    calls: list[tuple[float, Tensor]] = []
    most = 12

    def a(t: Tensor, x: Tensor) -> Tensor:
        calls.append((float(t), x.clone()))
        return torch.eye(most, dtype=F64)[len(calls) - 1]

    y0 = (torch.zeros(most, dtype=F64), torch.eye(most, dtype=F64)[-1])
    field = Field(torchivp.SecondOrder(a), Layout(y0))
    y, span = field.layout.ravel(y0), OneSpan(0.0, 1.0, size=1.0)
    history = ((0.0, field.start_slope(span, y)),)
    step = method.step(field, span, y, history)
    x1, v1 = field.layout.unravel(step.y1)
    n = len(calls)
    assert [float(x[-1]) for _, x in calls] == pytest.approx([t for t, _ in calls], abs=1e-15)
    assert float(x1[-1]) == pytest.approx(1, abs=1e-15)
    rows = torch.stack([x[:n] for _, x in calls])
    return [t for t, _ in calls], rows.numpy(), x1[:n].numpy(), v1[:n].numpy()


def nystroem_trees(nodes: int, root: int) -> list[Tree]:
    """Trees whose nodes are kicks and drifts in turns, and drifts have no more than one branch, for they are linear."""

    def fits(tree: Tree, kind: int) -> bool:
        return (kind == KICK or len(tree) <= 1) and all(fits(branch, 1 - kind) for branch in tree)

    return [tree for tree in rooted_trees(nodes) if fits(tree, root)]


def stage_values(tree: Tree, c: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """``Phi`` of a tree with a kick at its root, at every stage."""
    out = np.ones(len(c))
    for branch in tree:  # a drift: a leaf, or one that a kick hangs from
        out = out * (rows @ stage_values(branch[0], c, rows) if branch else c)
    return out


def nystroem_violations(method: Method, order: int) -> list[float]:
    c, rows, b_x, b_v = executed(method)
    nodes_of = np.array(c)
    worst = []
    for nodes in range(1, order + 1):
        errors = [b_v @ stage_values(tree, nodes_of, rows) - 1 / density(tree) for tree in nystroem_trees(nodes, KICK)]
        errors += [
            b_x @ stage_values(tree[0], nodes_of, rows) - 1 / density(tree)
            for tree in nystroem_trees(nodes, DRIFT)
            if tree
        ]
        worst.append(max(map(abs, errors)))
    return worst


@per_method(METHODS)
def test_conditions_of_second_order_equations(method: Method) -> None:
    *upto, beyond = nystroem_violations(method, method.order + 1)
    assert max(upto) < ROUNDING
    assert beyond > WRONG


@per_method(METHODS)
def test_times_of_the_accelerations_lie_in_the_step(method: Method) -> None:
    c, *_ = executed(method)
    assert min(c) >= 0
    assert max(c) <= 1


def test_number_of_nystroem_trees() -> None:
    """Hairer, Norsett, Wanner I, table II.14.1: of the special equation, those of the velocity."""
    assert [len(nystroem_trees(n, KICK)) for n in range(1, 7)] == [1, 1, 2, 3, 6, 10]
    assert all(size(tree) == n for n in range(1, 7) for tree in nystroem_trees(n, KICK))


# ---- interpolants


@pytest.mark.parametrize(("weights", "degree"), [(CUBIC, 3), (QUINTIC, 5)], ids=["cubic", "quintic"])
def test_interpolants_reproduce_polynomials(weights: tuple, degree: int) -> None:
    """Every polynomial of their degree, from its slopes and its mean slope over a step of size 1; none higher."""
    nodes = (0, None, 1, 1 / 3, 2 / 3)[: len(weights[0])]
    for power in range(1, degree + 2):
        k = [1.0 if node is None else power * float(node) ** (power - 1) for node in nodes]
        theta = np.linspace(0, 1, 7)
        values = sum(float(w) * kk * theta**p for p, row in enumerate(weights, 1) for w, kk in zip(row, k))
        error = np.abs(values - theta**power).max()
        assert (error < 1e-13) == (power <= degree), power


# ---- as observed

END = {2: 0.5, 4: 1.5, 6: 2.0}


def errors(method: str, known: Known, n: int) -> tuple[float, float]:
    """Largest errors at the steps and between them."""
    end = END[METHODS[method].order]
    at = torch.zeros((), dtype=F64)
    with torch.no_grad():
        sol = torchivp.solve(
            known.f, (known.q(at), known.p(at)), (0.0, end), method=method, dt=end / n, save="steps", dense=True
        )
    between = torch.cat([sol.t[:-1] + x * sol.t.diff() for x in (0.12, 0.3, 0.5, 0.7, 0.88)])
    largest = [
        max(float((y - x).abs().max()) for y, x in zip(values, known.solution(t)))
        for t, values in ((sol.t, sol.y), (between, sol(between)))
    ]
    return largest[0], largest[1]


CASES = [
    (method, problem)
    for method in METHODS
    for problem, known in KNOWN.items()
    if known.methods is None or method in known.methods
]


@pytest.mark.parametrize(("method", "problem"), CASES, ids=[f"{m}-{p}" for m, p in CASES])
def test_observed_order(method: str, problem: str) -> None:
    """Over three halvings, at the steps and of the dense output, from the first errors below 1e-3 (1e-5 at order 6)."""
    known, n = KNOWN[problem], 8
    while max(found := errors(method, known, n)) > (1e-3 if METHODS[method].order < 6 else 1e-5):
        n += n // 4
    series = np.array([found, *(errors(method, known, n * 2**i) for i in (1, 2, 3))])
    assert series.min() > 2e-14, series
    for column in series.T:
        observed = -np.polyfit(range(len(column)), np.log2(column), 1)[0]
        assert observed > METHODS[method].order - 0.2, series


def test_three_problems_of_second_order() -> None:
    for name in SECOND_ORDER:
        at = torch.tensor(0.3, dtype=F64)
        a, x = KNOWN[name].f.a, KNOWN[name].q(at)
        assert (a(at, x) - a(at + 0.1, x)).abs().max() > 0.05, "autonomous"
