"""``method="auto"``: two methods that take turns."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import torchivp
from stiff_problems import STIFF
from torchivp import InputError
from torchivp.gradients import Discrete
from torchivp.methods import Auto, Kvaerno5, Rodas5P, Rosenbrock23, Tsit5
from torchivp.methods.erk import Vern7
from torchivp.stiffness import Switching

START = torch.tensor([2.0, 0.0], dtype=torch.float64)
MU = torch.tensor(100.0, dtype=torch.float64)


def van_der_pol(t: Tensor, y: Tensor, mu: Tensor) -> Tensor:
    a, b = y.unbind(-1)
    return torch.stack([b, mu * (1 - a**2) * b - a], -1)


def relaxing(t: Any, **settings: Any) -> torchivp.Solution:
    """An oscillator that is stiff but for two short moments of every turn (of 163)."""
    mu = settings.pop("mu", MU)
    settings = {"method": "auto", "rtol": 1e-6, "atol": 1e-8, **settings}
    return torchivp.solve(van_der_pol, settings.pop("y0", START), t, mu, **settings)


def three_body(t: Tensor, y: Tensor) -> Tensor:
    q, v = y[:2], y[2:]
    return torch.cat([v, -q / torch.linalg.vector_norm(q) ** 3])


# ---- choice


def test_who_is_chosen() -> None:
    chosen = {(rtol, width): Auto().suited(rtol, width).members for rtol in (1e-1, 1e-6, 1e-7) for width in (50, 51)}
    names = {key: [type(m) for m in members] for key, members in chosen.items()}
    assert names == {
        (1e-1, 50): [Tsit5, Rosenbrock23],
        (1e-6, 50): [Tsit5, Rodas5P],
        (1e-7, 50): [Vern7, Rodas5P],
        (1e-1, 51): [Tsit5, Kvaerno5],
        (1e-6, 51): [Tsit5, Kvaerno5],
        (1e-7, 51): [Vern7, Kvaerno5],
    }
    assert [type(m) for m in Auto(stiff="kvaerno5").suited(1e-9, 3).members] == [Vern7, Kvaerno5]


def test_the_tightest_tolerance_counts() -> None:
    f, y0 = (lambda t, y: -y), torch.ones(2, dtype=torch.float64)
    tight = torchivp.solve(f, y0, (0.0, 1.0), method="auto", rtol=torch.tensor([1e-3, 1e-8]), save="steps")
    vern7 = torchivp.solve(f, y0, (0.0, 1.0), method="vern7", rtol=torch.tensor([1e-3, 1e-8]), save="steps")
    assert torch.equal(tight.y, vern7.y)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"nonstiff": "bosh3"}, "do not tell whether"),
        ({"nonstiff": "dop853"}, "do not tell whether"),
        ({"nonstiff": "rk4_classic"}, "no error estimate"),
        ({"nonstiff": "kvaerno5"}, "do not tell whether"),
        ({"nonstiff": "auto"}, "do not tell whether"),
        ({"stiff": "tsit5"}, "no adaptive implicit method"),
        ({"stiff": "gauss4"}, "no adaptive implicit method"),
        ({"stiff": "auto"}, "no adaptive implicit method"),
    ],
)
def test_members_that_do_not_fit(wrong: dict[str, str], why: str) -> None:
    with pytest.raises(InputError, match=why):
        Auto(**wrong)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"batch_dims": 1, "y0": START.expand(3, 2)}, "one by one"),
        ({"controller": torchivp.FixedSteps(dt=0.1)}, "fixes them"),
        ({"runner": "compiled"}, "Auto"),
        ({"gradient": "reversible"}, "cannot do"),
    ],
)
def test_what_does_not_go_with_it(settings: dict[str, Any], why: str) -> None:
    with pytest.raises(InputError, match=why):
        relaxing((0.0, 1.0), **settings)


def test_runner_auto_falls_back() -> None:
    assert relaxing((0.0, 1.0), runner="auto").success


# ---- solutions


@pytest.mark.parametrize("problem", ["van der Pol, 1000", "HIRES", "Robertson"])
@pytest.mark.parametrize("rtol", [1e-4, 1e-6, pytest.param(1e-8, marks=pytest.mark.slow)])
def test_stiff_problems(problem: str, rtol: float) -> None:
    """As good as the tolerance, and for no more evaluations than the better of its stiff member's 25 % more."""
    p = STIFF[problem]

    def solved(method: str) -> torchivp.Solution:
        with torch.no_grad():
            return torchivp.solve(p.f, p.start, (0.0, p.t1), method=method, rtol=rtol, atol=p.atol(rtol))

    auto, implicit = solved("auto"), solved("rodas5p")
    assert p.error(auto.y[-1], rtol) < 10
    assert auto.stats.nfe < 1.25 * implicit.stats.nfe
    assert auto.stats.switches >= 1


def test_it_switches_forth_and_back() -> None:
    """Van der Pol's oscillator jumps twice a turn, and is not stiff then."""
    with torch.no_grad():
        sol = relaxing((0.0, 200.0), save="end")
        implicit = relaxing((0.0, 200.0), save="end", method="rodas5p", rtol=1e-7, atol=1e-9)
    assert sol.stats.switches >= 4
    torch.testing.assert_close(sol.y, implicit.y, rtol=1e-4, atol=1e-6)
    assert sol.stats.njev < sol.stats.accepted < sol.stats.nfe


@pytest.mark.parametrize(("rtol", "method"), [(1e-3, "tsit5"), (1e-6, "tsit5"), (1e-8, "vern7")])
def test_problems_that_are_not_stiff(rtol: float, method: str) -> None:
    """Bit by bit the solve of the explicit method."""
    orbit = torch.tensor([0.3, 0.0, 0.0, (1.7 / 0.3) ** 0.5], dtype=torch.float64)

    def solved(method: str) -> torchivp.Solution:
        return torchivp.solve(three_body, orbit, (0.0, 13.0), method=method, rtol=rtol, atol=rtol, save="steps")

    auto, explicit = solved("auto"), solved(method)
    assert torch.equal(auto.t, explicit.t)
    assert torch.equal(auto.y, explicit.y)
    assert auto.stats == explicit.stats
    assert auto.stats.switches == 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_dense_output_and_events(dtype: torch.dtype) -> None:
    """Steps of two methods, whose polynomials have other degrees."""
    zero = torchivp.Event(lambda t, y, mu: y[..., 0])
    t = torch.linspace(0, 200, 41, dtype=torch.float64)
    settings = {
        "y0": START.to(dtype),
        "mu": MU.to(dtype),
        "rtol": 1e-5,
        "atol": 1e-6,
        "method": Auto("vern7", "rodas5p"),
        "dense": True,
    }
    sol = relaxing(t, events=zero, **settings)
    assert sol.stats.switches >= 4
    torch.testing.assert_close(sol.y, sol(t), rtol=1e-5, atol=1e-5)
    truth = relaxing(t, events=zero, method="rodas5p", rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(sol.y[:, 0].double(), truth.y[:, 0], rtol=1e-2, atol=1e-3)
    assert len(sol.t_events[0]) == len(truth.t_events[0]) == 2


def test_going_on() -> None:
    first = relaxing((0.0, 60.0))
    sol = torchivp.solve(van_der_pol, None, 120.0, MU, start=first, method="auto", rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(sol.y[-1], relaxing((0.0, 120.0)).y[-1], rtol=1e-4, atol=1e-6)


def test_jumps() -> None:
    """A method that takes over at a jump begins afresh, as any."""
    sol = torchivp.solve(
        lambda t, y: -1000 * (y - torch.where(t < 1, 1.0, 2.0)), torch.zeros(1, dtype=torch.float64), (0.0, 2.0),
        method="auto", jump_times=[1.0], rtol=1e-6, atol=1e-9,
    )  # fmt: skip
    assert float(sol.y[-1]) == pytest.approx(2.0, abs=1e-6)
    assert sol.stats.switches >= 1


def test_complex_states_and_steps_backwards() -> None:
    start = torch.ones(2, dtype=torch.complex128)
    sol = torchivp.solve(lambda t, y: (1000 - 1j) * (y - torch.cos(t)), start, (0.0, -3.0), method="auto")
    assert sol.stats.switches == 1
    assert abs(complex(sol.y[-1, 0]) - torch.cos(torch.tensor(3.0)).item()) < 1e-2


# ---- gradients


SMALL_MU, TIMES = torch.tensor(30.0, dtype=torch.float64), (0.0, 2.0, 4.0)


@pytest.fixture(scope="module")
def by_differences() -> Tensor:
    """d/dy0 and d/dmu of the sum of squares at two times, by central differences of solves that are much more accurate."""

    def loss(point: Tensor) -> Tensor:
        sol = relaxing(TIMES, y0=point[:2], mu=point[2], rtol=1e-10, atol=1e-12, method="dop853")
        return (sol.y[1:] ** 2).sum()

    here = torch.tensor([*START.tolist(), float(SMALL_MU)], dtype=torch.float64)
    steps = torch.diag(torch.tensor([1e-3, 1e-2, 1e-2], dtype=torch.float64))
    with torch.no_grad():
        return torch.stack([(loss(here + h) - loss(here - h)) / (2 * h.sum()) for h in steps])


@pytest.mark.parametrize(
    "gradient",
    ["discrete", "direct", "interpolated", "gauss", "forward", Discrete(every="sqrt"), Discrete(checkpoints=5)],
    ids=str,
)
def test_gradients(gradient: Any, by_differences: Tensor) -> None:
    """Each step taken again by whom it was taken."""
    y0, mu = START.clone().requires_grad_(), SMALL_MU.clone().requires_grad_()
    sol = relaxing(TIMES, y0=y0, mu=mu, gradient=gradient, rtol=1e-7, atol=1e-9, method=Auto("tsit5"))
    assert sol.stats.switches >= 1
    at_y0, at_mu = torch.autograd.grad((sol.y[1:] ** 2).sum(), [y0, mu])
    torch.testing.assert_close(torch.cat([at_y0, at_mu[None]]), by_differences, rtol=1e-4, atol=1e-6)


def test_the_discrete_gradient_is_that_of_the_computed_solution() -> None:
    grads = []
    for gradient in ("discrete", "direct"):
        y0, mu = START.clone().requires_grad_(), MU.clone().requires_grad_()
        sol = relaxing((0.0, 100.0), y0=y0, mu=mu, gradient=gradient, rtol=1e-4, atol=1e-6)
        assert sol.stats.switches >= 2
        grads.append(torch.cat([g.flatten() for g in torch.autograd.grad(sol.y[-1].sum(), [y0, mu])]))
    torch.testing.assert_close(*grads, rtol=1e-10, atol=1e-12)


def test_the_adjoint_switches_too() -> None:
    """A decay onto a moving state, where the way back is short enough to be stable."""
    rate = torch.tensor(1000.0, dtype=torch.float64, requires_grad=True)
    found: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        switch = Switching.switch
        patch.setattr(Switching, "switch", lambda self, *args: (found.append(1), switch(self, *args))[1])
        sol = torchivp.solve(
            lambda t, y, rate: -rate * (y - torch.cos(t)), torch.ones(1, dtype=torch.float64), (0.0, 1.0), rate,
            method="auto", gradient="gauss", rtol=1e-5, atol=1e-7,
        )  # fmt: skip
        forward = len(found)
        (by_rate,) = torch.autograd.grad(sol.y[-1].sum(), rate)
    assert forward == sol.stats.switches >= 1
    assert len(found) > forward
    t, r = torch.ones((), dtype=torch.float64), rate.detach().clone().requires_grad_()
    exact = (r**2 * torch.cos(t) + r * torch.sin(t)) / (r**2 + 1)  # but for what has decayed
    assert float(by_rate) == pytest.approx(float(torch.autograd.grad(exact, r)[0]), rel=1e-3)


def test_under_vmap_rows_switch_together() -> None:
    mus = torch.tensor([10.0, 100.0], dtype=torch.float64)
    both = torch.func.vmap(lambda mu: relaxing((0.0, 60.0), mu=mu).y[-1])(mus)
    torch.testing.assert_close(
        both, torch.stack([relaxing((0.0, 60.0), mu=mu).y[-1] for mu in mus]), rtol=1e-4, atol=1e-5
    )
