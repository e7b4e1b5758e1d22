"""The main job in a few minutes: two equations with known solutions, then an ODENet trained on real digits.

    python examples/demo.py --output-dir demo-output

Exits with 1 if the default training misses its target of 97 % of the test digits on average.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import first_order
import oscillator
import torch
from odenet.data import load_digits_data
from odenet.flags import MOST_SEED, whole_number
from odenet.model import find_block
from odenet.pictures import draw_curves, draw_layers
from odenet.training import History, Settings, Training, relative_change, train
from picture import folder
from sklearn.linear_model import LogisticRegression

TARGET = 0.97


@dataclass
class Row:
    """The figures of one seed: accuracies on the test part at the last epoch, and what the block cost and learnt."""

    odenet: float
    without_block: float
    logistic_regression: float
    nfe_forward: float
    nfe_backward: float
    block_moved: float


def run_seed(seed: int, epochs: int, output_dir: Path, picture: bool) -> tuple[Row, History]:
    """Trains the ODENet, the same network without its block and a logistic regression on the split of ``seed``."""
    data = load_digits_data(seed)
    training = Training(Settings(seed=seed, epochs=epochs), data)
    weights = list(find_block(training.model).parameters())
    start = [w.detach().clone() for w in weights]
    history = train(training, label=f"seed {seed}: ODENet")
    plain = train(Training(Settings(seed=seed, epochs=epochs, block=False), data), label=f"seed {seed}: without block")
    linear = LogisticRegression(max_iter=2000).fit(data.x_train.numpy(), data.y_train.numpy())
    if picture:
        draw_layers(training.model, data, output_dir / "layers.png")
    row = Row(
        odenet=history.test_accuracy[-1],
        without_block=plain.test_accuracy[-1],
        logistic_regression=float(linear.score(data.x_test.numpy(), data.y_test.numpy())),
        nfe_forward=statistics.mean(history.nfe_forward),
        nfe_backward=statistics.mean(history.nfe_backward),
        block_moved=relative_change(start, [w.detach() for w in weights]),
    )
    return row, history


def table(rows: dict[int, Row]) -> str:
    """One line for each seed, and their mean."""
    columns = zip(*(asdict(row).values() for row in rows.values()), strict=True)
    mean = Row(*(statistics.mean(column) for column in columns))
    lines = [
        "            test accuracy, last epoch             f per training step       block's weights",
        "  seed     ODENet  no block  logistic regr.       forward   backward        moved by",
    ]
    for name, row in [*((str(seed), row) for seed, row in rows.items()), ("mean", mean)]:
        lines.append(
            f"  {name:<6} {row.odenet:>8.2%}  {row.without_block:>8.2%}  {row.logistic_regression:>14.2%}"
            f"  {row.nfe_forward:>12.1f}  {row.nfe_backward:>9.1f}  {row.block_moved:>14.0%}"
        )
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    new = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    new.add_argument("--output-dir", type=folder, default=Path("demo-output"), help="default: demo-output")
    new.add_argument("--epochs", type=whole_number(1), default=Settings.epochs, help=f"default: {Settings.epochs}")
    new.add_argument("--seeds", type=whole_number(0, MOST_SEED), nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    return new


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 1 if the default training misses its target."""
    flags = parser().parse_args(arguments)
    torch.set_num_threads(1)  # such small matrices gain nothing from more
    begin = time.perf_counter()
    out = flags.output_dir

    print("1. dz/dt = t, z(0) = 0 on [0, 2], against t^2/2")
    _, error = first_order.run(out)
    print(f"   largest error {error:.1e}")
    print("2. m x'' = -k x on [0, 20], against cos and -sin")
    _, there, back = oscillator.run(out)
    print(f"   largest error {there:.1e} there, {back:.1e} there and back")

    print(f"3. An ODENet on 1,797 handwritten digits, {flags.epochs} epochs, 20 % of them held out as the test part")
    settings = Settings()
    print(f"   solver {settings.method} at rtol = atol = {settings.tol:g}, gradient {settings.gradient!r}", flush=True)
    results = {seed: run_seed(seed, flags.epochs, out, picture=seed == flags.seeds[0]) for seed in flags.seeds}
    rows = {seed: row for seed, (row, _) in results.items()}
    draw_curves({f"seed {seed}": history for seed, (_, history) in results.items()}, out / "training.png")
    figures = {"first_order_error": error, "oscillator_error": there, "seeds": {s: asdict(r) for s, r in rows.items()}}
    (out / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")

    print(f"\n{table(rows)}\n")
    print(f"Wrote into {out}/ after {time.perf_counter() - begin:.0f} s:")
    print("  first_order.png  solution against exact")
    print("  oscillator.png   over time, and the phase portrait")
    print("  training.png     loss and accuracy over the epochs")
    print(f"  layers.png       what the block of seed {flags.seeds[0]} holds at layer 0, 0.25, 0.5, 0.75 and 1")
    print("  figures.json     the figures above")
    default = flags.epochs == Settings.epochs and flags.seeds == [0, 1, 2]
    mean = statistics.mean(row.odenet for row in rows.values())
    if default and mean < TARGET:
        print(f"The mean test accuracy {mean:.2%} is below the target of {TARGET:.0%}.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
