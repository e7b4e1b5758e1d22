"""The gradients of a batch whose rows are solved each with its own steps: those of the rows solved one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import torchivp
from torchivp.errors import GradientError, InputError, SolveError
from torchivp.gradients import GRADIENTS, Adjoint, Gauss, Interpolated
from torchivp.gradients.row_systems import RowSystem

ROWS, WIDTH, RTOL = 4, 3, 1e-9
REVERSIBLE = [torchivp.methods.Reversible("tsit5"), torchivp.methods.Reversible("dopri5")]
PAIRS = [
    *((name, method) for name in ("direct", "discrete", "forward") for method in ("tsit5", "dopri5")),
    *(("reversible", method) for method in REVERSIBLE),
]
CONTINUOUS = ["adjoint", "interpolated", "gauss"]
SHARED_TIMES = [0.0, 0.4, 1.0]
OWN_TIMES = [[0.0, 0.5, 1.0], [0.0, 1.0, 3.0], [1.0, 0.5, -1.0], [2.0, 2.5, 5.5]]


class Driven(nn.Module):
    """A flow with parameters of its own, for one row or for many."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(WIDTH, 8, dtype=torch.float64)
        self.outer = nn.Linear(8, WIDTH, dtype=torch.float64)

    def forward(self, t: Tensor, y: Tensor, drive: Tensor) -> Tensor:
        return self.outer(torch.tanh(self.inner(y))) + drive * torch.sin(t)[..., None] - 0.3 * y


class Setup(NamedTuple):
    """A batch of problems, and the weights of its outputs in the loss."""

    f: nn.Module
    y0: Tensor
    drive: Tensor
    t: Tensor
    weights: Tensor

    @property
    def wrt(self) -> list[Tensor]:
        return [self.y0, self.drive, self.t, *self.f.parameters()]

    def together(self, **settings: Any) -> list[Tensor]:
        """Gradients of the loss of the batch."""
        sol = torchivp.solve(self.f, self.y0, self.t, self.drive, batch_dims=1, **{**TIGHT, **settings})
        return list(torch.autograd.grad((sol.y * self.weights).sum(), self.wrt))

    def alone(self, **settings: Any) -> list[Tensor]:
        """The same, each row solved by itself."""
        losses = []
        for b in range(ROWS):
            t = self.t if self.t.dim() == 1 else self.t[b]
            sol = torchivp.solve(self.f, self.y0[b], t, self.drive[b], **{**TIGHT, **settings})
            losses.append((sol.y * self.weights[b]).sum())
        return list(torch.autograd.grad(torch.stack(losses).sum(), self.wrt))


TIGHT = {"rtol": RTOL, "atol": RTOL}
EXACTLY = {"gradient": "direct", "method": "dopri8", "rtol": 1e-12, "atol": 1e-12}


def setup(times: list[Any]) -> Setup:
    y0, drive = torch.randn(2, ROWS, WIDTH, dtype=torch.float64)
    t = torch.tensor(times, dtype=torch.float64).requires_grad_()
    weights = torch.randn(ROWS, t.shape[-1], WIDTH, dtype=torch.float64)
    return Setup(Driven(), y0.requires_grad_(), drive.requires_grad_(), t, weights)


def assert_same(ours: list[Tensor], theirs: list[Tensor], rtol: float) -> None:
    for x, y in zip(ours, theirs, strict=True):
        assert float((x - y).norm()) <= rtol * float(y.norm())


def test_every_gradient_is_tested() -> None:
    assert {name for name, _ in PAIRS} | set(CONTINUOUS) | {"implicit"} == set(
        GRADIENTS
    )  # that one is of steady states


@pytest.mark.parametrize("times", [SHARED_TIMES, OWN_TIMES], ids=["shared times", "own times"])
@pytest.mark.parametrize(("gradient", "method"), PAIRS, ids=str)
def test_exact_gradients_are_those_of_the_rows(gradient: str, method: Any, times: list[Any]) -> None:
    problem = setup(times)
    settings = {"gradient": gradient, "method": method}
    assert_same(problem.together(**settings), problem.alone(**settings), 1e-10)


@pytest.mark.parametrize("gradient", ["discrete", "reversible"])
@pytest.mark.parametrize("method", ["reversible_heun", "alf"])
def test_methods_with_a_second_state(gradient: str, method: str) -> None:
    problem = setup(OWN_TIMES)
    settings = {"gradient": gradient, "method": method, "rtol": 1e-4, "atol": 1e-4}
    assert_same(problem.together(**settings), problem.alone(**settings), 1e-10)


@pytest.mark.parametrize("times", [SHARED_TIMES, OWN_TIMES], ids=["shared times", "own times"])
@pytest.mark.parametrize("method", ["tsit5", "dopri5"])
@pytest.mark.parametrize("gradient", CONTINUOUS)
def test_continuous_gradients_are_those_of_the_rows(gradient: str, method: str, times: list[Any]) -> None:
    problem = setup(times)
    exact = problem.alone(**EXACTLY)
    assert_same(problem.together(gradient=gradient, method=method), exact, 100 * RTOL)


@pytest.mark.parametrize("gradient", CONTINUOUS)
def test_time_has_the_dtype_of_the_state(gradient: str) -> None:
    """Also where the parameters' integral is taken."""
    y0, w, dtypes = torch.ones(2, 2), torch.tensor(0.5, requires_grad=True), set()

    def f(t: Tensor, y: Tensor) -> Tensor:
        dtypes.add(t.dtype)
        return -w * y * torch.cos(t).unsqueeze(-1)

    sol = torchivp.solve(f, y0, (0.0, 1.0), batch_dims=1, gradient=gradient, rtol=1e-3, atol=1e-4)
    sol.y.sum().backward()
    assert dtypes == {torch.float32}


@pytest.mark.parametrize("gradient", CONTINUOUS)
def test_the_integral_for_the_parameters_is_as_exact_as_the_solve(gradient: str) -> None:
    w = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    y0 = torch.ones(2, 1, dtype=torch.float64)
    tight: dict[str, Any] = {"method": "dopri8", "rtol": 1e-13, "atol": 1e-13, "gradient": gradient}
    sol = torchivp.solve(lambda t, y: w * y, y0, (0.0, 1.0), batch_dims=1, **tight)
    (grad,) = torch.autograd.grad(sol.y[:, -1].sum(), w)
    torch.testing.assert_close(grad, 2 * w.exp(), rtol=1e-11, atol=0)


@pytest.mark.parametrize("save", ["steps", "end"])
@pytest.mark.parametrize("gradient", CONTINUOUS)
def test_other_outputs(gradient: str, save: str) -> None:
    """At every step (a different number in each row, which move with the start), and at the ends alone."""
    problem = setup(OWN_TIMES)

    def grads(gradient: str) -> list[Tensor]:
        sol = torchivp.solve(
            problem.f, problem.y0, problem.t, problem.drive, batch_dims=1, save=save, gradient=gradient, **TIGHT
        )
        loss = torch.stack([(y**2).sum() + (t**2).sum() for t, y in zip(sol.t, sol.y)]).sum()
        return list(torch.autograd.grad(loss, problem.wrt))

    assert_same(grads(gradient), grads("direct"), 100 * RTOL)


@pytest.mark.parametrize("gradient", CONTINUOUS)
@pytest.mark.parametrize("settings", [{"dt": 0.05, "method": "rk4"}, {"jump_times": [0.3, 0.7]}], ids=str)
def test_fixed_steps_and_jumps(gradient: str, settings: dict[str, Any]) -> None:
    problem = setup(OWN_TIMES)
    assert_same(problem.together(gradient=gradient, **settings), problem.together(gradient="direct", **settings), 1e-6)


@pytest.mark.parametrize("gradient", CONTINUOUS)
def test_states_of_several_tensors_and_batch_axes(gradient: str) -> None:
    rate = torch.rand(2, 3, 1, dtype=torch.float64).requires_grad_()
    y0 = {"x": torch.randn(2, 3, 2, dtype=torch.float64), "z": torch.randn(2, 3, 1, dtype=torch.complex128)}
    y0 = {name: x.requires_grad_() for name, x in y0.items()}

    def f(t: Tensor, y: dict[str, Tensor], rate: Tensor) -> dict[str, Tensor]:
        return {"x": -rate * y["x"] * t[..., None], "z": 1j * rate * y["z"]}

    def grads(gradient: str) -> list[Tensor]:
        atol = {"x": 1e-9, "z": torch.full((2, 3, 1), 1e-9)}
        sol = torchivp.solve(f, y0, (0.0, 2.0), rate, batch_dims=2, gradient=gradient, rtol=1e-9, atol=atol)
        loss = (sol.y["x"] ** 3).sum() + (sol.y["z"][:, :, -1] ** 2).real.sum()
        return list(torch.autograd.grad(loss, [rate, *y0.values()]))

    assert_same(grads(gradient), grads("direct"), 100 * RTOL)


@pytest.mark.parametrize("gradient", ["discrete", *CONTINUOUS])
def test_a_row_that_fails_contributes_what_it_has(gradient: str) -> None:
    """y' = p y^2 blows up at 1 / (p y0): rows that reach the end, that do not, and that cannot start."""
    p = torch.ones((), dtype=torch.float64, requires_grad=True)
    y0 = torch.tensor([[0.5], [3.0], [torch.nan], [0.3]], dtype=torch.float64, requires_grad=True)
    times = torch.linspace(0, 1, 5, dtype=torch.float64)

    sol = torchivp.solve(
        lambda t, y: p * y**2, y0, times, batch_dims=1, gradient=gradient, rtol=1e-7, atol=1e-7, throw=False
    )
    assert [s.success for s in sol.status] == [True, False, False, True]
    assert [len(y) for y in sol.y] == [5, 2, 1, 5]
    at_p, at_y0 = torch.autograd.grad(sol.y[0].sum() + sol.y[1].sum() + sol.y[3].sum(), (p, y0))

    pieces = [(0, times), (1, times[:2]), (3, times)]
    exact = torch.stack([(y0[b] / (1 - p * t * y0[b])).sum() for b, t in pieces]).sum()
    exact_p, exact_y0 = torch.autograd.grad(exact, (p, y0))
    ran = [0, 1, 3]
    assert_same([at_p, at_y0[ran]], [exact_p, exact_y0[ran]], 1e-5)
    assert float(at_y0[2]) == 0


@pytest.mark.parametrize("gradient", ["direct", "discrete", "forward", "interpolated", "gauss"])
def test_a_rejected_step_that_overflowed_leaves_no_nan(gradient: str) -> None:
    """The second row's first attempt is 10,000 times too long."""
    p = torch.ones((), dtype=torch.float64, requires_grad=True)
    y0 = torch.tensor([[1.0], [30.0]], dtype=torch.float64, requires_grad=True)

    sol = torchivp.solve(
        lambda t, y: -p * y**9, y0, (0.0, 1e-3), batch_dims=1, dt=1e-3, gradient=gradient, rtol=1e-8, atol=1e-8
    )
    assert sol.stats.rejected.tolist()[0] == 0 < sol.stats.rejected.tolist()[1]
    ours = torch.autograd.grad(sol.y[:, -1].sum(), (p, y0))
    exact = (y0 * (1 + 8 * p * 1e-3 * y0**8) ** (-1 / 8)).sum()
    assert_same(list(ours), list(torch.autograd.grad(exact, (p, y0))), 1e-6)


@pytest.mark.parametrize("gradient", CONTINUOUS)
def test_the_backward_solve_does_not_grow_with_batch_times_parameters(
    gradient: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: set[int] = set()

    def noted(linearised: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(self: RowSystem, t: Tensor, y: Tensor, adjoint: Tensor) -> Any:
            sizes.add(self.field.layout.size)
            return linearised(self, t, y, adjoint)

        return wrapper

    monkeypatch.setattr(RowSystem, "linearised", noted(RowSystem.linearised))
    problem = setup(SHARED_TIMES)
    assert sum(p.numel() for p in problem.f.parameters()) > 10 * WIDTH / 2
    problem.together(gradient=gradient)
    assert sizes == {ROWS * WIDTH * (2 if gradient == "adjoint" else 1)}


@pytest.mark.parametrize("gradient", CONTINUOUS)
def test_a_hard_row_does_not_change_what_an_easy_one_takes(gradient: str) -> None:
    def backward_steps(rates: list[float]) -> list[int]:
        rate = torch.tensor(rates, dtype=torch.float64).unsqueeze(1).requires_grad_()
        y0 = torch.ones(len(rates), 2, dtype=torch.float64)

        def f(t: Tensor, y: Tensor, rate: Tensor) -> Tensor:
            return rate * torch.stack([y[:, 1], -y[:, 0]], dim=1)

        sol = torchivp.solve(f, y0, [0.0, 0.5, 1.0], rate, batch_dims=1, gradient=gradient)
        sol.y.sum().backward()
        assert rate.grad is not None
        return [*sol.stats.backward_attempted.tolist(), float(rate.grad[0])]

    easy, hard = backward_steps([1.0]), backward_steps([1.0, 60.0])
    assert hard[0] == easy[0]
    assert hard[1] > 5 * easy[0]
    assert hard[2] == pytest.approx(easy[1], rel=1e-12)


@pytest.mark.parametrize("gradient", CONTINUOUS)
def test_counters(gradient: str) -> None:
    sol = torchivp.solve(
        lambda t, y: -y, torch.ones(3, 2, requires_grad=True), (0.0, 1.0), batch_dims=1, gradient=gradient
    )
    sol.y.sum().backward()
    assert sol.stats.replayed > 0
    assert sol.stats.backward_attempted.shape == (3,)
    assert sol[1].stats.backward_attempted == int(sol.stats.backward_attempted[1]) > 0


@pytest.mark.parametrize("gradient", CONTINUOUS)
def test_what_comes_after_the_last_cotangent_is_not_solved_back(gradient: str) -> None:
    """Row 0 has none, row 1 one in the middle: it takes the steps of a solve that ended there."""
    y0 = torch.ones(2, 2, dtype=torch.float64, requires_grad=True)

    def backward_steps(times: list[float]) -> tuple[list[int], Tensor]:
        sol = torchivp.solve(lambda t, y: -y * t[:, None], y0, times, batch_dims=1, gradient=gradient)
        (at_y0,) = torch.autograd.grad(sol.y[1, 1].sum(), y0)
        return sol.stats.backward_attempted.tolist(), at_y0

    (none, half), at_y0 = backward_steps([0.0, 1.0, 3.0])
    assert none == 0
    assert at_y0[0].tolist() == [0.0, 0.0]
    assert torch.allclose(at_y0[1], torch.full((2,), 0.6065, dtype=torch.float64), atol=1e-3)
    assert half <= backward_steps([0.0, 1.0])[0][1] + 2  # the stored solution has one step more there


def test_rows_of_no_length_are_their_start() -> None:
    y0 = torch.ones(2, 1, dtype=torch.float64, requires_grad=True)
    for gradient in CONTINUOUS:
        t = torch.tensor([[0.0, 0.0], [0.0, 1.0]], dtype=torch.float64, requires_grad=True)
        sol = torchivp.solve(lambda t, y: -y, y0, t, batch_dims=1, gradient=gradient)
        at_y0, at_t = torch.autograd.grad(sol.y[:, -1].sum(), (y0, t))
        assert at_y0.tolist() == [[1.0], [pytest.approx(1 / torch.e, rel=1e-4)]]
        assert at_t[0].sum() == 0


def test_a_state_that_is_lost_on_the_way_back_is_an_error_that_names_the_row() -> None:
    rate = torch.tensor([[-1.0], [-30.0]], dtype=torch.float64)
    y0 = torch.ones(2, 1, dtype=torch.float64, requires_grad=True)
    sol = torchivp.solve(lambda t, y: rate * y, y0, (0.0, 1.0), batch_dims=1, gradient="adjoint")
    with pytest.raises(GradientError, match=r"row 1, .*gradient='discrete'"):
        sol.y[:, -1].sum().backward()


def test_a_backward_solve_that_fails_names_the_row() -> None:
    p = torch.ones((), dtype=torch.float64, requires_grad=True)
    y0 = torch.tensor([[1.0], [30.0]], dtype=torch.float64)
    sol = torchivp.solve(lambda t, y: -p * y**9, y0, (0.0, 1e-3), batch_dims=1, gradient="adjoint")
    with pytest.raises(SolveError, match="row 1: "):
        sol.y[:, -1].sum().backward()


@pytest.mark.parametrize(
    ("gradient", "settings", "instead"),
    [
        (Adjoint(norm="full"), {}, "gradient='adjoint'"),
        (Interpolated(every="sqrt"), {}, "gradient=Discrete"),
        (Gauss(checkpoints=3), {}, "gradient=Discrete"),
        (Adjoint(method="dopri5"), {"dense": True}, "gradient='discrete'"),
        (Adjoint(method="explicit_adams"), {}, r"Adjoint\(method='tsit5'\)"),
        ("gauss", {"method": "reversible_heun"}, "method='tsit5'"),
        ("adjoint", {"events": torchivp.Event(lambda t, y: y[:, 0])}, "gradient='discrete'"),
    ],
    ids=["full norm", "some states kept", "checkpoints", "dense", "multistep", "reversible", "events"],
)
def test_what_is_not_there_says_what_to_write(gradient: Any, settings: dict[str, Any], instead: str) -> None:
    y0 = torch.ones(2, 1, dtype=torch.float64, requires_grad=True)
    with pytest.raises(InputError, match=instead):
        torchivp.solve(lambda t, y: -y, y0, (0.0, 1.0), batch_dims=1, gradient=gradient, **settings)


def test_another_method_and_tolerance_for_the_backward_solve() -> None:
    problem = setup(OWN_TIMES)
    exact = problem.alone(**EXACTLY)
    assert_same(problem.together(gradient=Adjoint("dopri8", rtol=1e-10, atol=1e-10)), exact, 100 * RTOL)
