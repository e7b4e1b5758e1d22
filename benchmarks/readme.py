"""The tables in the README and the docs, from the results of the benchmarks.

    python -m benchmarks.readme

replaces what stands between ``<!-- speed:begin -->`` and ``<!-- speed:end -->`` in the README, and between
``<!-- gradients:begin -->`` and ``<!-- gradients:end -->`` in the docs and beside the gradients' code.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from . import adjoint_evaluations, gradients, odenet, spiral
from .common import RESULTS, ROOT, duration, memory
from .compiled import OURS, TORCHDIFFEQ

_COMPILED = "{}: `solve(runner='compiled')`"
# (what, results, table, the peer's row, our row)
LINES = (
    ("cubic spiral, 1000 outputs, no gradients: `odeint`", "spiral", "1000 outputs", spiral.PEER, spiral.OURS),
    ("the same, `solve(method='dopri5')`", "spiral", "1000 outputs", spiral.PEER, spiral.OURS_SOLVE),
    ("cubic spiral, 2 outputs: `odeint`", "spiral", "2 outputs", spiral.PEER, spiral.OURS),
    ("ODENet, forward and backward: backprop through `odeint`", "odenet", "ReLU", odenet.BACKPROP, odenet.DIRECT),
    ("the same: `odeint_adjoint`", "odenet", "ReLU", odenet.ADJOINT, odenet.OUR_ADJOINT),
    ("`odeint_adjoint` there, `solve` here (discrete)", "odenet", "ReLU", odenet.ADJOINT, odenet.DISCRETE),
    (_COMPILED.format("cubic spiral, 1000 outputs"), "compiled", "spiral, 1000 outputs", TORCHDIFFEQ, OURS),
    (_COMPILED.format("cubic spiral, the end alone"), "compiled", "spiral, the end", TORCHDIFFEQ, OURS),
    (
        _COMPILED.format("cubic spiral, the gradient of 1000 outputs"), "compiled", "spiral, the gradient of 1000 outputs",
        TORCHDIFFEQ, OURS,
    ),
    (
        _COMPILED.format("network 2-50-2, forward and backward"), "compiled",
        "small network: 2-50-2, tanh, batch 1, on [0, 25]", TORCHDIFFEQ, OURS,
    ),
)  # fmt: skip


def table() -> str:
    """The table in Markdown, from the JSON files."""
    results = {name: json.loads((RESULTS / f"{name}.json").read_text()) for name in ("spiral", "odenet", "compiled")}
    rows = ["| | torchdiffeq | torchivp | times faster |", "|---|---|---|---|"]
    for what, name, title, peer, ours in LINES:
        a, b = (seconds(results[name], title, row) for row in (peer, ours))
        rows.append(f"| {what} | {duration(a)} | {duration(b)} | **{a / b:.1f}** |")
    rows.append(_evaluations())
    about = results["odenet"]
    found = ", ".join(f"{name} {about['versions'][name]}" for name in ("torchdiffeq", "torch", "python"))
    cpus = list(dict.fromkeys(results[name]["machine"]["cpu"] for name in ("odenet", "compiled")))
    where = cpus[0] if len(cpus) == 1 else f"{cpus[0]}, and {cpus[1]} for what is compiled"
    return "\n".join([*rows, "", f"Everything with dopri5, float32, rtol 1e-7, atol 1e-9; {where}; {found}."])


def _evaluations() -> str:
    """One line about evaluations: the adjoint's, with 101 outputs."""
    content = json.loads((RESULTS / "adjoint_evaluations.json").read_text())
    rows = {row["name"]: row["evaluations"] for row in content["tables"][0]["rows"]}
    a, b = (rows[f"{name}, 101 outputs"] for name in (adjoint_evaluations.PEER, adjoint_evaluations.OURS))
    what = "spiral, 101 outputs, 1e-4/1e-6: evaluations of `f` in `odeint_adjoint`'s backward pass"
    return f"| {what} | {a} | {b} | {a / b:.1f} fewer |"


def seconds(result: dict[str, Any], title: str, name: str) -> float:
    rows = next(t["rows"] for t in result["tables"] if t["title"] == title)
    return next(row["median_seconds"] for row in rows if row["name"] == name)


def gradients_table() -> str:
    """Time, memory and accuracy of every gradient in Markdown, from the JSON file."""
    result = json.loads((RESULTS / "gradients.json").read_text())
    odenet_table, _, spiral_table, large, *_ = (_rows_by_name(t) for t in result["tables"])
    heads = [f"{case}: {what}" for case in ("ODENet", "spiral") for what in ("time", "evaluations of `f`", "error")]
    heads.append(f"{gradients.STEPS:,} steps of a large state: memory")
    lines = ["| `gradient=` | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for name in {**odenet_table, **spiral_table}:
        cells = [*_costs(odenet_table.get(name)), *_costs(spiral_table.get(name))]
        cells.append(memory(large[name]["peak_bytes"]) if name in large else "")
        label = f"`{name}`" if "(" in name else f'`"{name}"`'
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    cpu, version = result["machine"]["cpu"], result["versions"]["torch"]
    return "\n".join([*lines, "", f"{_ABOUT_GRADIENTS} {cpu}, one thread, torch {version}."])


_ABOUT_GRADIENTS = (
    "One forward and backward pass; evaluations: forward + backward. ODENet: the article's ODE function 32-124-124-32 with ReLU "
    "(whose kinks limit every gradient), batch 100; spiral: 101 outputs; rtol 1e-5, atol 1e-7, tsit5 in float32; the relative "
    "error of the gradient is that of the same solve in float64 against `direct` at 1e-12. Large state: "
    f"{gradients.SIZE:,} numbers, peak bytes of tensors. Measured by `benchmarks/gradients.py`."
)


def _rows_by_name(table: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in table["rows"]}


def _costs(row: dict[str, Any] | None) -> list[str]:
    """Time, evaluations and error."""
    if row is None:
        return [""] * 3
    back = row["backward_evaluations"]
    return [duration(row["median_seconds"]), f"{row['evaluations'] - back} + {back}", f"{row['gradient_error']:.0e}"]


def update() -> None:
    """Write the tables whose results are there into their places."""
    places = (
        ("speed", "README.md", table),
        ("gradients", "docs/gradients.md", gradients_table),
        ("gradients", "src/torchivp/gradients/README.md", gradients_table),
    )
    for name, path, make in places:
        if name == "speed" or (RESULTS / f"{name}.json").is_file():
            _put(name, ROOT / path, make())


def _put(name: str, path: Path, content: str) -> None:
    """Replace what stands between the marks of that name."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    text = path.read_text()
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    if not after:
        raise SystemExit(f"{path.relative_to(ROOT)} has no {begin} ... {end}; put them where the table belongs.")
    path.write_text(f"{before}{begin}\n{content}\n{end}{after}")


if __name__ == "__main__":
    update()
