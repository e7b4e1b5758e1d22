"""Matrices that are kept over steps: the same accuracy, the same rows, the same gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import torchivp
from stiff_problems import STIFF
from torchivp.gradients import Discrete
from torchivp.linalg import Banded, MatrixFree, kept
from torchivp.linalg.kept import dear

DOUBLE = torch.float64
RATES = torch.tensor([0.04, 3e3, 1e3], dtype=DOUBLE)
START = torch.tensor([[1.0, 0.0, 0.0], [0.3, 1e-4, 0.7]], dtype=DOUBLE)


@pytest.fixture
def all_dear(monkeypatch: pytest.MonkeyPatch) -> None:
    """So small problems keep theirs, too."""
    monkeypatch.setattr(kept, "DEAR", 0)


def reaction(t: Tensor, y: Tensor, rates: Tensor) -> Tensor:
    a, b, c = y.unbind(-1)
    driven = 1 + 0.5 * torch.sin(t)
    slow, middle, fast = driven * rates[0] * a, rates[1] * b * c, rates[2] * b * b
    return torch.stack([middle - slow, slow - middle - fast, fast], -1)


def jumping(t: Tensor, y: Tensor) -> Tensor:
    """A decay that becomes ten thousand times as fast."""
    rate = torch.where(t > 1, 1e4, 1.0).to(y.dtype)
    rate = rate.unsqueeze(-1) if y.dim() > 1 else rate
    return rate * (0.739085 - y)


def solved(y0: Tensor, rates: Tensor = RATES, **settings: Any) -> Any:
    return torchivp.solve(reaction, y0, (0.0, 10.0), rates, **{"rtol": 1e-5, "atol": 1e-8, **settings})


@pytest.mark.usefixtures("all_dear")
@pytest.mark.parametrize(
    ("method", "bar"),
    [("kvaerno5", 30), ("kencarp4", 100), ("radau5", 30)],
)
@pytest.mark.parametrize("name", ["Robertson", "HIRES"])
def test_errors_are_as_small_and_jacobians_few(method: str, bar: float, name: str) -> None:
    problem = STIFF[name]
    sol = torchivp.solve(
        problem.f, problem.start, (0.0, problem.t1), method=method, rtol=1e-5, atol=problem.atol(1e-5), max_steps=10**5
    )
    assert problem.error(sol.y[-1], 1e-5) < bar
    assert sol.stats.njev < sol.stats.accepted / 3
    assert sol.stats.nlu < sol.stats.attempted * (3 if method == "radau5" else 1)


def test_what_is_dear() -> None:
    assert dear(None, 51)
    assert not dear(None, 50)
    assert not dear(Banded(1, 1), 1000)
    assert not dear(MatrixFree(), 1000)


def test_large_full_matrices_are_kept() -> None:
    """As they are by default: 51 numbers are enough."""
    start = torch.linspace(0.1, 1, 51, dtype=DOUBLE)

    def f(t: Tensor, y: Tensor) -> Tensor:
        return -torch.linspace(1, 1e4, len(y), dtype=DOUBLE) * (y - torch.cos(t)) + y.mean()

    many, few = (torchivp.solve(f, y, (0.0, 2.0), method="kvaerno5") for y in (start, start[:50]))
    assert many.stats.njev < 3 < few.stats.njev == few.stats.accepted


@pytest.mark.usefixtures("all_dear")
def test_rows_that_are_done_stay_where_they_are() -> None:
    """While the other one goes on with what was its matrix, too."""
    with torch.no_grad():
        rows, done = (solved(START[i:], method="sdirk2", batch_dims=1, rtol=1e-7, atol=1e-10) for i in (0, 1))
    assert int(rows.stats.attempted[0]) > 5 * int(rows.stats.attempted[1])
    torch.testing.assert_close(rows.y[1], done.y[0], rtol=1e-10, atol=1e-13)


@pytest.mark.usefixtures("all_dear")
@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize("method", ["kvaerno5", "sdirk2", "radau5"])
def test_rows_keep_their_own(method: str, compact: bool) -> None:
    with torch.no_grad():
        rows = solved(START, method=method, batch_dims=1, compact=compact)
        for i, y0 in enumerate(START):
            alone = solved(y0, method=method)
            assert (int(rows.stats.attempted[i]), int(rows.stats.accepted[i])) == (
                alone.stats.attempted,
                alone.stats.accepted,
            )
            torch.testing.assert_close(rows.y[i, -1], alone.y[-1], rtol=1e-10, atol=1e-13)


@pytest.mark.usefixtures("all_dear")
@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("method", ["kvaerno4", "kencarp5", "radau5"])
def test_steps_are_taken_again_with_the_matrices_they_had(method: str, rows: bool) -> None:
    """Otherwise they end a hundredth of the tolerance elsewhere, which the backward pass refuses."""

    def found(gradient: Any) -> list[Tensor]:
        y0 = (START if rows else START[0]).clone().requires_grad_()
        rates = RATES.clone().requires_grad_()
        more: dict[str, Any] = {"batch_dims": 1} if rows else {}
        sol = solved(y0, rates, method=method, gradient=gradient, **more)
        assert int(torch.as_tensor(sol.stats.accepted).min()) > 3 * sol.stats.njev or gradient == "direct" or rows
        return list(torch.autograd.grad((sol.y[..., -1, :] * torch.tensor([1.0, 50.0, 2.0])).sum(), [y0, rates]))

    expected = found("direct")
    for gradient in ("discrete", Discrete(checkpoints=4)):
        torch.testing.assert_close(found(gradient), expected, rtol=1e-8, atol=1e-11)


@pytest.mark.usefixtures("all_dear")
def test_split_fields_keep_that_of_their_stiff_part() -> None:
    rates = torch.tensor([1e3, 2.0], dtype=DOUBLE, requires_grad=True)
    field = torchivp.Split(
        lambda t, y, rates: -rates[0] * (y - torch.cos(t)) - 0.1 * y**3, lambda t, y, rates: rates[1] * y.flip(-1)
    )

    def found(gradient: str) -> Any:
        sol = torchivp.solve(
            field, START[0], (0.0, 3.0), rates, method="kencarp4", gradient=gradient, rtol=1e-6, atol=1e-9
        )
        return sol, torch.autograd.grad(sol.y[-1].sum(), rates)[0]

    sol, replayed = found("discrete")
    assert sol.stats.njev < sol.stats.accepted / 3
    torch.testing.assert_close(replayed, found("direct")[1], rtol=1e-8, atol=1e-11)


@pytest.mark.usefixtures("all_dear")
@pytest.mark.parametrize("rows", [False, True])
def test_what_fails_with_an_old_matrix_is_tried_with_its_own(rows: bool) -> None:
    """Fixed steps cannot become smaller."""
    y0 = torch.tensor([[0.3, 1.0], [2.0, -1.0]], dtype=DOUBLE)
    controller = torchivp.FixedSteps(dt=0.1)
    settings: dict[str, Any] = {"batch_dims": 1} if rows else {}
    sol = torchivp.solve(
        jumping, y0 if rows else y0[0], (0.0, 2.0), method="sdirk2", controller=controller, jump_times=[1.0], **settings
    )
    assert bool((torch.as_tensor(sol.stats.accepted) == 20).all())
    assert int(torch.as_tensor(sol.stats.rejected).min()) >= 1
    torch.testing.assert_close(sol.y[..., -1, :], torch.full_like(sol.y[..., -1, :], 0.739085), rtol=0, atol=1e-3)


@pytest.mark.usefixtures("all_dear")
def test_complex_states_and_transforms() -> None:
    rates = torch.tensor([-1 + 5j, -300 + 20j], dtype=torch.complex128)

    def f(t: Tensor, y: Tensor) -> Tensor:
        t = t.unsqueeze(-1) if y.dim() > 1 else t
        return rates * y + y.flip(-1) + 0.1 * torch.sin(t) * y * y.conj()

    y0 = torch.tensor([[1, 1j], [0.2, 0.1j]], dtype=torch.complex128)
    settings: dict[str, Any] = {"method": "kvaerno5", "rtol": 1e-6, "atol": 1e-9}
    with torch.no_grad():
        alone, rows = (
            torchivp.solve(f, y, (0.0, 1.0), batch_dims=y.dim() - 1, **settings).y[..., -1, :] for y in (y0[0], y0)
        )
        exact = torchivp.solve(f, y0[0], (0.0, 1.0), method="dopri5", rtol=1e-10, atol=1e-13).y[-1]
    torch.testing.assert_close(rows[0], alone, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(alone, exact, rtol=0, atol=1e-5)

    def end(y: Tensor) -> Tensor:
        return solved(y, method="kvaerno5").y[-1]

    (transformed,) = torch.func.vjp(end, START[0])[1](torch.eye(3, dtype=DOUBLE)[0])
    y = START[0].clone().requires_grad_()
    torch.testing.assert_close(transformed, torch.autograd.grad(end(y)[0], y)[0], rtol=1e-9, atol=1e-12)
