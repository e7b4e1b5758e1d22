"""Every Python block of README.md and docs/ runs; a file's blocks run in order, in one namespace.

A block that cannot run is fenced with ``{ .python .no-run }``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import torchivp.compat

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```python\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
SHOULD_BE_BLOCK = re.compile(r"^ *(```|~~~)(py|Python|python3|pycon|python .*)$|^ +```python$", re.MULTILINE)


def page_name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(text: str) -> list[str]:
    """The code blocks, each behind as many empty lines as stand before it: tracebacks show the page's line."""
    return ["\n" * text.count("\n", 0, m.start("code")) + m["code"] for m in BLOCK.finditer(text)]


@pytest.fixture(autouse=True)
def _torchdiffeq_stays() -> Iterator[None]:
    """Pages that put torchivp in torchdiffeq's place do so for themselves."""
    yield
    torchivp.compat.uninstall()


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "__main__"}
    for code in blocks(page.read_text()):
        exec(compile(code, str(page), "exec", dont_inherit=True), namespace)


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_no_block_hides_behind_its_spelling(page: Path) -> None:
    hidden = [m[0] for m in SHOULD_BE_BLOCK.finditer(page.read_text())]
    assert not hidden, f"write ```python, or {{ .python .no-run }} for what cannot run: {hidden}"


def test_every_design_note_is_in_their_index() -> None:
    folder = ROOT / "docs" / "design"
    index = (folder / "index.md").read_text()
    missing = [note.name for note in folder.glob("*.md") if note.name != "index.md" and f"({note.name})" not in index]
    assert not missing, f"add to docs/design/index.md: {missing}"
