"""Trains an ODENet on handwritten digits.

    python examples/train_odenet.py                                    # scikit-learn's bundled scans
    python examples/train_odenet.py --data mnist --data-dir DIR        # MNIST from its four IDX files
    python examples/train_odenet.py --resume odenet-output/checkpoint.pt

A checkpoint is written after every epoch. A training that was stopped and resumed ends with the same numbers, bit for
bit, as one that ran through (on the same machine, device and versions).
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from odenet.checkpoint import CheckpointError, load_checkpoint
from odenet.data import Data, load_digits_data, load_mnist_data
from odenet.flags import MOST_SEED, device, positive_float, read_settings, whole_number
from odenet.idx import DataFileError
from odenet.pictures import draw_curves, draw_layers
from odenet.training import Settings, Training, train
from picture import folder

import torchivp

OUTPUT_DIR = Path("odenet-output")


def parser() -> argparse.ArgumentParser:
    """The command line. Flags of ``Settings`` default to None here, so that one sees which were given."""
    new = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    new.add_argument("--data", choices=["digits", "mnist"], help="default: digits")
    new.add_argument("--data-dir", type=Path, help="folder of the four MNIST files, gzipped or not")
    new.add_argument("--method", help=f"solver of the block, default: {Settings.method}")
    new.add_argument("--gradient", help=f"discrete, direct or adjoint, default: {Settings.gradient}")
    new.add_argument("--tol", type=positive_float, help=f"rtol and atol of the block, default: {Settings.tol}")
    new.add_argument("--epochs", type=whole_number(1), help=f"default: {Settings.epochs}")
    new.add_argument(
        "--seed", type=whole_number(0, MOST_SEED), help=f"weights, order and split, default: {Settings.seed}"
    )
    new.add_argument("--batch-size", type=whole_number(2), help=f"default: {Settings.batch_size}")
    new.add_argument("--lr", type=positive_float, help=f"highest learning rate, default: {Settings.lr}")
    new.add_argument("--device", type=device, default="cpu", help="cpu, cuda, cuda:1, mps, default: cpu")
    new.add_argument("--output-dir", type=folder, default=OUTPUT_DIR, help=f"default: {OUTPUT_DIR}")
    new.add_argument("--checkpoint", type=Path, help="default: OUTPUT_DIR/checkpoint.pt, or the resumed file")
    new.add_argument("--resume", type=Path, metavar="CHECKPOINT", help="go on from this file, with its settings")
    return new


def load_data(name: str, data_dir: Path | None, seed: int) -> Data:
    """The data that ``--data`` and ``--data-dir`` ask for."""
    if name == "digits":
        if data_dir is not None:
            raise ValueError(
                f"--data-dir {data_dir} is for MNIST, and --data is digits, which need no files. Write --data mnist, or "
                f"leave --data-dir out"
            )
        return load_digits_data(seed)
    if data_dir is None:
        raise ValueError("--data mnist needs --data-dir DIR, the folder of the four MNIST files")
    return load_mnist_data(data_dir)


def prepare(flags: argparse.Namespace) -> Training:
    """The training that the flags ask for, new or resumed; ``flags.checkpoint`` is filled in."""
    state = load_checkpoint(flags.resume) if flags.resume else None
    flags.output_dir.mkdir(parents=True, exist_ok=True)
    flags.checkpoint = flags.checkpoint or flags.resume or flags.output_dir / "checkpoint.pt"
    settings = read_settings(flags, state)
    data = load_data(settings.data, flags.data_dir, settings.seed).to(flags.device)
    training = Training(settings, data)
    if state is not None:
        training.load_state_dict(state)
        print(f"Going on from {flags.resume} after epoch {training.epoch} of {settings.epochs}.")
    return training


def run(flags: argparse.Namespace, training: Training) -> None:
    """Trains, and writes the checkpoint, the figures and the pictures."""
    settings = training.settings
    history = train(training, checkpoint=flags.checkpoint, label=settings.data)
    figures = {"settings": asdict(settings), "history": asdict(history)}
    (flags.output_dir / "training.json").write_text(json.dumps(figures, indent=1) + "\n")
    draw_curves({f"seed {settings.seed}": history}, flags.output_dir / "training.png")
    draw_layers(training.model, training.data, flags.output_dir / "layers.png")
    print(f"Test accuracy after epoch {training.epoch}: {history.test_accuracy[-1]:.2%}")
    forward, backward = history.nfe_forward[-1], history.nfe_backward[-1]
    print(f"Evaluations of f per training step: {forward:.1f} forward, {backward:.1f} backward")
    print(f"Wrote {flags.checkpoint} and, in {flags.output_dir}: training.json, training.png, layers.png")


def how_to_go_on(flags: argparse.Namespace) -> str:
    """The command that resumes from this run's checkpoint. Settings are in there; folders and the device are not."""
    command = ["python", "examples/train_odenet.py", "--resume", str(flags.checkpoint)]
    if flags.data_dir is not None:
        command += ["--data-dir", str(flags.data_dir)]
    if flags.output_dir != OUTPUT_DIR:
        command += ["--output-dir", str(flags.output_dir)]
    if flags.device != torch.device("cpu"):
        command += ["--device", str(flags.device)]
    return shlex.join(command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, 1 after an error, 130 after Ctrl-C."""
    torch.set_num_threads(1)  # such small matrices gain nothing from more
    flags = parser().parse_args(arguments)
    training = None
    try:
        training = prepare(flags)
        run(flags, training)
    except KeyboardInterrupt:
        saved = training is not None and training.saved
        hint = f"Go on with: {how_to_go_on(flags)}" if saved else "Nothing was written yet."
        print(f"\nStopped. {hint}", file=sys.stderr)
        return 130
    except (CheckpointError, DataFileError, torchivp.TorchIVPError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
