"""The wheel: it builds, installs beside the run-time dependencies alone, and runs the README's five lines there."""

from __future__ import annotations

import re
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run([str(c) for c in command], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", out, ROOT, cwd=out)  # sdist, and the wheel from it
    (wheel,) = out.glob("*.whl")
    return wheel


def test_contents(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    sources = {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src" / "torchivp").rglob("*.py")}
    assert names >= sources | {"torchivp/py.typed"}
    assert not {name for name in names if not name.startswith(("torchivp/", "torchivp-"))}
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_five_lines_in_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt", wheel, cwd=tmp_path)
    installed = run(python, "-m", "pip", "freeze", cwd=tmp_path).lower()
    assert "torchivp" in installed
    assert not re.search(r"^(scipy|matplotlib|tqdm|beartype|pytest)\b", installed, re.MULTILINE)

    start = re.search(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)[1]
    assert len(start.splitlines()) == 5
    (tmp_path / "start.py").write_text(start)
    out = run(python, "-W", "error", "start.py", cwd=tmp_path)
    assert "tensor([0.0067, 0.0135]" in out

    version = run(python, "-c", "import torchivp; print(torchivp.__version__)", cwd=tmp_path)
    assert wheel.name.startswith(f"torchivp-{version.strip()}-")
