"""Jacobians that the user gives, or says something of, in compiled loops."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import torchivp
from compiled.pairs import assert_same, both, gradients, torch64
from torchivp.errors import InputError, NotCompilable

pytestmark = pytest.mark.compiled

N = 6
Y0 = torch.linspace(0.5, 1.5, N, dtype=torch64)
ROWS = torch.stack([Y0, 2 - Y0])
METHODS = ["rodas5p", "trbdf2", pytest.param("implicit_midpoint", marks=pytest.mark.slow)]


class Arrow(nn.Module):
    """Everyone is drawn to the first one, which feels all (or the other way round); ``jac`` is its Jacobian."""

    def __init__(self, column: bool = False) -> None:
        super().__init__()
        self.rates = nn.Parameter(torch.linspace(1.0, 40.0, N, dtype=torch64))
        self.column = column

    def forward(self, t: Tensor, y: Tensor, args: Tensor) -> Tensor:
        t = t.unsqueeze(-1) if y.dim() > 1 and t.dim() else t
        pull = y[..., :1] * args if self.column else 0 * y
        first = torch.zeros_like(y) if self.column else torch.nn.functional.pad(y.sum(-1, keepdim=True), (0, N - 1))
        return -self.rates * (y - torch.cos(t)) + pull - args * first - 0.1 * y**2

    def jac(self, t: Tensor, y: Tensor, args: Tensor) -> Tensor:
        entries = torch.diag_embed(-self.rates - 0.2 * y)
        one = torch.zeros(N, dtype=y.dtype)
        one[0] = 1
        cross = one.expand(N, N) if self.column else -one.unsqueeze(-1).expand(N, N)
        return entries + args * cross

    @property
    def pattern(self) -> Tensor:
        filled = torch.eye(N)
        filled[(slice(None), 0) if self.column else 0] = 1
        return filled


ARGS = torch.tensor(0.3, dtype=torch64)
T = torch.tensor([0.0, 0.2, 0.55, 1.0], dtype=torch64)
KINDS = ["jac", "row", "column"]


def told(kind: str) -> tuple[Arrow, dict[str, Any]]:
    f = Arrow(kind == "column")
    return f, {"jac": f.jac} if kind == "jac" else {"jac_sparsity": f.pattern}


@pytest.mark.parametrize("y0", [Y0, ROWS], ids=["one", "rows"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("t", [T, pytest.param(-0.1 * T, marks=pytest.mark.slow)], ids=["forwards", "backwards"])
@pytest.mark.usefixtures("python_loops")
def test_the_same_steps(t: Tensor, method: str, kind: str, y0: Tensor) -> None:
    f, how = told(kind)
    if method == "implicit_midpoint":
        how["dt"] = 0.02
    assert_same(
        *both(f, y0, t, ARGS, method=method, batch_dims=y0.dim() - 1, rtol=1e-4, **how), nfe=method != "rodas5p"
    )


@pytest.mark.parametrize("y0", [Y0, pytest.param(ROWS, marks=pytest.mark.slow)], ids=["one", "rows"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.usefixtures("python_loops")
def test_the_gradient(method: str, kind: str, y0: Tensor) -> None:
    eager, compiled = (gradient_of(method, kind, y0, runner) for runner in ("eager", "compiled"))
    torch.testing.assert_close(compiled, eager, rtol=1e-9, atol=1e-10)


def gradient_of(method: str, kind: str, y0: Tensor, runner: str) -> list[Tensor]:
    (f, how), start, args = told(kind), y0.clone().requires_grad_(), ARGS.clone().requires_grad_()
    if method == "implicit_midpoint":
        how["dt"] = 0.1
    sol = torchivp.solve(f, start, T, args, method=method, batch_dims=y0.dim() - 1, rtol=1e-4, runner=runner, **how)
    loss = (sol.y.flatten() * torch.linspace(0.5, 1.5, sol.y.numel(), dtype=torch64)).sum()
    return [loss.detach(), *gradients(lambda: loss, [start, args, *f.parameters()])]


@pytest.mark.slow
@pytest.mark.parametrize(("method", "kind"), [("rodas4", "column"), ("kvaerno3", "jac")])
def test_compiled(method: str, kind: str) -> None:
    eager, compiled = (gradient_of(method, kind, Y0, runner) for runner in ("eager", "compiled"))
    torch.testing.assert_close(compiled, eager, rtol=1e-9, atol=1e-10)


@pytest.mark.usefixtures("python_loops")
def test_a_matrix_that_is_not_quite_the_jacobian() -> None:
    """It decides how many iterations there are: so it is this one that is used."""
    f = Arrow()
    pairs = [
        both(
            f, Y0, T, ARGS, method="kvaerno3", rtol=1e-4, jac=lambda t, y, args, share=share: share * f.jac(t, y, args)
        )
        for share in (1.0, 0.8)
    ]
    for pair in pairs:
        assert_same(*pair)
    assert pairs[0][1].stats.nfe < pairs[1][1].stats.nfe


@pytest.mark.usefixtures("python_loops")
def test_a_state_that_f_takes_apart() -> None:
    def f(t: Tensor, y: Tensor) -> Tensor:
        a, b = y.unbind(-1)
        return torch.stack([b - a**2, -30 * b * a], -1)

    y0 = torch.tensor([[0.5, 1.0], [1.5, 0.3]], dtype=torch64)
    pattern = torch.block_diag(torch.ones(2, 2), torch.ones(2, 2))
    for how in ({"jac_sparsity": pattern}, {"jac_sparsity": (1, 1)}, {"jac": torch.func.jacrev(f, argnums=1)}):
        assert_same(*both(f, y0, T, method="rodas4", rtol=1e-4, **how), nfe=False)


def test_what_is_wrong_is_said() -> None:
    f = Arrow()
    solve = lambda **how: torchivp.solve(f, Y0, T, ARGS, method="rodas4", runner="compiled", **how)
    with torch.no_grad(), pytest.raises(InputError, match="outside of the structure"):
        solve(jac_sparsity=torch.eye(N))
    with torch.no_grad(), pytest.raises(InputError, match=r"jac\(t, y\) returned shape"):
        solve(jac=lambda t, y, args: y)
    with torch.no_grad(), pytest.raises(NotCompilable, match="this jac"):
        solve(jac=lambda t, y, args: f.jac(t, y, args) if y.sum() > 0 else -f.jac(t, y, args))
