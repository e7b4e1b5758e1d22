"""The compiled loop takes the steps of the eager one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

import torchivp
from compiled.pairs import ROWS, SWING, TIMES, Y0, Swing, assert_same, both, torch64
from torchivp import PID, Event

pytestmark = pytest.mark.compiled


@pytest.mark.parametrize(
    "method",
    [
        "tsit5",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("bosh3", "dop853", "dopri5", "dopri8", "rk4", "vern7")
        ),
    ],
)
def test_the_same_steps(method: str) -> None:
    first = {"rk4": 0.1, "dop853": 0.5, "dopri8": 0.5, "vern7": 0.5}  # their own have an error made of rounding alone
    eager, compiled = both(SWING, Y0, (0.0, 3.0), method=method, save="steps", dt=first.get(method))
    assert_same(eager, compiled)
    assert len(eager.t) >= 5


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [{}, {"dense": True}, {"events": [Event(lambda t, y: y[..., 0], terminal=True)]}],
    ids=["times", "dense", "event"],
)
@pytest.mark.parametrize("y0", [Y0, ROWS], ids=["one", "rows"])
def test_a_method_without_the_slope_at_its_end(y0: Tensor, settings: dict[str, Any]) -> None:
    """The cubic interpolant brings that slope, where somebody looks inside a step."""
    settings = {"method": "rk4", "dt": 0.2, "batch_dims": y0.dim() - 1, **settings}
    assert_same(*both(SWING, y0, TIMES[[0, 1, 3, 6]] * 0.9, **settings))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["bosh3", "rk4", pytest.param("dop853", marks=pytest.mark.slow)])
def test_the_same_steps_of_rows(method: str) -> None:
    first = {"rk4": 0.1, "dop853": 0.5}
    assert_same(*both(SWING, ROWS, (0.0, 3.0), batch_dims=1, method=method, save="steps", dt=first.get(method)))


class TestOneForm:
    """What the form of outputs between the steps brings, with bosh3."""

    def check(self, **settings: Any) -> tuple[Any, Any]:
        pair = both(SWING, Y0, settings.pop("t", TIMES), method="bosh3", **settings)
        assert_same(*pair)
        return pair

    def test_outputs(self) -> None:
        self.check(rtol=1e-6)

    def test_other_tolerances_and_times(self) -> None:
        self.check(rtol=1e-4, atol=1e-5, t=TIMES[:3] + 0.25, dt=0.01)

    def test_a_function_of_the_state(self) -> None:
        self.check(save=lambda t, y: y.sum())

    def test_dense(self) -> None:
        eager, compiled = self.check(dense=True)
        at = torch.linspace(0.1, 2.9, 5, dtype=torch64)
        torch.testing.assert_close(compiled(at), eager(at), rtol=1e-10, atol=1e-10)

    @pytest.mark.parametrize("terminal", [False, True])
    def test_events(self, terminal: bool) -> None:
        eager, compiled = self.check(events=[Event(lambda t, y: y[0], terminal=terminal)])
        assert len(eager.t_events[0]) > 0
        torch.testing.assert_close(compiled.t_events[0], eager.t_events[0], rtol=0, atol=1e-9)

    def test_jump_times(self) -> None:
        self.check(jump_times=[0.7, 1.9])

    def test_stop_times(self) -> None:
        self.check(stop_times=[0.7, 1.9])

    @pytest.mark.parametrize("allowed", [1, 7])
    def test_too_many_steps(self, allowed: int) -> None:
        eager, compiled = self.check(max_steps=allowed, throw=False)
        assert compiled.status is torchivp.Status.MAX_STEPS
        assert compiled.t[-1] == eager.t[-1]

    def test_a_parameter_changed_in_place(self) -> None:
        before = both(SWING, Y0, TIMES, method="bosh3")[1].y
        with torch.no_grad():
            SWING.drive.mul_(2)
        try:
            _, compiled = self.check()
        finally:
            with torch.no_grad():
                SWING.drive.div_(2)
        assert not torch.equal(before, compiled.y)

    def test_other_initial_values(self) -> None:
        pair = both(SWING, 5 * Y0, TIMES, method="bosh3")
        assert_same(*pair)

    @pytest.mark.slow
    def test_backwards_in_time(self) -> None:
        self.check(t=-TIMES)

    @pytest.mark.slow
    def test_a_tolerance_for_each_entry(self) -> None:
        self.check(atol=torch.tensor([1e-5, 1e-8], dtype=torch64))

    @pytest.mark.slow
    @pytest.mark.parametrize("how", [{"controller": PID(p=0.4, i=0.3)}, {"norm": "max"}], ids=["PI", "max"])
    def test_other_control(self, how: dict[str, Any]) -> None:
        self.check(**how)

    @pytest.mark.slow
    def test_only_the_end(self) -> None:
        self.check(save="end")


class TestRows:
    def check(self, nfe: bool = True, **settings: Any) -> tuple[Any, Any]:
        settings = {"batch_dims": 1, "method": "bosh3", **settings}
        pair = both(SWING, ROWS, settings.pop("t", TIMES), **settings)
        assert_same(*pair, nfe=nfe)
        return pair

    def test_outputs(self) -> None:
        self.check()

    def test_times_of_their_own(self) -> None:
        self.check(t=torch.stack([TIMES, 0.5 * TIMES, 0.1 + TIMES]))

    def test_dense(self) -> None:
        eager, compiled = self.check(dense=True)
        torch.testing.assert_close(compiled(1.1), eager(1.1), rtol=1e-10, atol=1e-10)

    @pytest.mark.parametrize("terminal", [False, True])
    def test_events(self, terminal: bool) -> None:
        eager, compiled = self.check(events=[Event(lambda t, y: y[:, 0] - 0.2, terminal=terminal)])
        for a, b in zip(eager.t_events[0], compiled.t_events[0]):
            torch.testing.assert_close(b, a, rtol=0, atol=1e-9)

    def test_jump_times(self) -> None:
        self.check(jump_times=[0.7], nfe=False)  # rows wait for each other there: docs/design/compiled.md

    def test_too_many_steps(self) -> None:
        self.check(max_steps=9, throw=False)

    @pytest.mark.slow
    def test_coupled(self) -> None:
        self.check(couple=True)


@pytest.mark.slow
def test_float32_and_a_time_that_it_cannot_hold() -> None:
    f = Swing(torch.float32)
    for end in (0.1, 0.3):  # rounded up, rounded down
        eager, compiled = both(f, Y0.float(), (0.0, end), method="bosh3", save="steps")
        torch.testing.assert_close(compiled.y[-1], eager.y[-1], rtol=1e-5, atol=1e-5)
        assert compiled.stats.attempted == eager.stats.attempted
        assert compiled.t[-1] == eager.t[-1] == end


@dataclass
class Pair:
    a: Tensor
    b: Tensor


torch.utils._pytree.register_dataclass(Pair)


@pytest.mark.slow
def test_trees_and_args() -> None:
    def f(t: Tensor, y: dict[str, Any], args: tuple[Tensor, Tensor]) -> dict[str, Any]:
        k, m = args
        return {"x": y["v"][0], "v": (-k * y["x"], m * y["v"][1].sum() * torch.ones_like(y["v"][1]))}

    y0 = {"x": Y0, "v": (0.1 * Y0, torch.ones(3, dtype=torch64))}
    args = (torch.tensor(2.0, dtype=torch64), torch.tensor(-0.1, dtype=torch64))
    assert_same(*both(f, y0, (0.0, 1.0), args, method="bosh3", save="steps"))


@pytest.mark.slow
def test_a_dataclass() -> None:
    f = lambda t, y: Pair(-y.b, y.a)
    assert_same(*both(f, Pair(Y0, 2 * Y0), (0.0, 1.0), method="bosh3", save="steps"))


@pytest.mark.slow
def test_a_slope_that_is_not_finite() -> None:
    f = lambda t, y: torch.where(t < 0.5, -y, torch.nan)
    eager, compiled = both(f, Y0, (0.0, 1.0), method="bosh3", save="steps", throw=False)
    assert eager.status is compiled.status is torchivp.Status.NONFINITE_SLOPE
    assert compiled.message.split(".")[0] == eager.message.split(".")[0]
    assert abs(float(compiled.t[-1]) - 0.5) < 1e-9


@pytest.mark.slow
def test_a_number_that_f_closes_over() -> None:
    """The new one counts, and a whole number that nothing depends on does not have f compiled again."""
    found = []
    for rate in (1.5, 2.5):
        f = lambda t, y, rate=rate: -rate * y
        found.append(both(f, Y0, (0.0, 1.0), method="bosh3", save="end"))
        assert_same(*found[-1])
    assert not torch.equal(found[0][1].y, found[1][1].y)


HEAVY = torch.tensor([1.0, 3.0], dtype=torch64)


@pytest.mark.slow
@pytest.mark.parametrize(
    "norm", ["rows", lambda x: (HEAVY * x["a"]).abs().amax() + x["b"].pow(2).mean()], ids=["rows", "user's"]
)
def test_norms_of_parts(norm: Any) -> None:
    """They are traced, as f is; a tensor that one holds counts with the numbers it has now."""
    f = lambda t, y: {"a": y["b"].sum(1) - y["a"], "b": -y["b"] * torch.cos(t) * y["a"][:, None]}
    y0 = {"a": Y0, "b": torch.ones(2, 3, dtype=torch64)}
    settings: dict[str, Any] = {"method": "bosh3", "save": "steps", "norm": norm, "rtol": 1e-5}
    for _ in range(2):
        assert_same(*both(f, y0, (0.0, 3.0), **settings))
        HEAVY.mul_(10)


@pytest.mark.slow
def test_a_tuple_in_the_drop_in() -> None:
    """Its norm is the largest of the parts' root mean squares."""
    f = lambda t, y: (SWING(t, y[0]), -y[1] * y[0].sum())
    found = []
    for runner in ("eager", "compiled"):
        y0 = tuple(x.clone().requires_grad_() for x in (Y0, torch.linspace(0.5, 2.0, 3, dtype=torch64)))
        out = torchivp.odeint(f, y0, TIMES, method="bosh3", rtol=1e-5, options={"runner": runner})
        found.append([*out, *torch.autograd.grad(sum((x * x).sum() for x in out), [*y0, *SWING.parameters()])])
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "settings", [{}, {"batch_dims": 1}, {"batch_dims": 1, "compact": True}], ids=["one", "rows", "fewer"]
)
@pytest.mark.parametrize("method", ["tsit5", "trbdf2"])
def test_a_state_without_numbers(method: str, settings: dict[str, Any]) -> None:
    shape = (0, 3) if not settings else (3, 0)
    eager, compiled = both(lambda t, y: -y, torch.ones(shape), TIMES, method=method, **settings)
    assert_same(eager, compiled)


@pytest.mark.parametrize("gradient", ["discrete", "adjoint", "interpolated"])
def test_the_gradient_of_a_state_without_numbers(gradient: str) -> None:
    net = torch.nn.Linear(3, 3)
    f = lambda t, y: net(y)
    sol = torchivp.solve(f, torch.ones(0, 3), (0.0, 1.0), gradient=gradient, method="bosh3", runner="compiled")
    sol.y.sum().backward()
    assert net.weight.grad is not None
    assert not net.weight.grad.any()
