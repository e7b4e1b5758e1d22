"""Where the dense output of dopri8 comes from: derives the constants in ``torchivp/methods/erk/dopri8.py``.

    python benchmarks/derive_dopri8_dense.py

prints the nodes at which a stage of order 6 is free, compares choices of the nodes, and prints the constants of the
choice made. Linear systems are solved in float64 and refined with exact residuals: the printed digits satisfy the
order conditions to 5e-15 (the pair's own coefficients, 6e-18, times the size of the weights). The reasoning is in
``docs/design/dopri8-dense.md``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import factorial, isqrt

import numpy as np

from torchivp.methods.erk.dopri8 import DOPRI8
from torchivp.methods.order_conditions import Tree, density, elementary_weights, rooted_trees, size
from torchivp.methods.tableau import c1_weights

ORDER = 7  # of the interpolant
DIGITS = 20  # decimals of the constants
SQRT7 = Fraction(isqrt(7 * 10**80), 10**40)
LOW, HIGH = (7 - SQRT7) / 14, (7 + SQRT7) / 14
UNUSED = range(1, 5)  # stages of low order: no extra stage and no weight uses them
END = 13  # the stage at the end of the step


def symmetry(tree: Tree) -> int:
    out = 1
    for branch, times in Counter(tree).items():
        out *= factorial(times) * symmetry(branch) ** times
    return out


TREES = {n: rooted_trees(n) for n in range(1, ORDER + 2)}
UP_TO = {n: [tree for m in range(1, n + 1) for tree in TREES[m]] for n in TREES}


class Conditions:
    """The matrix ``density(tree) * Phi_s(tree)`` of all trees up to an order; without the unused stages in float64."""

    def __init__(self, a: Sequence[Sequence[Fraction]], order: int):
        phi = elementary_weights(a, order + 1)
        self.exact = [[density(t) * x for x in phi[t]] for t in UP_TO[order]]
        self.next = [[x / symmetry(t) for x in phi[t]] for t in TREES[order + 1]]
        self.used = [s for s in range(len(a)) if s not in UNUSED]
        self.float = np.array(self.exact, dtype=float)[:, self.used]
        left, values, right = np.linalg.svd(self.float)
        rank = int((values > 1e-9 * values[0]).sum())
        self.null, self.left_null = right[rank:], left[:, rank:]
        self.inverse = np.linalg.pinv(self.float, rcond=1e-9)

    def solve(
        self, wanted: Sequence[Fraction], wanted_next: Sequence[Fraction], least: str = "error"
    ) -> tuple[list[Fraction], np.ndarray]:
        """Weights that satisfy the conditions; of those the ones with the least error of the next order, or norm."""
        x = [Fraction(0)] * len(self.exact[0])
        self._refine(x, wanted)
        if len(self.null) and least == "error":
            effect = np.array(self.next, dtype=float)[:, self.used] @ self.null.T
            move = np.linalg.lstsq(effect, self._error(x, wanted_next), rcond=1e-9)[0]
            for s, d in zip(self.used, move @ self.null):
                x[s] += Fraction(d)
            self._refine(x, wanted)
        return [Fraction(round(v * 10**DIGITS), 10**DIGITS) for v in x], self._error(x, wanted_next)

    def _refine(self, x: list[Fraction], wanted: Sequence[Fraction]) -> None:
        for _ in range(4):
            residual = [float(w - _dot(row, x)) for row, w in zip(self.exact, wanted)]
            for s, d in zip(self.used, self.inverse @ residual):
                x[s] += Fraction(d)

    def _error(self, x: Sequence[Fraction], wanted_next: Sequence[Fraction]) -> np.ndarray:
        return np.array([float(w - _dot(row, x)) for row, w in zip(self.next, wanted_next)])


def _dot(x: Sequence[Fraction], y: Sequence[Fraction]) -> Fraction:
    return sum((u * v for u, v in zip(x, y)), Fraction(0))


def add_stage(a: list[tuple], c: Fraction) -> list[tuple]:
    """The tableau with one more stage at node ``c``, of order 6 (the value there is exact up to c^6 dt^6)."""
    next_order = [c**7 / (density(t) * symmetry(t)) for t in TREES[7]]
    row, _ = Conditions(a, 6).solve([c ** size(t) for t in UP_TO[6]], next_order)
    return [*a, tuple(row)]


@dataclass
class Result:
    a: list[tuple]
    bumps: list[list[Fraction]]
    error: float  # norm of the order-8 error coefficients, worst theta
    lebesgue: float  # largest sum_s |w_s(theta)|
    largest: float  # largest |weight| of a power of theta


def derive(nodes: Sequence[Fraction], degree: int = 8) -> Result:
    """Order 7 with the slopes of both ends.

    What cubic Hermite leaves of the order conditions is ``theta^2 (1 - theta)^2 sum_m theta^m q_m``; the bumps m = 0
    .. 4 solve the conditions for ``q_m``. Without the last one the degree is 7, and the others have the least norm.
    """
    a = list(DOPRI8.a)
    for c in nodes:
        a = add_stage(a, c)
    b = (*DOPRI8.b, *[0] * len(nodes))
    system = Conditions(a, ORDER)
    rest, rest_next = [], []
    for rows, trees, scale, wanted in (
        (system.exact, UP_TO[ORDER], density, rest),
        (system.next, TREES[ORDER + 1], lambda t: Fraction(1, symmetry(t)), rest_next),
    ):
        for row, tree in zip(rows, trees):
            target = [-_dot(row, w) for w in c1_weights(b, END)] + [Fraction(0)] * 6
            target[size(tree) - 1] += Fraction(scale(tree)) / density(tree)
            quotient = []
            for m in range(5):  # divide by theta^2 - 2 theta^3 + theta^4, lowest power first
                quotient.append(target[m + 1])
                target[m + 2] += 2 * quotient[m]
                target[m + 3] -= quotient[m]
            wanted.append(quotient)
    count, least = degree - 3, "error" if degree == 8 else "norm"
    solved = [system.solve([q[m] for q in rest], [q[m] for q in rest_next], least) for m in range(count)]
    bumps = [x for x, _ in solved]
    errors = [e for _, e in solved] + [np.array([float(q[m]) for q in rest_next]) for m in range(count, 5)]
    theta = np.linspace(0, 1, 201)
    shape = (theta**2 * (1 - theta) ** 2)[:, None] * theta[:, None] ** np.arange(5)
    weights = np.array(c1_weights(b, END, bumps), dtype=float)
    return Result(
        a,
        bumps,
        error=float(np.linalg.norm(shape @ np.array(errors), axis=1).max()),
        lebesgue=float(np.abs(theta[:, None] ** np.arange(1, len(weights) + 1) @ weights).sum(1).max()),
        largest=float(np.abs(weights).max()),
    )


def free_nodes() -> np.ndarray:
    """Nodes where the 14 stages of the pair already give order 6: roots of the one condition that is in the way."""
    system = Conditions(DOPRI8.a, 6)
    powers = np.array([[float(size(t) == r) for t in UP_TO[6]] for r in range(1, 7)])
    gap = (powers @ system.left_null).T
    polynomial = gap[np.argmax(np.abs(gap).max(1))] if len(gap) == 1 else np.linalg.svd(gap)[2][0]
    return np.sort(np.roots([*polynomial[::-1], 0.0]).real)


def printed(row: Sequence[Fraction]) -> str:
    return "    (\n" + "".join(f'        F("{decimal(x)}"),\n' if x else "        0,\n" for x in row) + "    ),"


def decimal(x: Fraction) -> str:
    digits = abs(round(x * 10**DIGITS))
    return f"{'-' * (x < 0)}{digits // 10**DIGITS}.{digits % 10**DIGITS:0{DIGITS}d}"


def main() -> None:
    print("order 6 is free at theta =", free_nodes(), "; (7 -+ sqrt 7) / 14 =", float(LOW), float(HIGH))
    half = Fraction(1, 2)
    print("nodes                    degree  order-8 error  sum |w|  largest coefficient")
    for nodes, degree in (
        ((LOW, HIGH, half), 8),
        ((LOW, HIGH, half), 7),
        ((LOW, HIGH, Fraction(2, 5)), 8),
        ((LOW, HIGH, Fraction(9, 10)), 8),
        ((LOW, Fraction(9, 10), half), 8),
    ):
        r = derive(nodes, degree)
        names = " ".join(f"{float(c):.4f}" for c in nodes)
        print(f"{names:24} {degree:6} {r.error:14.2e} {r.lebesgue:8.2f} {r.largest:12.0f}")
    chosen = derive((LOW, HIGH, half))
    print("_DENSE_A = (")
    for row in chosen.a[14:]:
        print(printed(row))
    print(")\n_BUMPS = (")
    for row in chosen.bumps:
        print(printed(row))
    print(")")


if __name__ == "__main__":
    main()
