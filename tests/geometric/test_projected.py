"""``Projected``: on the manifold after every step, of the order of its base; gradients, rows, interpolants."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

import torchivp
from torchivp import InputError, solve
from torchivp.manifolds import Orthogonal, Sphere
from torchivp.methods import Method, Projected

F64 = torch.float64
Y0 = torch.tensor([0.6, 0.0, 0.8], dtype=F64)


def axis(t: Tensor) -> Tensor:
    """Around which everything turns, ``[..., 3]``."""
    return torch.stack([torch.sin(3 * t), torch.cos(2 * t), 1 + t], dim=-1)


def turning(t: Tensor, y: Tensor) -> Tensor:
    return torch.linalg.cross(axis(t).to(y), y)


def rotating(t: Tensor, r: Tensor) -> Tensor:
    """The same of a matrix, column by column."""
    return torch.linalg.cross(axis(t).to(r).unsqueeze(-1).expand_as(r), r, dim=-2)


def fixed(n: int, end: float = 1.5) -> dict[str, Any]:
    return {"controller": torchivp.FixedSteps(dt=end / n)}


def off(y: Tensor) -> float:
    return float((y.norm(dim=-1) - 1).abs().max())


@pytest.mark.parametrize("base", ["midpoint", "bosh3", "rk4", "tsit5"])
def test_order_is_kept(base: str) -> None:
    """At the steps, on the sphere to rounding; and between them, where the interpolant meets the steps."""
    accurate = solve(turning, Y0, (0.0, 1.5), method="dopri8", rtol=1e-12, atol=1e-12, dense=True)
    times = torch.linspace(0, 1.5, 37, dtype=F64)
    series = []
    for n in (15, 30, 60, 120):
        sol = solve(turning, Y0, (0.0, 1.5), method=Projected(base, Sphere()), save="steps", dense=True, **fixed(n))
        assert off(sol.y) < 4e-16
        assert float((sol(sol.t) - sol.y).abs().max()) < 1e-13
        errors = [(sol.y - accurate(sol.t)).abs().max(), (sol(times) - accurate(times)).abs().max()]
        series.append([float(e) for e in errors])
    order = Projected(base, Sphere()).order
    for column in np.log2(np.array(series)).T:
        assert -np.polyfit(range(4), column, 1)[0] > min(order, 5) - 0.2, series


def test_without_it_the_sphere_is_left() -> None:
    plain, projected = (solve(turning, Y0, (0.0, 5.0), method=m) for m in ("tsit5", Projected("tsit5", Sphere())))
    assert off(plain.y) > 1e-7
    assert off(projected.y) < 4e-16
    assert projected.stats.nfe > plain.stats.nfe


def test_the_error_estimate_is_that_of_the_base() -> None:
    """Both of its two."""
    plain, projected = (
        solve(turning, Y0, (0.0, 5.0), method=m, rtol=1e-8, dt=0.1) for m in ("dop853", Projected("dop853", Sphere()))
    )
    assert abs(projected.stats.attempted - plain.stats.attempted) <= 1


def test_stages_that_were_not_solved_are_no_step() -> None:
    jumps = lambda t, y: torch.where(y > 0.5, -10.0, 10.0)
    method = Projected("implicit_euler", lambda y: y)
    sol = solve(jumps, torch.ones(1, dtype=F64), (0.0, 1.0), method=method, dt=0.5, throw=False)
    assert sol.status is torchivp.Status.NEWTON_FAILED


def test_the_slope_after_a_projection_is_a_new_one() -> None:
    """Each step is the base's own from the projected state: one by one they are the same."""
    chosen = Projected("tsit5", Sphere(2.0))
    sol = solve(turning, 2 * Y0, (0.0, 1.0), method=chosen, save="steps", **fixed(5, 1.0))
    for t0, t1, start, end in zip(sol.t, sol.t[1:], sol.y, sol.y[1:]):
        alone = solve(turning, start, torch.stack([t0, t1]), method="tsit5", controller=torchivp.FixedSteps())
        assert torch.allclose(Sphere(2.0)(alone.y[-1]), end, atol=1e-15)


@pytest.mark.parametrize("base", ["tsit5", "rk4"])
def test_rotations(base: str) -> None:
    start = torch.eye(3, dtype=F64).flip(0)  # of determinant -1, which it keeps
    sol = solve(rotating, start, (0.0, 2.0), method=Projected(base, Orthogonal()), save="steps", **fixed(60, 2.0))
    assert float((sol.y @ sol.y.mT - torch.eye(3, dtype=F64)).abs().max()) < 2e-15
    assert torch.allclose(torch.linalg.det(sol.y), torch.full((61,), -1.0, dtype=F64))
    accurate = solve(rotating, start, (0.0, 2.0), method="dopri8", rtol=1e-10, atol=1e-10)
    assert torch.allclose(sol.y[-1], accurate.y[-1], atol=1e-4)


@pytest.mark.parametrize("make", [lambda: Projected("tsit5", Orthogonal()), lambda: Projected("rk4", Orthogonal())])
def test_gradients(make: Any) -> None:
    """Discrete and direct agree to rounding, and with finite differences; of the start, the times and a parameter."""

    def loss(r: Tensor, t: Tensor, w: Tensor, gradient: str) -> Tensor:
        sol = solve(lambda t, y: w * rotating(t, y), r, t, method=make(), gradient=gradient, **fixed(8, 1.0))
        return (sol.y[1:] * torch.arange(9.0, dtype=F64).view(3, 3)).sin().sum()

    given = [torch.linalg.qr(torch.randn(3, 3, dtype=F64, generator=torch.Generator().manual_seed(2))).Q,
             torch.tensor([0.0, 0.41, 1.0], dtype=F64), torch.tensor(0.8, dtype=F64)]  # fmt: skip
    found = []
    for gradient in ("direct", "discrete"):
        leaves = [x.clone().requires_grad_() for x in given]
        loss(*leaves, gradient).backward()
        found.append([x.grad for x in leaves])
    for a, b in zip(*found):
        assert torch.allclose(a, b, rtol=1e-11, atol=1e-12)
    assert torch.autograd.gradcheck(
        lambda r, w: loss(r, given[1], w, "direct"), [x.clone().requires_grad_() for x in given[::2]]
    )


def test_rows() -> None:
    start = normalize(torch.randn(3, 3, dtype=F64, generator=torch.Generator().manual_seed(0)), dim=-1)
    times = torch.tensor([[0.0, 0.3, 2.0], [0.0, 0.1, 0.4], [0.0, -0.5, -1.0]], dtype=F64)
    method = Projected("tsit5", Sphere())
    sol = solve(turning, start, times, method=method, batch_dims=1)
    assert off(sol.y[:, -1]) < 4e-16
    for i in range(3):
        assert torch.allclose(solve(turning, start[i], times[i], method=method).y, sol.y[i], atol=1e-12)
    together = torch.func.vmap(lambda y: solve(turning, y, (0.0, 0.4), method=method).y[-1])(start)
    assert torch.allclose(together[1], sol.y[1, -1], atol=1e-12)


def test_any_callable_projects_any_state() -> None:
    """A tree of which one part is projected; and an Nystroem method."""

    def project(state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"y": normalize(state["y"], dim=-1), "n": state["n"]}

    def f(t: Tensor, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"y": turning(t, state["y"]), "n": torch.ones_like(state["n"])}

    sol = solve(f, {"y": Y0, "n": torch.zeros(2, dtype=F64)}, (0.0, 1.0), method=Projected("dopri5", project))
    assert off(sol.y["y"]) < 4e-16
    assert torch.allclose(sol.y["n"][-1], torch.ones(2, dtype=F64))
    circle = torchivp.SecondOrder(lambda t, x: -x)
    start = (torch.tensor([1.0, 0.0], dtype=F64), torch.tensor([0.0, 1.0], dtype=F64))
    both = Projected("rkn4", lambda s: (normalize(s[0], dim=-1), normalize(s[1], dim=-1)))
    sol = solve(circle, start, (0.0, 1.0), method=both, dt=0.1)
    assert torch.allclose(sol.y[0][-1], torch.tensor([0.5403023, 0.8414710], dtype=F64), atol=1e-5)


def test_manifolds() -> None:
    generator = torch.Generator().manual_seed(5)
    y = torch.randn(4, 3, dtype=F64, generator=generator)
    assert torch.allclose(Sphere(3.0)(y).norm(dim=-1), torch.full((4,), 3.0, dtype=F64))
    for dtype in (F64, torch.complex128):
        x = torch.randn(5, 4, 4, dtype=dtype, generator=generator)
        u, _, vh = torch.linalg.svd(x)
        near = u @ torch.diag_embed(torch.tensor([0.1, 0.5, 1.0, 10.0], dtype=F64)).to(dtype) @ vh
        assert torch.allclose(Orthogonal()(near), u @ vh, atol=1e-12)
        assert torch.allclose(Orthogonal()(u @ vh), u @ vh, atol=1e-14)
    start = torch.eye(3, dtype=F64).requires_grad_()  # all singular values equal
    assert torch.autograd.gradcheck(Orthogonal(), start)


def test_what_is_refused() -> None:
    for base in ("alf", "reversible_heun", "leapfrog", "explicit_adams"):
        with pytest.raises(InputError, match=r"carries more.*Projected\('tsit5'"):
            Projected(base, Sphere())
    with pytest.raises(TypeError, match="manifold"):  # the library's own error, or that of the type checks of the tests
        Projected("tsit5", torch.ones(3))
    with pytest.raises(InputError, match="radius=0"):
        Sphere(0.0)
    with pytest.raises(torchivp.SolveError, match=r"The projection made.*Return a state like"):
        solve(turning, Y0, (0.0, 1.0), method=Projected("tsit5", lambda y: y[:2]))
    assert isinstance(Projected("tsit5", Sphere()), Method)
    assert repr(Projected("tsit5", Sphere())) == "Projected(Tsit5(), Sphere(radius=1.0))"
