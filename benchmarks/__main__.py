"""Run the benchmarks, write their results, and put their tables into the README and the docs.

    python -m benchmarks [--rounds 7] [NAME ...]

The exit status says whether all bars were met. On a machine with other work to do the figures scatter: quote ratios.
"""

from __future__ import annotations

import sys

from . import adjoint_evaluations, compiled, gradients, odenet, per_sample, readme, spiral, stiff, training
from .common import arguments, measure

BENCHMARKS = {
    "spiral": spiral.run,
    "odenet": odenet.run,
    "adjoint_evaluations": adjoint_evaluations.run,
    "training": training.run,
    "gradients": gradients.run,
    "per_sample": per_sample.run,
    "compiled": compiled.run,
    "stiff": stiff.run,
}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of {', '.join(BENCHMARKS)}; all without it")
    given = parser.parse_args()
    unknown = set(given.names) - set(BENCHMARKS)
    if unknown:
        parser.error(f"there is no benchmark {', '.join(sorted(unknown))}; choose from {', '.join(BENCHMARKS)}")
    reports = [measure(BENCHMARKS[name], given.rounds) for name in given.names or BENCHMARKS]
    readme.update()
    missed = [bar for report in reports for bar in report.bars if not bar.met]
    for bar in missed:
        print(bar)
    print(f"{sum(len(r.bars) for r in reports) - len(missed)} bars met, {len(missed)} missed")
    sys.exit(bool(missed))


if __name__ == "__main__":
    main()
