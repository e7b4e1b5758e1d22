"""The oscillator m x'' = -k x as a first-order pair (x, v), against cos and -sin, forward and back in time.

python examples/oscillator.py --output-dir examples-output
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from picture import plt, read_output_dir, save
from torch import Tensor

import torchivp

MASS, STIFFNESS = 1.0, 1.0
START = torch.tensor([1.0, 0.0], dtype=torch.float64)
TIMES = torch.linspace(0.0, 20.0, 201, dtype=torch.float64)


def slope(t: Tensor, y: Tensor) -> Tensor:
    """x' = v and v' = -k x / m, for y = (x, v)."""
    x, v = y
    return torch.stack([v, -STIFFNESS / MASS * x])


def run(output_dir: Path) -> tuple[Path, float, float]:
    """Solves there and back, draws, and returns the picture's path and the largest error of each way."""
    there = torchivp.solve(slope, START, TIMES, rtol=1e-8, atol=1e-8)
    back = torchivp.solve(slope, there.y[-1], TIMES.flip(0), rtol=1e-8, atol=1e-8)  # decreasing times run backwards
    w = (STIFFNESS / MASS) ** 0.5
    exact = torch.stack([torch.cos(w * TIMES), -w * torch.sin(w * TIMES)], dim=1)

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.4), width_ratios=(1.7, 1), layout="constrained")
    for i, name in enumerate(("x", "v")):
        form = (r"\cos t", r"-\sin t")[i]
        left.plot(TIMES, exact[:, i], color=f"C{i}", alpha=0.3, lw=6, label=f"exact: {name} = ${form}$")
        left.plot(TIMES, there.y[:, i], color=f"C{i}", lw=1.5, label=f"torchivp: {name}")
    left.set(title="Over time", xlabel="t", ylim=(-1.2, 1.75))
    left.legend(ncols=2, loc="upper right")
    right.plot(exact[:, 0], exact[:, 1], color="0.8", lw=6, label="exact")
    right.plot(there.y[:, 0], there.y[:, 1], "C2", lw=1.5, label="there, t = 0 to 20")
    right.plot(back.y[::4, 0], back.y[::4, 1], "C3o", ms=3, label="and back, t = 20 to 0")
    right.set(title="Phase portrait", xlabel="x", ylabel="v", aspect="equal", xlim=(-1.2, 1.2), ylim=(-1.2, 1.75))
    right.legend(loc="upper center", fontsize="small")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.suptitle("$m\\,x'' = -k\\,x$ with $m = k = 1$")
    path = save(figure, output_dir / "oscillator.png")
    return path, float((there.y - exact).abs().max()), float((back.y.flip(0) - exact).abs().max())


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    path, error_there, error_back = run(read_output_dir(arguments, __doc__))
    print(f"Oscillator on [0, 20]: largest error {error_there:.1e} there, {error_back:.1e} back. Wrote {path}")
    try:
        torchivp.solve(slope, START, torch.tensor([0.0, 2.0, 1.0]))
    except torchivp.InputError as error:  # times must all increase or all decrease
        print(f"Times in no order are refused: {error}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
