"""The shortest start: dz/dt = t with z(0) = 0 on [0, 2], against the exact solution t^2 / 2.

python examples/first_order.py --output-dir examples-output
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from picture import plt, read_output_dir, save
from torch import Tensor

import torchivp


def slope(t: Tensor, z: Tensor) -> Tensor:
    """The right-hand side: here the time itself, in the shape of the state."""
    return t.expand_as(z)


def run(output_dir: Path) -> tuple[Path, float]:
    """Solves, draws, and returns the picture's path and the largest error."""
    times = torch.linspace(0.0, 2.0, 41, dtype=torch.float64)
    z0 = torch.zeros(1, dtype=torch.float64)
    solution = torchivp.solve(slope, z0, times)
    z = solution.y[:, 0]
    exact = times**2 / 2
    error = (z - exact).abs()

    figure, (top, bottom) = plt.subplots(
        2, 1, figsize=(6.5, 5.5), sharex=True, height_ratios=(3, 1), layout="constrained"
    )
    top.plot(times, exact, color="0.7", lw=6, label="exact: $t^2/2$")
    top.plot(times, z, "C0o", ms=4, label=f"torchivp, {solution.stats.nfe} evaluations of f")
    top.set(title="$dz/dt = t$, $z(0) = 0$", ylabel="z")
    top.legend()
    bottom.plot(times, error, "C3")
    bottom.set(xlabel="t", ylabel="error")
    bottom.ticklabel_format(axis="y", scilimits=(0, 0))
    for axes in (top, bottom):
        axes.grid(alpha=0.3)
    return save(figure, output_dir / "first_order.png"), float(error.max())


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    path, error = run(read_output_dir(arguments, __doc__))
    print(f"dz/dt = t on [0, 2]: largest error {error:.1e}. Wrote {path}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
