"""Banded Jacobians in compiled loops: factors and solutions by LAPACK, entries from few products."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import torchivp
from compiled.pairs import assert_same, both, torch64
from torchivp.errors import InputError
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


@pytest.mark.slow
@pytest.mark.parametrize("method", ["rodas5p", "kvaerno5"])
def test_gradients_are_those_of_plain_pytorch(method: str) -> None:
    found = []
    for runner in ("eager", "compiled"):
        y0 = START.clone().requires_grad_()
        sol = torchivp.solve(diffusion, y0, (0.0, 0.5), method=method, jac_sparsity=(1, 1), runner=runner)
        found.append(torch.autograd.grad((sol.y[-1] * START).sum(), y0)[0])
    torch.testing.assert_close(found[1], found[0], rtol=1e-8, atol=1e-10)


def test_a_band_that_is_too_narrow_is_refused() -> None:
    with pytest.raises(InputError, match="outside of the structure"), torch.no_grad():
        torchivp.solve(convection, START, (0.0, 0.5), method="rodas5p", jac_sparsity=(1, 1), runner="compiled")
