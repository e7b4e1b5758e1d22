"""Banded Jacobians in compiled loops: factors and solutions by LAPACK, entries from few products."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import torchivp
from compiled.pairs import assert_same, both, torch64
from torchivp.errors import InputError
from torchivp.gradients import replay
from torchivp.linalg.banded import BandedMatrix
from torchivp.runners.compiled.systems import BandMatrix, band_factors, band_solution

pytestmark = pytest.mark.compiled

CELLS = 40
START = torch.exp(-30 * torch.linspace(0, 1, CELLS, dtype=torch64) ** 2)


def diffusion(t: Tensor, u: Tensor) -> Tensor:
    flow = torch.nn.functional.pad(torch.diff(u), (1, 1))
    return 40 * torch.diff(flow) + u * (1 - u) + 0.1 * torch.sin(3 * t).unsqueeze(-1)


def convection(t: Tensor, u: Tensor) -> Tensor:
    """Two diagonals below, one above."""
    padded = torch.nn.functional.pad(u, (2, 1))
    return 200 * (padded[..., 3:] - 2 * u + padded[..., :-3]) - 3 * u * padded[..., 1:-2]


@pytest.mark.parametrize(("lower", "upper"), [(1, 1), (2, 1), (0, 2), (3, 3)])
@pytest.mark.parametrize("batch", [(), (2,)], ids=["one", "rows"])
def test_systems_are_solved(lower: int, upper: int, batch: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    n, colours = 12, lower + upper + 1
    dense = torch.randn(*batch, n, n, generator=generator, dtype=torch64).tril(upper).triu(-lower)
    group = torch.arange(n) % colours
    compressed = torch.stack([dense[..., group == c, :].sum(-2) for c in range(colours)], -2)
    band = BandMatrix(compressed, lower, upper)
    b, c = torch.randn(*batch, n, generator=generator, dtype=torch64), torch.full((*batch, 1), 0.1, dtype=torch64)
    solution = band.shifted(c)(b)
    matrix = torch.eye(n, dtype=torch64) - 0.1 * dense
    torch.testing.assert_close(solution, torch.linalg.solve(matrix, b), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(band.transposed(c)(b), torch.linalg.solve(matrix.mT, b), rtol=1e-10, atol=1e-12)
    eager = BandedMatrix(band.entries.reshape(-1, colours, n), lower, upper)
    torch.testing.assert_close(eager.times(b.reshape(-1, n)).reshape(b.shape), (dense @ b.unsqueeze(-1)).squeeze(-1))


@pytest.mark.parametrize("transposed", [False, True], ids=["plain", "transposed"])
@pytest.mark.parametrize("batch", [(), (2,)], ids=["one", "rows"])
def test_solutions_are_differentiated(batch: tuple[int, ...], transposed: bool) -> None:
    """By the entries and the right side, as torch.linalg.solve is; by torch.func as well, as the loops do it."""
    band = torch.randn(*batch, 4, 9, dtype=torch64, generator=torch.Generator().manual_seed(0))
    b, n = torch.linspace(1.0, 2.0, 9, dtype=torch64).expand(*batch, 9).clone(), 9

    def by_lapack(band: Tensor, b: Tensor) -> Tensor:
        return BandMatrix(band, 2, 1).solver(torch.full((*batch, 1), 0.2, dtype=torch64), transposed)(b)

    def by_torch(band: Tensor, b: Tensor) -> Tensor:
        entries = BandMatrix(band, 2, 1).entries
        shifted = (torch.diag_embed(entries[..., 1 - d, max(0, d) : n + min(0, d)], offset=d) for d in (1, 0, -1, -2))
        matrix = torch.eye(n, dtype=torch64) - 0.2 * sum(shifted)
        return torch.linalg.solve(matrix.mT if transposed else matrix, b.unsqueeze(-1)).squeeze(-1)

    (x, by), (y, by_known) = (torch.func.vjp(solve, band, b) for solve in (by_lapack, by_torch))
    torch.testing.assert_close(x, y, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(by(x.cos()), by_known(x.cos()), rtol=1e-9, atol=1e-11)


def test_the_operators_keep_their_word() -> None:
    band = torch.randn(2, 4, 9, dtype=torch64)
    torch.library.opcheck(band_factors, (band, 2, 1))
    lu, pivots = band_factors(band, 2, 1)
    torch.library.opcheck(band_solution, (lu, pivots, torch.randn(2, 9, dtype=torch64), 2, 1, False))


@pytest.mark.parametrize(
    ("f", "band", "settings"),
    [
        (diffusion, (1, 1), {"method": "rodas5p"}),
        pytest.param(convection, (2, 1), {"method": "rodas5p"}, marks=pytest.mark.slow),
        pytest.param(diffusion, (1, 1), {"method": "kvaerno5"}, marks=pytest.mark.slow),
        pytest.param(diffusion, (1, 1), {"method": "trbdf2", "batch_dims": 1}, marks=pytest.mark.slow),
    ],
    ids=["tridiagonal", "wider", "iterated", "rows"],
)
def test_the_same_as_eager(f: Any, band: tuple[int, int], settings: dict[str, Any]) -> None:
    y0 = torch.stack([START, 2 * START]) if "batch_dims" in settings else START
    assert_same(*both(f, y0, (0.0, 0.5), save="end", jac_sparsity=band, rtol=1e-6, **settings), nfe=False)


def gradients(runner: str, y0: Tensor, **settings: Any) -> tuple[Tensor, ...]:
    y0, w = y0.clone().requires_grad_(), torch.tensor(1.3, dtype=torch64, requires_grad=True)
    t = torch.tensor([0.0, 0.5], dtype=torch64)
    sol = torchivp.solve(reaction, y0, t, w, jac_sparsity=(1, 1), runner=runner, **settings)
    return torch.autograd.grad((sol.y * START).sum(), [y0, w])


def reaction(t: Tensor, u: Tensor, w: Tensor) -> Tensor:
    return diffusion(t, u) + w * torch.cos(w * t).unsqueeze(-1) * u**2


@pytest.mark.slow
@pytest.mark.parametrize("method", ["rodas5p", "kvaerno5"])
def test_gradients_are_those_of_plain_pytorch(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    eager = gradients("eager", START, method=method)
    monkeypatch.setattr(replay, "Replay", None)
    torch.testing.assert_close(gradients("compiled", START, method=method), eager, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("rows", [0, 1], ids=["one", "rows"])
@pytest.mark.parametrize("method", ["rosenbrock23", "rodas4"])
def test_gradients_through_the_entries(
    python_loops: None, method: str, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    y0 = torch.stack([START, 0.5 * START]) if rows else START
    eager = gradients("eager", y0, method=method, batch_dims=rows, rtol=1e-4)
    monkeypatch.setattr(replay, "Replay", None)
    compiled = gradients("compiled", y0, method=method, batch_dims=rows, rtol=1e-4)
    torch.testing.assert_close(compiled, eager, rtol=1e-8, atol=1e-10)


def test_a_band_that_is_too_narrow_is_refused() -> None:
    with pytest.raises(InputError, match="outside of the structure"), torch.no_grad():
        torchivp.solve(convection, START, (0.0, 0.5), method="rodas5p", jac_sparsity=(1, 1), runner="compiled")
