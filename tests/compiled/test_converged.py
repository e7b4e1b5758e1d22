"""Adams methods that correct until they converge, in compiled loops."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import torchivp
from compiled.pairs import SWING, Y0, Swing, assert_same, both, torch64
from compiled.test_drop_in import RUNNERS, T, solved
from torchivp import NotCompilable, odeint
from torchivp.gradients import Discrete
from torchivp.methods import ImplicitAdams

pytestmark = pytest.mark.compiled


CONVERGED = {
    "one test": lambda old, new, i: (new - old).abs().max() < 1e-5,
    "by number": lambda old, new, i: i >= 2 or (new - old).abs().max() < 1e-3,
}


@pytest.mark.usefixtures("python_loops")
class TestCorrectionsUntilTheyConverge:
    @pytest.mark.parametrize("converged", CONVERGED.values(), ids=CONVERGED)
    @pytest.mark.parametrize(
        "settings", [{}, {"t": -T}, {"dense": True}, {"save": "steps"}], ids=["", "back", "dense", "steps"]
    )
    def test_the_same_steps(self, converged: Any, settings: dict[str, Any]) -> None:
        method = ImplicitAdams(4, corrections=5, converged=converged)
        t = settings.pop("t", T)
        eager, compiled = both(SWING, Y0, t, method=method, dt=0.1, **settings)
        assert_same(eager, compiled)
        full = both(SWING, Y0, t, method=ImplicitAdams(4, corrections=5), dt=0.1, **settings)[1]
        assert compiled.stats.nfe < full.stats.nfe

    @pytest.mark.parametrize("gradient", ["discrete", Discrete(every=3)], ids=["all", "fewer"])
    @pytest.mark.parametrize("converged", CONVERGED.values(), ids=CONVERGED)
    def test_the_gradient(self, converged: Any, gradient: Any) -> None:
        found = []
        for runner in RUNNERS:
            f, y0 = Swing(), Y0.clone().requires_grad_()
            method = ImplicitAdams(5, corrections=5, converged=converged)
            y = torchivp.solve(f, y0, T, method=method, dt=0.1, runner=runner, gradient=gradient).y
            found.append(torch.autograd.grad((y**2).sum(), [y0, *f.parameters()]))
        torch.testing.assert_close(found[1], found[0], rtol=1e-10, atol=1e-10)

    def test_a_tensor_that_the_test_holds(self) -> None:
        limit = torch.tensor(1e-2, dtype=torch64)
        method = ImplicitAdams(4, corrections=4, converged=lambda old, new, i: (new - old).abs().max() < limit)
        counts = []
        for factor in (1.0, 1e-6):
            limit.mul_(factor)
            eager, compiled = both(SWING, Y0, T, method=method, dt=0.1)
            assert_same(eager, compiled)
            counts.append(compiled.stats.nfe)
        assert counts[0] < counts[1]

    @pytest.mark.parametrize("options", [{}, {"max_order": 6, "perturb": True}], ids=["plain", "perturbed"])
    def test_in_the_drop_in(self, options: dict[str, Any]) -> None:
        options = {"step_size": 0.1, **options}
        eager, compiled = (
            solved({"runner": r, **options}, method="implicit_adams", rtol=1e-6, atol=1e-8) for r in RUNNERS
        )
        torch.testing.assert_close(compiled, eager, rtol=1e-10, atol=1e-10)

    def test_what_does_not_converge_is_said(self) -> None:
        for runner in RUNNERS:
            options = {"step_size": 0.25, "max_iters": 1, "runner": runner}
            with pytest.warns(UserWarning, match="did not converge"), torch.no_grad():
                odeint(SWING, Y0, T, method="implicit_adams", rtol=1e-12, atol=1e-12, options=options)

    def test_what_cannot_be_traced_is_said(self) -> None:
        method = ImplicitAdams(4, converged=lambda old, new, i: float((new - old).abs().max()) < 1e-6)
        with pytest.raises(NotCompilable, match="this converged="), torch.no_grad():
            torchivp.solve(SWING, Y0, T, method=method, dt=0.1, runner="compiled")


@pytest.mark.slow
def test_corrections_in_a_compiled_loop() -> None:
    options = {"step_size": 0.1, "max_order": 4, "max_iters": 3}
    eager, compiled = (solved({"runner": r, **options}, method="implicit_adams", rtol=1e-5) for r in RUNNERS)
    torch.testing.assert_close(compiled, eager, rtol=1e-10, atol=1e-10)
