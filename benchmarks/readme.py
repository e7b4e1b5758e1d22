"""The README's speed table, from the results of the benchmarks.

    python -m benchmarks.readme

replaces what stands between ``<!-- speed:begin -->`` and ``<!-- speed:end -->``.
"""

from __future__ import annotations

import json
from typing import Any

from . import adjoint_evaluations, odenet, spiral
from .common import RESULTS, ROOT, duration

BEGIN, END = "<!-- speed:begin -->", "<!-- speed:end -->"
# (what, results, table, the peer's row, our row)
LINES = (
    ("cubic spiral, 1000 outputs, no gradients: `odeint`", "spiral", "1000 outputs", spiral.PEER, spiral.OURS),
    ("the same, `solve(method='dopri5')`", "spiral", "1000 outputs", spiral.PEER, spiral.OURS_SOLVE),
    ("cubic spiral, 2 outputs: `odeint`", "spiral", "2 outputs", spiral.PEER, spiral.OURS),
    ("ODENet, forward and backward: backprop through `odeint`", "odenet", "ReLU", odenet.BACKPROP, odenet.DIRECT),
    ("the same: `odeint_adjoint`", "odenet", "ReLU", odenet.ADJOINT, odenet.OUR_ADJOINT),
    ("`odeint_adjoint` there, `solve` here (discrete)", "odenet", "ReLU", odenet.ADJOINT, odenet.DISCRETE),
)


def table() -> str:
    """The table in Markdown, from the JSON files."""
    results = {name: json.loads((RESULTS / f"{name}.json").read_text()) for name in ("spiral", "odenet")}
    rows = ["| | torchdiffeq | torchivp | times faster |", "|---|---|---|---|"]
    for what, name, title, peer, ours in LINES:
        a, b = (seconds(results[name], title, row) for row in (peer, ours))
        rows.append(f"| {what} | {duration(a)} | {duration(b)} | **{a / b:.1f}** |")
    rows.append(_evaluations())
    about = results["odenet"]
    found = ", ".join(f"{name} {about['versions'][name]}" for name in ("torchdiffeq", "torch", "python"))
    cpu = about["machine"]["cpu"]
    return "\n".join([*rows, "", f"Everything with dopri5, float32, rtol 1e-7, atol 1e-9; {cpu}; {found}."])


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


def update() -> None:
    """Write the table into README.md."""
    path = ROOT / "README.md"
    text = path.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    if not after:
        raise SystemExit(f"README.md has no {BEGIN} ... {END}; put them where the table belongs.")
    path.write_text(f"{before}{BEGIN}\n{table()}\n{END}{after}")


if __name__ == "__main__":
    update()
