"""``make docs`` is strict: it builds the documentation as it is, and fails for a link or a docstring that is wrong."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EVENTS = "src/torchivp/events.py"


@pytest.fixture
def build(tmp_path: Path) -> Callable[[], subprocess.CompletedProcess[str]]:
    """Runs the Makefile's recipe in ``tmp_path``, a copy of what it reads, with the interpreter of the tests."""
    for name in ("docs", "src"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("mkdocs.yml", "Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)

    def run() -> subprocess.CompletedProcess[str]:
        stamp = f"{sys.prefix}/.installed-docs"
        command = ["make", "docs", f"VENV={sys.prefix}", "-o", stamp]
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    return run


def test_it_builds(build: Callable[[], subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    done = build()
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    assert (tmp_path / "site" / "index.html").is_file()


@pytest.mark.parametrize(
    ("path", "old", "new", "warning"),
    [
        ("docs/index.md", "", "\n[nowhere](nowhere.md)\n", "nowhere.md"),
        ("docs/index.md", "", "\n[no such heading](events.md#nowhere)\n", "nowhere"),
        ("docs/api.md", "", "\n::: torchivp.nowhere\n", "torchivp.nowhere"),
        (EVENTS, "        direction: +1 for", "        +1 for", "events.py"),
    ],
    ids=["page", "heading", "name", "docstring"],
)
def test_what_is_wrong_fails_the_build(
    build: Callable[[], subprocess.CompletedProcess[str]], tmp_path: Path, path: str, old: str, new: str, warning: str
) -> None:
    text = (tmp_path / path).read_text()
    assert old in text
    (tmp_path / path).write_text(text.replace(old, new) if old else text + new)
    done = build()
    assert done.returncode != 0
    assert warning in done.stderr
