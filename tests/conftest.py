"""What every test runs under: one thread, fixed seeds, and a word on what was skipped; with TYPECHECK=1, types and shapes are
checked."""

from __future__ import annotations

import os
import random
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch
from jaxtyping import install_import_hook

from typechecking import checked_modules

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "agg")

if "torchivp" in sys.modules:
    raise RuntimeError("torchivp was imported before its type checks were installed; look for a plugin that does so.")
if os.environ.get("TYPECHECK") == "1":  # tests take three times as long
    install_import_hook(checked_modules(), "typechecking.typechecked")


SHARED = Path(__file__).resolve().parents[2] / "shared"

torch.set_num_threads(1)
torch.manual_seed(0)  # parameters of tests that are drawn while they are collected: the same in every process
hypothesis.settings.register_profile("fixed", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("fixed")


# What takes longest and has a quicker relative in the suite: `make check` runs it. Parts of the names of tests.
SLOW = (
    "test_an_interrupt_keeps_the_part_done[",
    "test_a_thousand_steps_leave_nothing_behind",
    "test_what_is_unstable_backwards_is_reported",
    "-hessian]",
    "test_vmap.py::test_every_method_that_can[",
    "test_outputs_and_dense_output[reversible_heun]",
    "test_same_as_eager.py::TestRows::test_jump_times",
    "test_same_as_eager.py::TestRows::test_dense",
    "test_same_as_eager.py::TestRows::test_events",
    "test_same_as_eager.py::TestOneForm::test_jump_times",
    "test_a_training_step[backwards in time]",
    "test_a_training_step[time channel]",
    "test_a_training_step[tied]",
    "test_small_scripts[parameter_sweep]",
    "test_small_scripts[recover_rates]",
    "test_reversible_is_exact[kepler",
    "test_direct_is_the_derivative_of_the_numbers[kepler]",
    "test_those_along_the_stored_solution_need_no_way_back[kepler",
    "test_many_steps_back[Reversible(tsit5)]",
    "test_outputs_and_dense_output[alf]",
    "test_outputs_and_dense_output[adaptive_heun]",
    "test_dense_output_meets_the_steps[alf]",
    "test_dense_output_meets_the_steps[adaptive_heun]",
    "test_reversible_on_uneven_grids[",
    "test_rows_are_what_they_are_alone[alf",
    "test_rows_are_what_they_are_alone[reversible_heun",
    "test_against_diffrax_with_a_first_step_of_its_own[dopri5-1e-08]",
    "test_a_changed_coefficient_is_noticed[vern9]",
    "test_reversible[Reversible(Vern",
    "test_reversible[Reversible(Dop853",
    "test_runge_kutta[vern6-forced]",
    "test_runge_kutta[vern7-forced]",
    "test_runge_kutta[vern8-forced]",
    "test_adams[ImplicitAdams(order=8",
    "test_adams[ExplicitAdams(order=8",
    "test_steps_let_go[rosenbrock23",
    "test_steps_let_go[rodas",
    "test_outputs_and_dense_output[rosenbrock23]",
    "test_outputs_and_dense_output[rodas",
    "test_the_gradient_of_a_stiff_solve",
    "test_observed_order[yoshida6-partitioned",
    "test_observed_order[yoshida6-hamiltonian",
    "test_observed_order[mclachlan4-hamiltonian",
    "test_observed_order[yoshida4-hamiltonian",
    "test_gradients[hamiltonian-yoshida",
    "test_gradients[hamiltonian-mclachlan4",
    "test_gradients[partitioned-yoshida6",
    "test_trees_of_unequal_parts[yoshida6",
    "test_events_outputs_and_continuation[yoshida6",
    "test_rows_are_what_they_are_alone[hamiltonian-yoshida6",
    "test_rows_are_what_they_are_alone[hamiltonian-mclachlan4",
    "test_observed_order[yoshida6-orbit",
    "test_steps_let_go[kvaerno",
    "test_steps_let_go[kencarp",
    "test_steps_let_go[radau",
    "test_steps_let_go[trbdf2",
    "test_a_singularity[kvaerno",
    "test_a_singularity[kencarp",
    "test_order.py::test_implicit_runge_kutta[",
    "test_example_scripts.py::test_small_scripts[kepler",
    "test_geometric.py::test_compiled",
)

# Methods whose family has a quicker or more general member in the suite. What holds of every method is tested of them in
# `make check`; coefficients always.
COUSINS = re.compile(
    r"[\[-](implicit_midpoint|trapezoid|sdirk2|kvaerno[34]|kencarp[35]|radau3|gauss[46]|rodas4|rosenbrock23|vern[68])[\]-]"
)
PROOFS = "tests/methods/"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        cousin = COUSINS.search(item.nodeid) and not item.nodeid.startswith(PROOFS)
        if cousin or any(part in item.nodeid for part in SLOW):
            item.add_marker(pytest.mark.slow)
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("cuda"):
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(autouse=True)
def _same_start() -> Iterator[None]:
    """Every test begins with the same random numbers and the default dtype, whatever ran before it."""
    dtype, grad = torch.get_default_dtype(), torch.is_grad_enabled()
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - what libraries under test may use
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(dtype)
    torch.set_grad_enabled(grad)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference data beside the checkout; tests that need it are skipped without it."""
    if not SHARED.is_dir():
        pytest.skip("../shared is not there")
    return SHARED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """End the run by saying how many tests were skipped, and why."""
    reasons = Counter(_reason(report) for report in terminalreporter.stats.get("skipped", []))
    terminalreporter.section("skipped tests")
    if not reasons:
        terminalreporter.write_line("none")
    for reason, count in sorted(reasons.items()):
        terminalreporter.write_line(f"{count:5d}  {reason}")
    if len(reasons) > 1:
        terminalreporter.write_line(f"{sum(reasons.values()):5d}  in all")


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    """The reason given to ``pytest.skip``; a report that travelled between processes holds it in a list."""
    text = report.longrepr[2] if isinstance(report.longrepr, tuple | list) else str(report.longrepr)
    return text.removeprefix("Skipped: ")
