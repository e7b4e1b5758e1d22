"""Derives interpolants for Verner's methods: his stages, weights that can be summed in float64 (docs/design/verner-dense.md).

For a method of order p, order p fixes the weights on these stages, and the published ones reach 1.4e6. Here the conditions below
order p hold exactly and those of order p nearly: the bumps (``c1_weights``) minimise the squares of what is left of them, plus
``PENALTY ** 2`` times their own.

    python benchmarks/derive_verner_dense.py vern8            # prints the bumps
    python benchmarks/derive_verner_dense.py vern8 --compare  # and what other penalties would give
"""

from __future__ import annotations

import argparse
from fractions import Fraction

import mpmath as mp

from torchivp.methods import METHODS
from torchivp.methods.order_conditions import density, elementary_weights, size
from torchivp.methods.tableau import Tableau, c1_weights

PENALTY = 1e-7
mp.mp.dps = 60


def high(x: object) -> mp.mpf:
    exact = Fraction(x)  # type: ignore[arg-type]
    return mp.mpf(exact.numerator) / exact.denominator


def independent(rows: list[list[mp.mpf]], right: list[mp.mpf]) -> tuple[list[list[mp.mpf]], list[mp.mpf]]:
    """An orthonormal set of equations that says the same."""
    kept, values = [], []
    left = list(zip(rows, right))
    while left:
        row, value = max(left, key=lambda x: sum(v * v for v in x[0]))
        norm = mp.sqrt(sum(v * v for v in row))
        if norm < mp.mpf(10) ** -30:
            break
        row, value = [v / norm for v in row], value / norm
        kept.append(row)
        values.append(value)
        parts = [(r, x, sum(a * b for a, b in zip(r, row))) for r, x in left]
        left = [([a - p * b for a, b in zip(r, row)], x - p * value) for r, x, p in parts]
    return kept, values


class Derivation:
    """The linear least-squares problem for the bumps ``[p - 3, stages]``."""

    def __init__(self, tableau: Tableau):
        dense = tableau.dense
        assert dense is not None  # noqa: S101
        self.stages = tableau.stages + len(dense.c)
        self.end = tableau.stages
        self.b = (*tableau.b, *(0,) * len(dense.c))
        self.order = tableau.order
        self.columns = [s for s, b in enumerate(tableau.b) if b] + list(range(tableau.stages, self.stages))
        if tableau.fsal:
            self.end = tableau.stages - 1
            self.columns = sorted({*self.columns, self.end})
        a = [tuple(high(x) for x in row) for row in (*tableau.a, *dense.a)]
        self.trees = [(size(t), density(t), p) for t, p in elementary_weights(a, self.order).items()]
        self.bumps = self.order - 3
        hermite = c1_weights(self.b, self.end)
        base = [[high(x) for x in row] for row in hermite] + [[mp.mpf(0)] * self.stages] * self.bumps
        # sum_s (hermite + bumps)[p][s] Phi_s = [p == n] / gamma, theta^2 (1 - theta)^2 taken out
        self.exact: list[tuple[list[mp.mpf], mp.mpf]] = []
        self.near: list[tuple[list[mp.mpf], mp.mpf]] = []
        for n, gamma, phi in self.trees:
            rest = [
                mp.mpf(int(p == n)) / gamma - sum(w * x for w, x in zip(base[p - 1], phi))
                for p in range(1, self.order + 1)
            ]
            quotient = self.divided(rest)
            for m in range(self.bumps):
                row = [phi[s] if i == m else mp.mpf(0) for i in range(self.bumps) for s in self.columns]
                (self.exact if n < self.order else self.near).append((row, quotient[m]))

    def divided(self, powers: list[mp.mpf]) -> list[mp.mpf]:
        """A polynomial (theta^1 first) by theta^2 (1 - theta)^2; it has these zeros."""
        rest = [*powers[1:], mp.mpf(0), mp.mpf(0)]
        quotient = []
        for m in range(self.bumps):
            quotient.append(rest[m])
            rest[m + 1] += 2 * quotient[m]
            rest[m + 2] -= quotient[m]
        return quotient

    def solve(self, penalty: float) -> list[list[mp.mpf]]:
        """Block by block: the equations of one power of theta do not know of the others."""
        n, out = len(self.columns), []
        for m in range(self.bumps):
            block = slice(m * n, (m + 1) * n)
            exact = [(r[block], x) for r, x in self.exact if any(r[block])]
            near = [(r[block], x) for r, x in self.near if any(r[block])]
            e, ex = independent(*map(list, zip(*exact)))
            k = len(e)
            matrix, right = mp.zeros(n + k, n + k), mp.zeros(n + k, 1)
            for i in range(n):
                for j in range(n):
                    matrix[i, j] = sum(r[i] * r[j] for r, _ in near)
                matrix[i, i] += mp.mpf(penalty) ** 2
                right[i] = sum(r[i] * x for r, x in near)
            for i, (row, x) in enumerate(zip(e, ex)):
                for j in range(n):
                    matrix[n + i, j] = matrix[j, n + i] = row[j]
                right[n + i] = x
            found = mp.lu_solve(matrix, right)
            out.append([found[i] for i in range(n)])
        return out

    def weights(self, bumps: list[list[mp.mpf]]) -> list[list[mp.mpf]]:
        full = []
        for row in bumps:
            by_stage = dict(zip(self.columns, row))
            full.append(tuple(by_stage.get(s, mp.mpf(0)) for s in range(self.stages)))
        return [
            [high(x) if isinstance(x, (int, Fraction)) else x for x in row]
            for row in c1_weights(self.b, self.end, full)
        ]

    def figures(self, weights: list[list[mp.mpf]]) -> tuple[float, float, float]:
        """Largest weight; largest violations of the conditions below order p, and of those of order p, over theta."""
        worst = [0.0, 0.0]
        thetas = [mp.mpf(i) / 50 for i in range(51)]
        for n, gamma, phi in self.trees:
            error = [
                sum(w * x for w, x in zip(row, phi)) - mp.mpf(int(p == n)) / gamma for p, row in enumerate(weights, 1)
            ]
            largest = max(abs(sum(e * theta**p for p, e in enumerate(error, 1))) for theta in thetas)
            worst[n == self.order] = max(worst[n == self.order], float(largest))
        return max(abs(float(w)) for row in weights for w in row), *worst


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("method", choices=["vern6", "vern7", "vern8", "vern9"])
    parser.add_argument("--compare", action="store_true")
    args = parser.parse_args()
    derivation = Derivation(METHODS[args.method].tableau)
    for penalty in (0.0, 1e-10, 1e-9, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4) if args.compare else ():
        largest, below, last = derivation.figures(derivation.weights(derivation.solve(penalty)))
        print(f"penalty {penalty:.0e}: largest weight {largest:.3g}, order p - 1 {below:.1e}, order p {last:.1e}")
    for row in derivation.solve(PENALTY):
        by_stage = dict(zip(derivation.columns, row))
        print(
            " ".join(
                mp.nstr(by_stage.get(s, mp.mpf(0)), 30) if s in by_stage else "0" for s in range(derivation.stages)
            )
        )
        print()


if __name__ == "__main__":
    main()
