"""Order and chaos in a driven pendulum: where it stands at each beat of the drive, for every strength of the drive.

python examples/parameter_sweep.py --output-dir examples-output
python examples/parameter_sweep.py --members 20000                                       # a finer picture
torchrun --standalone --nproc-per-node 2 examples/parameter_sweep.py --members 20000     # the same in two processes

The pendulum x'' + x' / q + sin x = a cos(2 t / 3) with q = 2 is started at rest once for each drive a, and looked at once in
every period of the drive, after it has forgotten its start. One point in a column is a motion that repeats itself in every
period, two one that takes two periods, and a cloud of points chaos.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from picture import folder, plt, save
from torch import Tensor

import torchivp

Q, W = 2.0, 2 / 3
DRIVES = (1.0, 1.5)
FORGET, LOOK = 60, 40  # periods of the drive


def slope(t: Tensor, y: Tensor, drive: Tensor) -> Tensor:
    """Of states (angle, speed) ``[b, 2]``, each with its own time and drive ``[b]``."""
    x, v = y.unbind(-1)
    return torch.stack([v, drive * torch.cos(W * t) - v / Q - torch.sin(x)], dim=-1)


def sweep(members: int, progress: bool = False) -> tuple[Tensor, Tensor]:
    """The drives ``[N]`` and the speeds ``[N, LOOK]`` at the beats of the drive."""
    drives = torch.linspace(*DRIVES, members, dtype=torch.float64)
    beats = torch.arange(FORGET, FORGET + LOOK, dtype=torch.float64) * (2 * math.pi / W)
    rest = torch.zeros(2, dtype=torch.float64)
    solution = torchivp.ensemble(
        slope, rest, torch.cat([torch.zeros(1), beats]), drives, members=members, rtol=1e-6, atol=1e-8,
        progress=progress, group=dist.group.WORLD if dist.is_initialized() else None,
    )  # fmt: skip
    return drives, solution.y[:, 1:, 1]


def repeats(speeds: Tensor) -> Tensor:
    """Which motions are the same in every period of the drive, ``[N]``."""
    return (speeds - speeds[:, :1]).abs().amax(1) < 1e-3


def draw(drives: Tensor, speeds: Tensor, output_dir: Path) -> Path:
    """Draws, and returns the picture's path."""
    figure, axes = plt.subplots(figsize=(9, 5), layout="constrained")
    size = min(2.0, 800 / len(drives))
    axes.scatter(drives[:, None].expand_as(speeds), speeds, s=size, c="C0", linewidths=0, rasterized=True)
    axes.set(
        title=f"$x'' + x'/2 + \\sin x = a\\,\\cos(2t/3)$: {len(drives)} pendulums, {LOOK} beats each",
        xlabel="drive a", ylabel="speed x' at each beat of the drive", xlim=DRIVES,
    )  # fmt: skip
    return save(figure, output_dir / "parameter_sweep.png")


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", type=folder, default=Path("examples-output"), help="default: examples-output")
    parser.add_argument("--members", type=int, default=400, help="strengths of the drive (default: 400)")
    flags = parser.parse_args(arguments)
    if "RANK" in os.environ:  # started by torchrun
        dist.init_process_group("gloo")
    try:
        drives, speeds = sweep(flags.members, progress=True)
        if dist.is_initialized() and dist.get_rank() > 0:  # all have the result, one draws it
            return 0
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
    path, share = draw(drives, speeds, flags.output_dir), repeats(speeds).double().mean()
    print(f"{flags.members} pendulums, {share:.0%} of which repeat themselves in every period. Wrote {path}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
