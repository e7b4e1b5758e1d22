"""Are values between the steps as accurate as the steps? Every adaptive tableau, in plain NumPy without the engine.

    python benchmarks/dense_accuracy.py [--dtype float32]

prints a Markdown table: the largest error at the method's own steps, at 101 evenly spaced outputs, and their ratio,
which has to stay below 10.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator

import numpy as np

from torchivp.methods.erk import AdaptiveHeun, Bosh3, Dopri5, Dopri8, Fehlberg2, Ralston, Tsit5
from torchivp.methods.tableau import Row, Tableau, hermite

METHODS = {
    "ralston": Ralston,
    "fehlberg2": Fehlberg2,
    "adaptive_heun": AdaptiveHeun,
    "bosh3": Bosh3,
    "dopri5": Dopri5,
    "tsit5": Tsit5,
    "dopri8": Dopri8,
}
# name: (f, exact solution), all on [0, 10]
PROBLEMS: dict[str, tuple[Callable, Callable]] = {
    "y' = cos(t) y": (lambda t, y: np.cos(t) * y, lambda t: np.exp(np.sin(t))[..., None]),
    "oscillator": (lambda t, y: np.array([y[1], -y[0]]), lambda t: np.stack([np.cos(t), -np.sin(t)], -1)),
    "logistic": (lambda t, y: y * (1 - y), lambda t: (1 / (1 + 9 * np.exp(-t)))[..., None]),
}
END, OUTPUTS = 10.0, np.linspace(0, 10, 101)


def steps(
    f: Callable, y: np.ndarray, tableau: Tableau, tol: float
) -> Iterator[tuple[float, float, np.ndarray, np.ndarray, np.ndarray]]:
    """Accepted steps ``(t, dt, y0, y1, k)`` under the classical controller; the first step is small enough for all."""
    a, b, b_err = (
        [vector(row, y.dtype) for row in tableau.a],
        vector(tableau.b, y.dtype),
        vector(tableau.b_err, y.dtype),
    )
    t, dt = 0.0, 0.1 * tol ** (1 / tableau.error_order)
    while t < END:
        dt = min(dt, END - t)
        k = np.zeros((0, y.size), y.dtype)
        for c, row in zip(tableau.c, a):
            k = np.vstack([k, f(t + float(c) * dt, y + dt * (row @ k)).astype(y.dtype)])
        y1 = y + dt * (b @ k)
        error = dt * (b_err @ k)
        ratio = np.sqrt(np.mean((error / (tol + tol * np.maximum(abs(y), abs(y1)))) ** 2))
        if ratio <= 1:
            yield t, dt, y, y1, k
            t, y = (END if dt == END - t else t + dt), y1
        dt *= min(10, max(0.2, 0.9 * max(ratio, 1e-10) ** (-1 / tableau.error_order)))


def vector(row: Row, dtype: type) -> np.ndarray:
    return np.array([float(x) for x in row], dtype)


def measure(f: Callable, exact: Callable, tableau: Tableau, tol: float, dtype: type) -> tuple[int, float, float]:
    """Number of steps, largest error at the steps, largest error at the outputs."""
    dense = tableau.dense or hermite(tableau)
    weights = np.array([vector(row, dtype) for row in dense.weights])
    at_steps, at_outputs, count = 0.0, 0.0, 0
    for t, dt, y0, y1, k in steps(f, exact(np.array(0.0)).astype(dtype), tableau, tol):
        count += 1
        at_steps = max(at_steps, np.abs(y1 - exact(np.array(t + dt))).max())
        inside = OUTPUTS[np.searchsorted(OUTPUTS, t, "right") : np.searchsorted(OUTPUTS, t + dt, "right")]
        if not len(inside):
            continue
        for c, row in zip(dense.c, dense.a):
            k = np.vstack([k, f(t + float(c) * dt, y0 + dt * (vector(row, dtype) @ k)).astype(dtype)])
        powers = (((inside - t) / dt)[:, None] ** np.arange(1, len(weights) + 1)).astype(dtype)
        at_outputs = max(at_outputs, np.abs(y0 + dt * (powers @ (weights @ k)) - exact(inside)).max())
    return count, at_steps, at_outputs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dtype", default="float64", choices=["float32", "float64"])
    dtype = np.dtype(parser.parse_args().dtype).type
    print("| problem | method | tolerance | steps | error at steps | at outputs | ratio |")
    print("|---|---|---|---|---|---|---|")
    for problem, (f, exact) in PROBLEMS.items():
        for name, method in METHODS.items():
            tol = 1e-5 if dtype is np.float32 else 1e-6 if method.tableau.order == 2 else 1e-9
            count, at_steps, at_outputs = measure(f, exact, method.tableau, tol, dtype)
            ratio = at_outputs / at_steps
            print(f"| {problem} | {name} | {tol:.0e} | {count} | {at_steps:.1e} | {at_outputs:.1e} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
