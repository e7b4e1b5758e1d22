"""The pictures of a training: its curves, and what the block holds on the way from time 0 to time 1."""

from __future__ import annotations

from pathlib import Path

import torch
from matplotlib.ticker import MaxNLocator
from picture import plt, save
from torch import Tensor, nn

from .data import Data
from .model import find_block
from .training import History

LAYERS = (0.0, 0.25, 0.5, 0.75, 1.0)


def draw_curves(histories: dict[str, History], path: Path) -> Path:
    """Training loss, and accuracy on training and test part, over the epochs; one colour for each history."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for number, (name, history) in enumerate(histories.items()):
        epochs = range(1, len(history.loss) + 1)
        left.plot(epochs, history.loss, color=f"C{number}", marker=".", label=name)
        last = f"{name}: {history.test_accuracy[-1]:.2%}"
        right.plot(
            epochs, [100 * a for a in history.test_accuracy], color=f"C{number}", marker=".", label=f"test, {last}"
        )
        right.plot(epochs, [100 * a for a in history.train_accuracy], color=f"C{number}", marker=".", ls=":", lw=1)
    right.plot([], [], color="grey", ls=":", lw=1, label="training part, during the epoch")
    left.set(title="Loss on the training part", xlabel="epoch", ylabel="cross entropy", yscale="log")
    right.set(title="Accuracy", xlabel="epoch", ylabel="per cent right", ylim=(max(0.0, _lowest(histories)), 100.3))
    for axes in (left, right):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3)
        axes.legend()
    return save(figure, path)


def _lowest(histories: dict[str, History]) -> float:
    """Where the accuracy axis starts: below everything after the first tenth of the epochs, and at most at 90."""
    parts = [part for h in histories.values() for part in (h.test_accuracy, h.train_accuracy)]
    seen = [a for part in parts for a in part[len(part) // 10 :]]
    return min(90.0, 100 * min(seen) - 2)


@torch.no_grad()
def layers(model: nn.Sequential, x: Tensor) -> Tensor:
    """What the block holds at the times ``LAYERS``: images ``[N, pixels]`` to states ``[5, N, width]``."""
    model.eval()
    block = find_block(model)
    if block is None:
        raise ValueError("the model has no ODEBlock; build it with build_model")
    for module in model:
        if module is block:
            return block.trajectory(x, torch.tensor(LAYERS, device=x.device))
        x = module(x)
    raise ValueError("the ODEBlock must be a direct member of the model")


def principal_axes(states: Tensor) -> tuple[Tensor, Tensor]:
    """Mean ``[D]`` and the two directions ``[D, 2]`` in which ``states: [N, D]`` vary most."""
    mean = states.mean(0)
    return mean, torch.linalg.svd(states - mean, full_matrices=False).Vh[:2].T


def draw_layers(model: nn.Sequential, data: Data, path: Path, most: int = 1000) -> Path:
    """The test images' states at five times, in two principal components of the end, coloured by digit."""
    states = layers(model, data.x_test[:most]).cpu()
    digits = data.y_test[:most].cpu()
    mean, axes2 = principal_axes(states[-1])
    points = (states - mean) @ axes2
    figure, panels = plt.subplots(1, 5, figsize=(18, 4.4), sharex=True, sharey=True, layout="constrained")
    for panel, time, xy in zip(panels, LAYERS, points, strict=True):
        for digit in range(10):
            part = xy[digits == digit]
            panel.scatter(*part.T, s=26, lw=0, marker=f"${digit}$", color=f"C{digit}", label=f"{digit}")
        panel.set(title=f"layer {time:g}", xlabel="component 1")
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("component 2")
    figure.legend(*panels[0].get_legend_handles_labels(), title="digit", loc="outside right center", markerscale=2)
    figure.suptitle("What the ODE block holds on its way (test images, principal components of layer 1)")
    return save(figure, path)
