"""Gradients of ``odeint`` beside torchdiffeq's: state, times, parameters; twice; and no second look at f."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from parity.side_by_side import (
    FIXED_RK,
    TOLERANCE,
    Count,
    Net,
    Pair,
    close,
    gradients,
    ours,
    pair_state,
    state,
    theirs,
    times,
)

both = (ours, theirs)


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("method", ["dopri8", "dopri5", "bosh3", "adaptive_heun"])
def test_adaptive_methods(method: str, reverse: bool) -> None:
    """torchdiffeq's own error, that of its interpolation, limits how close the two can be."""
    tol = TOLERANCE[method]
    options = {"step_t": times(4)[1:-1]}  # without it torchdiffeq's dopri8 is off by 1e-5

    def run(lib: Any, func: Any, y0: Any, t: Any) -> Any:
        return lib.odeint(func, y0, t, rtol=tol, atol=tol, method=method, options=options)

    a, b = (gradients(lib, run, Net, state(3, 2), times(4, reverse=reverse)) for lib in both)
    close(a, b, {"dopri8": 1e-4, "dopri5": 1e-5, "bosh3": 1e-2, "adaptive_heun": 1e-2}[method])


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("options", [{}, {"step_size": 0.15, "interp": "linear"}, {"step_size": 0.15, "interp": "cubic"},
                                     {"perturb": True}], ids=str)  # fmt: skip
@pytest.mark.parametrize("method", FIXED_RK)
def test_fixed_methods_have_the_very_same_gradients(method: str, options: dict[str, Any], reverse: bool) -> None:
    """The exact derivatives of the numbers returned, for times as well, and on grids that do not hold the times."""

    def run(lib: Any, func: Any, y0: Any, t: Any) -> Any:
        return lib.odeint(func, y0, t, method=method, options=options)

    a, b = (gradients(lib, run, Net, state(3, 2), times(5, reverse=reverse)) for lib in both)
    close(a, b, 1e-11)


@pytest.mark.parametrize("method", ["explicit_adams", "implicit_adams"])
def test_adams(method: str) -> None:
    t = torch.linspace(0, 1, 21, dtype=torch.float64)

    def run(lib: Any, func: Any, y0: Any, t: Any) -> Any:
        return lib.odeint(func, y0, t, rtol=1e-7, atol=1e-9, method=method, options={"max_order": 5})[-1]

    a, b = (gradients(lib, run, Net, state(3, 2), t) for lib in both)
    # Gradients of single times feel each method's own start; those of state, ends and parameters agree.
    a[2], b[2] = (x[2].sum() for x in (a, b))
    close(a, b, 2e-4)


def test_a_grid_that_requires_grad() -> None:
    def run(lib: Any, func: Any, y0: Any, t: Any) -> Any:
        def grid(func: Any, y0: Any, t: Any) -> Any:
            return torch.cat([t[:1], (t[:-1] + 2 * t[1:]) / 3, t[-1:]])

        return lib.odeint(func, y0, t, method="heun3", options={"grid_constructor": grid, "interp": "linear"})

    a, b = (gradients(lib, run, Net, state(2), times(3)) for lib in both)
    close(a, b, 1e-11)


@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_tuple_state(method: str) -> None:
    def run(lib: Any, func: Any, y0: Any, t: Any) -> Any:
        return lib.odeint(func, y0, t, rtol=1e-9, atol=1e-9, method=method)

    a, b = (gradients(lib, run, Pair, pair_state(), times(4)) for lib in both)
    close(a, b, 1e-6)


@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_complex_state(method: str) -> None:
    def run(lib: Any, func: Any, y0: Any, t: Any) -> Any:
        return lib.odeint(
            lambda t, y: (0.5j * (1 + t)) * y * func.bias.sum(), y0, t, rtol=1e-9, atol=1e-9, method=method
        )

    a, b = (gradients(lib, run, Net, state(2, dtype=torch.complex128), times(4)) for lib in both)
    close(a, b, 1e-6)


@pytest.mark.parametrize("method", ["dopri5", "rk4", "explicit_adams"])
def test_twice(method: str) -> None:
    """``odeint`` is differentiable any number of times; here a gradient penalty."""
    results = []
    for lib in both:
        net, y0 = Net(), state(3, 2).requires_grad_()
        y = lib.odeint(
            net,
            y0,
            times(9),
            rtol=1e-9,
            atol=1e-9,
            method=method,
            options={} if method != "explicit_adams" else {"max_order": 4},
        )
        (g,) = torch.autograd.grad((y[-1] ** 2).sum(), y0, create_graph=True)
        results.append(torch.autograd.grad((g**2).sum(), [y0, *net.parameters()]))
    close(*results, 1e-6 if method != "explicit_adams" else 5e-2)


@pytest.mark.parametrize("method", ["dopri5", "rk4", "implicit_adams"])
def test_the_backward_pass_calls_neither_f_nor_callbacks(method: str) -> None:
    net = Net()
    f = Count(net)
    steps = []
    f.callback_step = lambda t0, y0, dt: steps.append(t0)  # type: ignore[attr-defined]
    y = ours.odeint(f, state(2), times(6), method=method, rtol=1e-5, atol=1e-5)
    calls, attempts = f.calls, len(steps)
    y.sum().backward()
    assert (f.calls, len(steps)) == (calls, attempts)
    assert net.weight.grad is not None


def test_closures_and_state_that_do_not_require_grad() -> None:
    scale = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    grads = []
    for lib in both:
        y = lib.odeint(lambda t, y: -scale * y, state(2), times(3), rtol=1e-9, atol=1e-9)
        grads.append(torch.autograd.grad(y.sum(), scale)[0])
        assert not lib.odeint(lambda t, y: -y, state(2), times(3)).requires_grad
        with torch.no_grad():
            assert not lib.odeint(lambda t, y: -scale * y, state(2), times(3)).requires_grad
    close(*grads, 1e-7)


@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_one_time_passes_the_gradient_of_the_state(method: str) -> None:
    for lib in both:
        y0 = state(2).requires_grad_()
        assert torch.equal(
            torch.autograd.grad(lib.odeint(Net(), y0, torch.tensor([0.3]), method=method).sum(), y0)[0], torch.ones(2)
        )


class Flow(nn.Module):
    """A continuous normalizing flow: the trace of the Jacobian by autograd inside f."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net()

    def forward(self, t: Tensor, states: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            z = states[0].requires_grad_(True)
            dz = self.net(t, z)
            trace = sum(torch.autograd.grad(dz[:, i].sum(), z, create_graph=True)[0][:, i] for i in range(2))
        return dz, -trace[:, None]


@pytest.mark.parametrize("method", ["dopri5", "rk4"])
@pytest.mark.parametrize("solve", ["odeint", "odeint_adjoint"])
def test_a_normalizing_flow(solve: str, method: str) -> None:
    results = []
    for lib in both:
        flow, z = Flow(), state(3, 2).requires_grad_()
        zs, logp = getattr(lib, solve)(
            flow, (z, torch.zeros(3, 1)), times(3, reverse=True), rtol=1e-7, atol=1e-7, method=method
        )
        results.append(
            [zs.detach(), logp.detach(), *torch.autograd.grad(zs[-1].sum() + logp[-1].sum(), [z, *flow.parameters()])]
        )
    close(*results, 1e-5)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")  # torch.func's own
@pytest.mark.parametrize("method", ["dopri5", "rk4", "implicit_adams"])
def test_forward_mode_and_functorch(method: str) -> None:
    """jvp, jacfwd and jacrev go through every method (torchdiffeq's adaptive ones have custom functions in the way)."""

    def end(y: Tensor) -> Tensor:
        return ours.odeint(lambda t, y: torch.tanh(y) * t, y, times(3), method=method, rtol=1e-5, atol=1e-5)[-1]

    y0 = state(2)
    jacobian = torch.func.jacrev(end)(y0)
    close(torch.func.jacfwd(end)(y0), jacobian, 1e-12)
    close(torch.func.jvp(end, (y0,), (y0,))[1], jacobian @ y0, 1e-12)
