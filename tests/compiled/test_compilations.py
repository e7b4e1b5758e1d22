"""How often something is compiled, when runner='auto' does, progress, and Ctrl-C."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import torchivp
from compiled.pairs import ROWS, SWING, TIMES, Y0, assert_same, both, torch64
from torchivp import NotCompiledWarning, Status
from torchivp.gradients import backsolve, row_backsolve
from torchivp.nn import ODEBlock
from torchivp.runners import auto
from torchivp.runners.compiled import march
from torchivp.runners.compiled.compile import without_remarks

pytestmark = pytest.mark.compiled
RATE = torch.tensor(0.5, dtype=torch64)


def decay(t: Tensor, y: Tensor) -> Tensor:
    return -RATE * y


def run(n: int = 3, t: Any = (0.0, 1.0), runner: str = "compiled", **settings: Any) -> Any:
    y0 = torch.ones(n, dtype=torch64)
    with torch.no_grad():
        return torchivp.solve(decay, y0, t, method="bosh3", save="end", runner=runner, **settings)


@pytest.mark.slow
def test_one_compilation_serves_other_numbers_and_two_all_sizes() -> None:
    before = len(torchivp.compilations())
    run()
    (made,) = torchivp.compilations()[before:]
    assert (made.what, made.f) == ("loop", "decay")
    assert made.seconds > 0.1
    run(rtol=1e-8)
    run(atol=1e-4, t=(0.5, 3.0), max_steps=500, dt=0.01)
    RATE.mul_(2)
    run()
    RATE.div_(2)
    assert len(torchivp.compilations()) == before + 1
    for n in (5, 7, 9):
        run(n)
    assert len(torchivp.compilations()) == before + 2


class TestAuto:
    """With a threshold of a few steps; the function is compiled already."""

    @pytest.fixture(autouse=True)
    def _low(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(auto, "STEPS", 1)
        monkeypatch.setattr(auto, "SOLVES", 2)
        auto._habits.clear()

    @pytest.mark.slow
    def test_it_starts_in_plain_pytorch_and_goes_on_compiled(self) -> None:
        run()
        before = decay_habit(run(runner="auto"))
        assert before == (1, True)
        run(runner="auto")
        sol = run(runner="auto")
        assert decay_habit(sol) == (2, True)  # the third was compiled, and those in plain PyTorch are counted
        assert_same(run(runner="eager"), sol)

    @pytest.mark.parametrize(("y0", "batch_dims"), [(Y0, 0), (ROWS, 1)], ids=["one", "rows"])
    def test_continuous_adjoints(
        self, python_loops: None, y0: Tensor, batch_dims: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The backward solve goes on compiled when the forward one does."""
        w = torch.tensor(0.7, dtype=torch64, requires_grad=True)
        f, found = lambda t, y: -w * y, []
        for solve in range(3):
            if solve == 2:
                monkeypatch.setattr(backsolve, "march", None)
                monkeypatch.setattr(row_backsolve, "march", None)
            settings: dict[str, Any] = {"method": "bosh3", "gradient": "adjoint", "runner": "auto"}
            sol = torchivp.solve(f, y0, (0.0, 1.0), batch_dims=batch_dims, **settings)
            found.append(torch.autograd.grad((sol.y**2).sum(), w))
        torch.testing.assert_close(found[2], found[0], rtol=1e-10, atol=1e-10)

    def test_a_function_that_cannot_be_compiled_stays_plain(self) -> None:
        f = lambda t, y: -y if y.sum() > 0 else y
        for _ in range(2):
            torchivp.solve(f, Y0, (0.0, 1.0), runner="auto")
        with pytest.warns(NotCompiledWarning, match="cannot compile this solve"):
            sol = torchivp.solve(f, Y0, (0.0, 1.0), runner="auto")
        assert sol.success
        torchivp.solve(f, Y0, (0.0, 1.0), runner="auto")  # no second warning

    def test_a_solve_that_cannot_be_compiled(self) -> None:
        seen: list[float] = []
        for _ in range(2):
            run(runner="auto")
        with pytest.warns(NotCompiledWarning, match="on_step"):
            run(runner="auto", on_step=lambda t, y: seen.append(t))
        run(runner="auto", on_step=lambda t, y: seen.append(t))
        assert auto._habits[decay.__code__].compiles
        assert seen

    def test_random_numbers_are_those_of_the_eager_runner(self) -> None:
        f = lambda t, y: -y * torch.rand((), dtype=torch64)
        for _ in range(2):
            torchivp.solve(f, Y0, (0.0, 1.0), method="rk4", dt=0.1, runner="auto")
        torch.manual_seed(1)
        with pytest.warns(NotCompiledWarning, match="random"):
            sol = torchivp.solve(f, Y0, (0.0, 1.0), method="rk4", dt=0.1, runner="auto")
        torch.manual_seed(1)
        assert torch.equal(sol.y, torchivp.solve(f, Y0, (0.0, 1.0), method="rk4", dt=0.1).y)


def decay_habit(sol: Any) -> tuple[int, bool]:
    habit = auto._habits[decay.__code__]
    return habit.solves, habit.compiles


def test_auto_does_not_compile_short_solves() -> None:
    before = len(torchivp.compilations())
    f = lambda t, y: -0.7 * y
    for _ in range(5):
        torchivp.solve(f, Y0, (0.0, 1.0), runner="auto")
    assert len(torchivp.compilations()) == before


class Interrupt:
    """Ctrl-C after the second call of the loop."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(march, "_FIRST", 20)
        monkeypatch.setattr(march, "attempts_for", self)
        self.calls = 0

    def __call__(self, made: int, seconds: float) -> int:
        self.calls += 1
        if self.calls == 2:
            raise KeyboardInterrupt
        return 20


@pytest.mark.parametrize(("y0", "batch_dims"), [(Y0, 0), (ROWS, 1)], ids=["one", "rows"])
def test_an_interrupt_keeps_the_part_done(y0: Tensor, batch_dims: int, monkeypatch: pytest.MonkeyPatch) -> None:
    Interrupt(monkeypatch)
    settings: dict[str, Any] = {
        "method": "bosh3",
        "runner": "compiled",
        "batch_dims": batch_dims,
        "gradient": "discrete",
    }
    with torch.no_grad():
        sol = torchivp.solve(SWING, y0, TIMES, throw=False, **settings)
        status = sol.status[-1] if batch_dims else sol.status
        assert status is Status.INTERRUPTED
        assert int(torch.as_tensor(sol.stats.attempted).max()) == 20
        Interrupt(monkeypatch)
        with pytest.raises(KeyboardInterrupt):
            torchivp.solve(SWING, y0, TIMES, **settings)


def test_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(march, "_FIRST", 20)
    both(SWING, Y0, TIMES, method="bosh3", progress=True)
    assert "100%" in capsys.readouterr().err


@pytest.mark.slow
def test_a_block_counts() -> None:
    func = nn.Linear(2, 2).double()
    blocks = [ODEBlock(func, method="bosh3", runner=runner) for runner in ("eager", "compiled")]
    with torch.no_grad():
        a, b = (block(Y0) for block in blocks)
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
        assert blocks[0].nfe == blocks[1].nfe
        before = len(torchivp.compilations())
        blocks[1](2 * Y0)
    assert len(torchivp.compilations()) == before


@pytest.mark.slow
def test_odeint() -> None:
    for t in (TIMES, TIMES + 0.5):
        with torch.no_grad():
            pair = [
                torchivp.odeint(SWING, Y0, t, method="bosh3", rtol=1e-5, options=o)
                for o in (None, {"runner": "compiled"})
            ]
        torch.testing.assert_close(*pair, rtol=1e-9, atol=1e-9)
    before = len(torchivp.compilations())
    torchivp.odeint_adjoint(SWING, Y0, TIMES, method="bosh3", rtol=1e-5, options={"runner": "compiled"})
    assert len(torchivp.compilations()) == before


def test_remarks_of_the_compiler_are_kept_from_the_user() -> None:
    logger = logging.getLogger("torch._inductor.ir")
    with without_remarks():
        assert not logger.isEnabledFor(logging.WARNING)
    assert logger.isEnabledFor(logging.WARNING)
