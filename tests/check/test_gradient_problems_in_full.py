"""The bars of tests/verification/test_gradient_problems.py at more tolerances, methods and settings: some minutes."""

from __future__ import annotations

import pytest

from torchivp import gradients as ways
from verification.gradient_problems import PROBLEMS
from verification.test_gradient_problems import STABLE_BACKWARDS, assert_as_accurate

WAYS: dict[str, str | ways.Gradient] = {
    "interpolated": "interpolated",
    "interpolated, states kept": ways.Interpolated(every="sqrt"),
    "gauss": "gauss",
    "gauss, states kept": ways.Gauss(checkpoints=8),
    "adjoint": "adjoint",
}
CASES = [(name, way) for name in PROBLEMS for way in WAYS if way != "adjoint" or name in STABLE_BACKWARDS]


@pytest.mark.parametrize("tol", [1e-6, 1e-8])
@pytest.mark.parametrize("method", ["tsit5", "dopri8"])
@pytest.mark.parametrize(("name", "way"), CASES)
def test_continuous_ones_are_as_accurate_as_the_solve(name: str, way: str, method: str, tol: float) -> None:
    assert_as_accurate(name, method, tol, WAYS[way])
