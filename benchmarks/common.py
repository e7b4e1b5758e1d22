"""What the benchmarks share: interleaved timing, errors, the machine, and results as JSON and Markdown."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

torch.set_num_threads(1)

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PACKAGES = ("torch", "torchivp", "torchdiffeq", "torchode", "diffrax", "jax", "numpy")


@dataclass
class Row:
    """One contender and what was measured of it.

    Attributes:
        name: what was called.
        ours: torchivp, or a peer.
        seconds: wall clock time of every run, in order; cpu_seconds: processor time, which other work on the machine
            disturbs less.
        error: largest absolute error of the values.
        gradient_error: largest absolute error of the gradient, over its largest entry.
        evaluations: calls of ``f`` in one run, forward and backward; None where they cannot be counted.
        backward_evaluations: of these, calls in the backward pass, where they are counted apart.
        attempted: attempted steps, of all rows of a batch together; longest: of the row that takes most.
        peak_bytes: of tensors at any time of one run, beside what was there before.
        compile_seconds: of a jitted peer; not part of ``seconds``.
        note: anything else worth saying.
    """

    name: str
    ours: bool
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    error: float | None = None
    gradient_error: float | None = None
    evaluations: int | None = None
    backward_evaluations: int | None = None
    attempted: int | None = None
    longest: int | None = None
    peak_bytes: int | None = None
    compile_seconds: float | None = None
    note: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


@dataclass
class Bar:
    """A figure that has to be reached.

    Attributes:
        what: in words.
        measured, required: the figure, and its bound: from below, or from above where ``at_most``.
    """

    what: str
    measured: float
    required: float
    at_most: bool = False

    @property
    def met(self) -> bool:
        return self.measured <= self.required if self.at_most else self.measured >= self.required

    def __str__(self) -> str:
        sign = "at most" if self.at_most else "at least"
        verdict = "met" if self.met else "MISSED"
        return f"{self.what}: {self.measured:.3g} ({sign} {self.required:g}): {verdict}"


@dataclass
class Table:
    """One comparison: contenders on the same work."""

    title: str
    rows: list[Row]

    def row(self, name: str) -> Row:
        return next(row for row in self.rows if row.name == name)

    def ratio(self, peer: str, ours: str) -> float:
        """How many times faster than the peer (of the medians)."""
        return self.row(peer).median / self.row(ours).median


@dataclass
class Report:
    """The outcome of one script.

    Attributes:
        threads: of PyTorch.
    """

    name: str
    question: str
    tables: list[Table]
    bars: list[Bar]
    threads: int = 1


_TURN = 0.05  # seconds


def timed(rows: list[Row], contenders: dict[str, Callable[[], Any]], rounds: int) -> None:
    """Time the contender of every row; they take turns, so that a slow minute of the machine meets them all.

    Each turn begins with a call that is not timed. While it runs, memory that the contender before has freed is joined, its
    garbage is collected, and the caches fill again: what happens once in a loop that solves time after time. Then come as many
    calls in a row as take a twentieth of a second, of which the mean counts, as ``timeit`` has it.
    """
    for _ in range(rounds):
        for row in rows:
            run = contenders[row.name]
            start = time.perf_counter()
            run()
            calls = max(1, round(_TURN / (time.perf_counter() - start)))
            wall, cpu = time.perf_counter(), time.process_time()
            for _ in range(calls):
                run()
            row.seconds.append((time.perf_counter() - wall) / calls)
            row.cpu_seconds.append((time.process_time() - cpu) / calls)


class Counted:
    """``f`` with a counter of its calls."""

    def __init__(self, f: Callable[..., Tensor]):
        self.f = f
        self.calls = 0

    def __call__(self, *args: Any) -> Tensor:
        self.calls += 1
        return self.f(*args)


def largest_error(values: Any, reference: Tensor) -> float:
    return float((torch.as_tensor(values).detach().double().reshape(reference.shape) - reference).abs().max())


def error_bar(what: str, ours: float | None, peer: float | None) -> Bar:
    return Bar(f"error of {what} (x the peer's)", (ours or 0.0) / (peer or 1.0), 1.5, at_most=True)


def machine() -> dict[str, Any]:
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {"cpu": cpu_name(), "cores": os.cpu_count(), "os": platform.platform(terse=True), "load_at_start": load}


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [
            line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        if names:
            return names[0]
    return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def commit() -> str:
    """The commit that was measured, marked where the working tree differs from it."""
    try:
        out = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            cwd=ROOT, capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return out.stdout.strip()


def write(report: Report, about: dict[str, Any]) -> None:
    """``results/<name>.json`` and ``results/<name>.md``."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    tables = [
        {"title": t.title, "rows": [asdict(r) | ({"median_seconds": r.median} if r.seconds else {}) for r in t.rows]}
        for t in report.tables
    ]
    bars = [asdict(b) | {"met": b.met} for b in report.bars]
    about = about | {"threads": report.threads}
    content = {"name": report.name, "question": report.question, **about, "tables": tables, "bars": bars}
    (RESULTS / f"{report.name}.json").write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    (RESULTS / f"{report.name}.md").write_text(markdown(report, about))


def markdown(report: Report, about: dict[str, Any]) -> str:
    """The report for people."""
    lines = [f"# {report.name}", "", report.question, ""]
    for table in report.tables:
        lines += [f"## {table.title}", "", *markdown_table(table), ""]
    lines += ["## Bars", "", *(f"- {bar}" for bar in report.bars), ""]
    found = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    m = about["machine"]
    used = "one thread" if report.threads == 1 else f"{report.threads} threads"
    lines += [f"{m['cpu']}, {m['cores']} cores, {used} used, {m['os']}; {found}; commit {about['commit']}.", ""]
    return "\n".join(lines)


def markdown_table(table: Table) -> list[str]:
    """The columns that hold something."""
    columns: dict[str, Callable[[Row], str]] = {
        "": lambda r: f"**{r.name}**" if r.ours else r.name,
        "median": lambda r: duration(r.median) if r.seconds else "",
        "fastest": lambda r: duration(min(r.seconds)) if r.seconds else "",
        "CPU time": lambda r: duration(statistics.median(r.cpu_seconds)) if r.seconds else "",
        "evaluations of f": lambda r: "" if r.evaluations is None else str(r.evaluations),
        "of them backward": lambda r: "" if r.backward_evaluations is None else str(r.backward_evaluations),
        "attempted steps": lambda r: "" if r.attempted is None else f"{r.attempted:,}",
        "of the longest row": lambda r: "" if r.longest is None else f"{r.longest:,}",
        "peak memory": lambda r: "" if r.peak_bytes is None else memory(r.peak_bytes),
        "error": lambda r: "" if r.error is None else f"{r.error:.1e}",
        "error of the gradient": lambda r: "" if r.gradient_error is None else f"{r.gradient_error:.1e}",
        "note": lambda r: r.note + (f" compiled in {r.compile_seconds:.1f} s" if r.compile_seconds else ""),
    }
    used = {head: cell for head, cell in columns.items() if any(cell(row) for row in table.rows)}
    body = ["| " + " | ".join(cell(row) for cell in used.values()) + " |" for row in table.rows]
    return ["| " + " | ".join(used) + " |", "|---" * len(used) + "|", *body]


def duration(seconds: float) -> str:
    if seconds < 1e-3:
        return f"{seconds * 1e6:.3g} us"
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def memory(size: float) -> str:
    if size < 1e5:
        return f"{size / 1e3:.3g} kB"
    return f"{size / 1e6:.3g} MB" if size < 1e9 else f"{size / 1e9:.3g} GB"


def measure(run: Callable[[int], Report], rounds: int) -> Report:
    """Run one benchmark, print its report and write its results."""
    about = {"machine": machine(), "versions": versions(), "commit": commit(), "rounds": rounds}
    report = run(rounds)
    write(report, about)
    print(markdown(report, about), flush=True)
    return report


def arguments(description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rounds", type=_rounds, default=7, help="timed runs of each contender, at least 5; their median is reported"
    )
    return parser


def _rounds(text: str) -> int:
    if int(text) < 5:
        raise argparse.ArgumentTypeError("a median needs at least 5 rounds")
    return int(text)


def main(run: Callable[[int], Report]) -> None:
    """Run one benchmark from the command line; the exit status says whether all bars were met."""
    rounds = arguments(sys.modules[run.__module__].__doc__).parse_args().rounds
    sys.exit(not all(bar.met for bar in measure(run, rounds).bars))
