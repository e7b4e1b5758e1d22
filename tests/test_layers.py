"""The house rules that a parser can check: who may import whom, no ``if method ==``, no assert, nothing overlong."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SRC = Path(__file__).resolve().parents[1] / "src" / "torchivp"

# From the ground up. A module may import its own layer and those below; its longest matching name decides its layer.
LAYERS: list[tuple[str, ...]] = [
    (
        "_version",
        "_types",
        "autocast",
        "collectives",
        "errors",
        "estimates",
        "exchange",
        "manifolds",
        "names",
        "randomness",
        "rows_of_vmap",
        "span",
        "split",
        "state",
        "tolerance",
        "transforms",
    ),
    (
        "field",
        "forcing",
        "problem",
        "partitioned",
        "interpolation",
        "trajectory",
        "solution",
        "plotting",
        "per_sample.problem",
        "per_sample.tolerance",
        "per_sample.trajectory",
        "per_sample.dense",
        "methods.base",
        "methods.tableau",
    ),
    ("linalg",),
    ("methods", "controllers", "saving", "events", "per_sample.limits", "per_sample.saving", "per_sample.solution"),
    ("plan", "loop", "out_of_steps", "stiffness", "failures", "precision", "progress", "per_sample"),
    ("runners",),
    ("gradients",),
    ("single", "per_sample.solve", "per_sample.joining", "vmapped", "vmapped_in_sight"),
    ("solve", "members"),
    ("ensemble",),
    ("compat", "nn"),
    ("",),  # torchivp itself: re-exports
]

# What a name is compared with decides behaviour somewhere else: pieces are looked up in tables, not chosen by `if`.
PIECES = {"method", "controller", "gradient", "runner", "solver"}

FUNCTION_SMELL, FUNCTION_LIMIT = 60, 100
FILE_SMELL, FILE_LIMIT = 300, 450

FILES = {path.relative_to(SRC): path for path in sorted(SRC.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text()) for name, path in FILES.items()}


def module_name(file: Path) -> str:
    """``methods/erk/__init__.py`` -> ``methods.erk``; the package itself is the empty name."""
    parts = file.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(file): file for file in FILES}


def layer_of(module: str) -> int | None:
    """Number of the layer whose longest entry is ``module`` or a package around it; None if there is none."""
    best = max(
        (entry for layer in LAYERS for entry in layer if module == entry or (entry and module.startswith(entry + "."))),
        key=len,
        default=None,
    )
    return next((i for i, layer in enumerate(LAYERS) if best in layer), None)


def statements(tree: ast.AST, *, inside_functions: bool) -> Iterator[ast.AST]:
    """All nodes that run, without ``if TYPE_CHECKING:`` blocks; function bodies only where asked for."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not inside_functions:
            continue
        yield node
        yield from statements(node, inside_functions=inside_functions)


def imported(file: Path, *, inside_functions: bool) -> set[str]:
    """The modules of torchivp that a file imports."""
    package = list(file.parent.parts)
    found = set()
    for node in statements(TREES[file], inside_functions=inside_functions):
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            origin = (["torchivp", *above] if node.level else []) + (node.module.split(".") if node.module else [])
            names = [[*origin, alias.name] for alias in node.names]
        else:
            continue
        found |= {longest_module(name[1:]) for name in names if name[0] == "torchivp"}
    return found - {module_name(file)}


def longest_module(parts: list[str]) -> str:
    """The module in ``package.module.name``: names that are no modules are cut off."""
    while parts and ".".join(parts) not in MODULES:
        parts = parts[:-1]
    return ".".join(parts)


def ids(file: Path) -> str:
    return file.as_posix()


@pytest.mark.parametrize("file", FILES, ids=ids)
def test_imports_point_downwards(file: Path) -> None:
    own = layer_of(module_name(file))
    assert own is not None, f"{file} stands in no layer: add it to LAYERS in this file"
    upwards = {other for other in imported(file, inside_functions=True) if layer_of(other) > own}
    assert not upwards, f"{file} (layer {own}) imports from above: {upwards}"


def test_every_layer_entry_exists() -> None:
    known = set(MODULES)
    assert not {entry for layer in LAYERS for entry in layer} - known


def test_no_import_cycles() -> None:
    """Packages count as their ``__init__``; imports inside functions are allowed to break a cycle."""
    graph = {name: imported(file, inside_functions=False) for name, file in MODULES.items()}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, "import cycle: " + " -> ".join((*trail[trail.index(name) :], name))
        if name in done:
            return
        for other in sorted(graph[name]):
            visit(other, (*trail, name))
        done.add(name)

    for name in graph:
        visit(name, ())


def test_the_loop_never_reaches_the_gradients() -> None:
    reached, todo = set(), ["loop"]
    while todo:
        name = todo.pop()
        if name not in reached:
            reached.add(name)
            todo += imported(MODULES[name], inside_functions=True)
    assert not {name for name in reached if name.split(".")[0] == "gradients"}


@pytest.mark.parametrize("file", FILES, ids=ids)
def test_no_assert(file: Path) -> None:
    """Users run with ``python -O``; and an assert does not say what to write instead."""
    lines = [node.lineno for node in ast.walk(TREES[file]) if isinstance(node, ast.Assert)]
    assert not lines, f"assert in {file}, lines {lines}: raise one of torchivp.errors"


@pytest.mark.parametrize("file", FILES, ids=ids)
def test_no_chains_over_names(file: Path) -> None:
    """``if method == "rk4"`` means that a piece does not say itself what it can do."""
    lines = [
        node.lineno
        for node in ast.walk(TREES[file])
        if isinstance(node, ast.Compare)
        and ast.unparse(node.left).split(".")[-1] in PIECES
        and any(isinstance(op, ast.Eq | ast.NotEq) for op in node.ops)
        and any(isinstance(right, ast.Constant) and isinstance(right.value, str) for right in node.comparators)
    ]
    assert not lines, f"{file} chooses by name in lines {lines}: use a table, or let the piece declare it"


@pytest.mark.parametrize("file", FILES, ids=ids)
def test_nothing_is_overlong(file: Path) -> None:
    """Above the smell a line in the report, above the limit a failure. Tables of numbers are not functions."""
    functions = {
        node.name: node.end_lineno - node.lineno + 1
        for node in ast.walk(TREES[file])
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    length = len(FILES[file].read_text().splitlines())
    smells = [f"{name} has {n} lines" for name, n in functions.items() if n > FUNCTION_SMELL]
    smells += [f"{file} has {length} lines"] if length > FILE_SMELL else []
    if smells:
        print(f"{file}: " + ", ".join(smells))
    assert all(n <= FUNCTION_LIMIT for n in functions.values()), smells
    assert length <= FILE_LIMIT, smells
