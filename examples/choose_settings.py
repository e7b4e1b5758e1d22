"""How the settings of the ODENet were chosen: cross-validation on images that no test part of the demo holds.

    python examples/choose_settings.py --repeats 2

The demo's test parts for the seeds 0, 1 and 2 overlap with each other's training parts. Left out here are the images of
all three, which leaves 917 of 1,797; what is best on these was chosen without a look at any test image.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from odenet.data import Data, digit_scans, digit_split
from odenet.flags import whole_number
from odenet.training import Settings, Training, train
from sklearn.model_selection import StratifiedKFold

TEST_SEEDS = (0, 1, 2)
CANDIDATES: tuple[dict[str, float], ...] = (
    {},
    {"width": 32},
    {"epochs": 20},
    {"epochs": 40},
    {"batch_size": 16},
    {"batch_size": 100},
    {"lr": 2e-3},
    {"lr": 1e-2},
    {"weight_decay": 1.0},
    {"block": False},
)


def folds(repeats: int) -> Iterator[tuple[int, Data]]:
    """Five stratified folds for each repeat, with the repeat's number as seed; the "test part" is the fold left out."""
    x, y = digit_scans()
    untouched = torch.ones(len(y), dtype=torch.bool)
    for seed in TEST_SEEDS:
        untouched[digit_split(y, seed)[1]] = False
    x, y = x[untouched], y[untouched]
    for seed in range(repeats):
        for fit, held_out in StratifiedKFold(5, shuffle=True, random_state=seed).split(x.numpy(), y.numpy()):
            yield seed, Data(x[fit], y[fit], x[held_out], y[held_out])


def score(change: dict[str, float], repeats: int) -> list[float]:
    """Accuracies on the folds left out, at the last epoch, with the default settings but for ``change``."""
    settings = replace(Settings(), **change)
    return [
        train(Training(replace(settings, seed=seed), data), progress=False).test_accuracy[-1]
        for seed, data in folds(repeats)
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a Markdown table, the default settings first; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=whole_number(1), default=1, help="of the five folds, default: 1")
    repeats = parser.parse_args(arguments).repeats
    torch.set_num_threads(1)
    print(f"{Settings()}\n\n| change | accuracy | standard error |\n|---|---|---|")
    for change in CANDIDATES:
        scores = score(change, repeats)
        name = ", ".join(f"{key} = {value}" for key, value in change.items()) or "none"
        error = statistics.stdev(scores) / len(scores) ** 0.5
        print(f"| {name} | {statistics.mean(scores):.2%} | {error:.2%} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
