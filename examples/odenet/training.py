"""Trains a classifier so that an interrupted training goes on to the very same numbers."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .checkpoint import rng_state, save_checkpoint, set_rng_state
from .data import Data
from .model import build_model, build_model_without_block, find_block
from .progress import progress_bar


@dataclass(frozen=True)
class Settings:
    """Everything that the numbers of a training depend on; docs/design/demo.md says how they were chosen.

    ``data`` is "digits" or "mnist", ``width`` the size of the block's state, ``block=False`` the network without it.
    """

    data: str = "digits"
    method: str = "tsit5"
    gradient: str = "discrete"
    tol: float = 1e-3
    epochs: int = 30
    seed: int = 0
    batch_size: int = 32
    lr: float = 5e-3
    weight_decay: float = 0.1
    width: int = 64
    block: bool = True


@dataclass
class History:
    """One number for each finished epoch.

    Loss, training accuracy and evaluations of f are means over the epoch's training steps; the test accuracy is that at
    its end.
    """

    loss: list[float] = field(default_factory=list)
    train_accuracy: list[float] = field(default_factory=list)
    test_accuracy: list[float] = field(default_factory=list)
    nfe_forward: list[float] = field(default_factory=list)
    nfe_backward: list[float] = field(default_factory=list)


class Training:
    """A network with everything that changes while it is trained, saved and restored as one.

    Args:
        settings: see ``Settings``. The global torch generator is seeded with ``settings.seed``.
        data: images and labels; they decide the device.

    Attributes:
        saved: whether a checkpoint of this training was written.
    """

    def __init__(self, settings: Settings, data: Data):
        self.settings, self.data = settings, data
        torch.manual_seed(settings.seed)
        pixels = data.x_train.shape[1]
        if settings.block:
            self.model = build_model(
                pixels, settings.width, method=settings.method, tol=settings.tol, gradient=settings.gradient
            )
        else:
            self.model = build_model_without_block(pixels, settings.width)
        self.model.to(data.x_train.device)
        self.shuffler = torch.Generator().manual_seed(settings.seed)
        self.steps_per_epoch = len(self._batches(torch.Generator()))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), settings.lr, weight_decay=settings.weight_decay)
        self.scheduler = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, settings.lr, total_steps=settings.epochs * self.steps_per_epoch
        )
        self.history = History()
        self.saved = False

    @property
    def epoch(self) -> int:
        """Number of finished epochs."""
        return len(self.history.loss)

    def run_epoch(self, progress: Any) -> None:
        """One pass over the training part, then the figures of this epoch."""
        block = find_block(self.model)
        if block is not None:
            block.reset_nfe()
        self.model.train()
        total, right, seen = 0.0, 0, 0
        for batch in self._batches(self.shuffler):
            labels = self.data.y_train[batch]
            scores = self.model(self.data.x_train[batch])
            loss = nn.functional.cross_entropy(scores, labels)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.scheduler.step()
            total += loss.item()
            right += int((scores.argmax(1) == labels).sum())
            seen += len(batch)
            progress.update()
        self.history.loss.append(total / self.steps_per_epoch)
        self.history.nfe_forward.append(block.nfe / self.steps_per_epoch if block is not None else 0.0)
        self.history.nfe_backward.append(block.nfe_backward / self.steps_per_epoch if block is not None else 0.0)
        self.history.train_accuracy.append(right / seen)
        self.history.test_accuracy.append(evaluate(self.model, self.data.x_test, self.data.y_test))

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on: nothing but tensors, numbers, strings and containers of them."""
        return {
            "settings": asdict(self.settings),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "shuffler": self.shuffler.get_state(),
            "history": asdict(self.history),
            "rng": rng_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Puts back what ``state_dict`` returned. The settings must be the same."""
        if Settings(**state["settings"]) != self.settings:
            raise ValueError(f"the checkpoint was made with {state['settings']}, this training has {self.settings}")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.shuffler.set_state(state["shuffler"])
        self.history = History(**state["history"])
        set_rng_state(state["rng"])

    def _batches(self, generator: torch.Generator) -> list[Tensor]:
        """The training images in a new order, as lists of indices; a last batch of one is left out (batch norm)."""
        order = torch.randperm(len(self.data.x_train), generator=generator)
        parts = [part for part in order.split(self.settings.batch_size) if len(part) > 1]
        return [part.to(self.data.x_train.device) for part in parts]


def train(training: Training, *, checkpoint: Path | None = None, label: str = "", progress: bool = True) -> History:
    """Runs the epochs that are left, and writes ``checkpoint`` before the first and after each of them."""
    steps, epochs = training.steps_per_epoch, training.settings.epochs
    bar = progress_bar(steps * epochs, steps * training.epoch, label, progress)
    try:
        _save(training, checkpoint)
        while training.epoch < epochs:
            training.run_epoch(bar)
            _save(training, checkpoint)
            note = f"epoch {training.epoch}/{epochs}, loss {training.history.loss[-1]:.3f}"
            bar.set_postfix_str(f"{note}, test {training.history.test_accuracy[-1]:.2%}")
    finally:
        bar.close()
    return training.history


def _save(training: Training, checkpoint: Path | None) -> None:
    if checkpoint is not None:
        save_checkpoint(checkpoint, training.state_dict())
        training.saved = True


@torch.no_grad()
def evaluate(model: nn.Module, x: Tensor, y: Tensor, batch_size: int = 320) -> float:
    """The share of the images ``x: [N, pixels]`` whose highest score is the label ``y: [N]``."""
    model.eval()
    guesses = torch.cat([model(part).argmax(1) for part in x.split(batch_size)])
    return (guesses == y).double().mean().item()


def relative_change(before: list[Tensor], after: list[Tensor]) -> float:
    """The norm of all changes over the norm of all values before, for two lists of tensors of the same shapes."""
    moved = sum(float((b - a).square().sum()) for a, b in zip(before, after, strict=True))
    return (moved / sum(float(a.square().sum()) for a in before)) ** 0.5
