"""What the package promises to those who import it."""

from __future__ import annotations

import importlib.metadata
import inspect
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import torchivp
import torchivp.methods

ROOT = Path(__file__).resolve().parents[1]
PROMISED = {
    *("solve", "Solution", "Stats", "Status", "Event", "Interpolation", "PID", "FixedSteps"),
    *("odeint", "odeint_adjoint", "odeint_event", "odeint_dense"),
    *("TorchIVPError", "SolveError", "nn", "compat", "__version__"),
}
OPTIONAL = ("scipy", "matplotlib", "sklearn", "torchdiffeq", "diffrax", "jax", "beartype")
MODULES = sorted(m.name for m in pkgutil.walk_packages(torchivp.__path__, "torchivp."))


def test_promised_names_are_public() -> None:
    assert set(torchivp.__all__) >= PROMISED
    for name in torchivp.__all__:
        assert hasattr(torchivp, name), name


@pytest.mark.parametrize("name", sorted(set(torchivp.__all__) - {"__version__"}))
def test_public_names_have_docstrings(name: str) -> None:
    assert (getattr(torchivp, name).__doc__ or "").strip()


@pytest.mark.parametrize("module", MODULES)
def test_every_module_imports_with_its_types_checked(module: str) -> None:
    assert (importlib.import_module(module).__doc__ or "").strip(), f"{module} has no docstring"


def test_signature_of_solve() -> None:
    expected = {
        "method": "tsit5",
        "rtol": 1e-5,
        "atol": 1e-7,
        "dt": None,
        "controller": None,
        "max_steps": 100_000,
        "save": "t",
        "dense": False,
        "events": (),
        "stop_times": (),
        "jump_times": (),
        "gradient": "discrete",
        "runner": "eager",
        "progress": False,
        "on_step": None,
        "throw": True,
    }
    parameters = inspect.signature(torchivp.solve).parameters
    assert list(parameters)[:4] == ["f", "y0", "t", "args"]
    assert parameters["args"].default is None
    for name, default in expected.items():
        assert parameters[name].kind is inspect.Parameter.KEYWORD_ONLY
        assert parameters[name].default == default, name


def test_version_is_the_same_everywhere() -> None:
    version = torchivp.__version__
    assert importlib.metadata.version("torchivp") == version
    assert re.search(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)[1] == version
    assert re.search(r"^## \[(.*?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[1] == version


def test_import_needs_no_extras() -> None:
    """A fresh interpreter imports the package without the optional ones (tqdm: torch does) and without warnings."""
    code = f"import sys, torchivp; print([m for m in {OPTIONAL} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "[]"


@pytest.mark.skipif(os.environ.get("TYPECHECK") != "1", reason="types are checked with TYPECHECK=1")
def test_types_are_checked_in_this_run() -> None:
    """The import hook of conftest.py is in force."""
    from torchivp.tolerance import rms_norm

    with pytest.raises(TypeError, match="Type-check error"):
        rms_norm("no tensor")


def test_readme_lists_every_method() -> None:
    table = re.search(r"<!-- methods:begin -->(.*)<!-- methods:end -->", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    rows = [line.split("|")[1] for line in table.strip().splitlines()[2:]]
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == {
        *torchivp.methods.METHODS,
        *torchivp.methods.table.MULTISTEP_METHODS,
        *torchivp.methods.GEOMETRIC_METHODS,
        *torchivp.methods.SWITCHING_METHODS,
    }
