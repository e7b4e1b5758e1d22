"""Looking inside an ODE block: what it holds at "layer" 0.5, for a convolutional block on images [B, C, H, W].

The block sits between two convolutions, and its right-hand side sees the time as one more channel. Its weights are
random; `train_odenet.py` draws the same picture for trained ones.

python examples/layers.py --output-dir examples-output
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from picture import plt, read_output_dir, save
from sklearn.datasets import load_digits
from torch import Tensor, nn

from torchivp.nn import ODEBlock

LAYERS = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0])
CHANNELS = 3


def build_model() -> nn.Sequential:
    """Images ``[B, 1, 8, 8]`` to maps ``[B, 1, 8, 8]``, through a block of three channels."""
    slope = nn.Sequential(
        nn.Conv2d(CHANNELS + 1, 16, kernel_size=3, padding=1),  # one channel more: the time
        nn.Tanh(),
        nn.Conv2d(16, CHANNELS, kernel_size=3, padding=1),
        nn.Tanh(),
    )
    nn.init.normal_(slope[2].weight, std=0.3)  # lively enough to see something move
    block = ODEBlock(slope, t=(0.0, 1.0), rtol=1e-4, atol=1e-4, time_channel=True)
    return nn.Sequential(nn.Conv2d(1, CHANNELS, 3, padding=1), block, nn.Conv2d(CHANNELS, 1, 3, padding=1))


@torch.no_grad()
def run(output_dir: Path) -> tuple[Path, Tensor]:
    """Draws five layers of the block for one image, and returns the path and the states ``[5, 1, 3, 8, 8]``."""
    torch.manual_seed(0)
    image = torch.tensor(load_digits().images[:1, None], dtype=torch.float32) / 16
    before, block, _ = build_model()
    states = block.trajectory(before(image), LAYERS)

    figure, panels = plt.subplots(CHANNELS, 5, figsize=(9.5, 6), layout="constrained")
    limit = float(states.abs().max())
    for column, time in enumerate(LAYERS):
        panels[0, column].set_title(f"layer {float(time):g}")
        for channel in range(CHANNELS):
            panel = panels[channel, column]
            shown = panel.imshow(states[column, 0, channel].numpy(), cmap="RdBu", vmin=-limit, vmax=limit)
            panel.set(xticks=[], yticks=[])
    for channel in range(CHANNELS):
        panels[channel, 0].set_ylabel(f"channel {channel + 1}")
    figure.colorbar(shown, ax=panels, shrink=0.8)
    return save(figure, output_dir / "layers.png"), states


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    path, states = run(read_output_dir(arguments, __doc__))
    print(f"Layer 0.5 of the block has the shape {list(states[2].shape)}. Wrote {path}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
