"""Derivatives of gradients: ``direct`` and ``discrete`` agree, and both with finite differences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradgradcheck

import torchivp
from gradients.comparison import weighted
from torchivp.methods import METHODS

F64 = torch.float64
KINDS = ["euler", "rk4", "bosh3", "tsit5", "dopri8", "explicit_adams", "implicit_adams"]


def settings(method: str) -> dict[str, Any]:
    return {
        "method": method,
        **({"rtol": 1e-4, "atol": 1e-4, "dt": 0.9} if METHODS[method]().adaptive else {"dt": 0.23}),
    }


def f(t: Tensor, y: Tensor, w: Tensor) -> Tensor:
    return torch.stack([torch.sin(w[0] * t) * y[1] - y[0] ** 2, torch.cos(3 * y[0] + 2 * t) * w[1]])


def second(loss: Tensor, inputs: list[Tensor]) -> tuple[Tensor, Tensor]:
    """The gradient, and the gradient of a function of the gradient."""
    first = torch.autograd.grad(loss, inputs, create_graph=True)
    twice = torch.autograd.grad(weighted(*first), inputs, allow_unused=True)
    flat = [torch.cat([torch.zeros_like(x).reshape(-1) if g is None else g.reshape(-1) for g, x in zip(grads, inputs)])
            for grads in (first, twice)]  # fmt: skip
    return flat[0].detach(), flat[1]


def agree(loss: Callable[[str], Tensor], inputs: list[Tensor]) -> None:
    direct, discrete = (second(loss(gradient), inputs) for gradient in ("direct", "discrete"))
    for a, b in zip(direct, discrete):
        assert float(torch.linalg.vector_norm(a)) > 0
        assert float(torch.linalg.vector_norm(a - b)) <= 1e-11 * float(torch.linalg.vector_norm(a))


@pytest.mark.parametrize("method", KINDS)
def test_all_inputs(method: str) -> None:
    """y0, times, args, and what f closes over."""
    y0 = torch.tensor([0.7, -0.4], dtype=F64, requires_grad=True)
    t = torch.tensor([0.1, 0.333, 0.85], dtype=F64, requires_grad=True)
    w = torch.tensor([4.0, 2.5], dtype=F64, requires_grad=True)
    v = torch.tensor(0.3, dtype=F64, requires_grad=True)

    def loss(gradient: str) -> Tensor:
        sol = torchivp.solve(
            lambda t, y, w: f(t, y, w) - v * y, y0, t, w, gradient=gradient, dense=True, **settings(method)
        )
        return weighted(sol.y, sol(0.7))

    agree(loss, [y0, t, w, v])


DEPENDENT: dict[str, Callable[[Tensor], tuple[Callable, Tensor, Any]]] = {
    "y0 on what f closes over": lambda w: ((lambda t, y: torch.sin(w * y) - y), w / 2, None),
    "y0 on args": lambda w: ((lambda t, y, a: torch.sin(a * y) - y), w / 2, w),
    "args on each other": lambda w: (
        (lambda t, y, a: torch.sin(a[0] * y) - a[1] * y),
        torch.ones(2, dtype=F64),
        (w, w**2),
    ),
    "args on what f closes over": lambda w: ((lambda t, y, a: torch.sin(a * y) - w * y), w.detach() + 1, w**2),
    "closed over on each other": lambda w: (_both(w, w**2), torch.ones(2, dtype=F64), None),
}


def _both(w: Tensor, v: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda t, y: torch.sin(w * y) - v * y


@pytest.mark.parametrize("case", DEPENDENT)
def test_inputs_that_depend_on_each_other(case: str) -> None:
    """Nothing is counted twice, in the first derivative nor in the second."""
    w = torch.tensor([0.7, 1.3], dtype=F64, requires_grad=True)

    def loss(gradient: str) -> Tensor:
        slope, y0, args = DEPENDENT[case](w)
        return weighted(torchivp.solve(slope, y0, (0.0, 1.0), args, gradient=gradient).y)

    agree(loss, [w])
    plain = torch.autograd.grad(loss("discrete"), w)[0]
    created = torch.autograd.grad(loss("discrete"), w, create_graph=True)[0]
    assert torch.allclose(plain, created, rtol=1e-12)


@pytest.mark.parametrize("gradient", ["direct", "discrete"])
@pytest.mark.parametrize("method", ["rk4", "tsit5"])
def test_finite_differences_of_gradients(method: str, gradient: str) -> None:
    y0 = torch.tensor([0.7, -0.4], dtype=F64, requires_grad=True)
    t = torch.tensor([0.1, 0.333, 0.85], dtype=F64, requires_grad=True)
    w = torch.tensor([4.0, 2.5], dtype=F64, requires_grad=True)
    steps = {"rtol": 1e-8, "atol": 1e-8} if method == "tsit5" else {"dt": 0.11}

    def values(y0: Tensor, t: Tensor, w: Tensor) -> Tensor:
        return weighted(torchivp.solve(f, y0, t, w, method=method, gradient=gradient, **steps).y)

    assert gradgradcheck(values, (y0, t, w), eps=1e-5, atol=1e-4, rtol=1e-4, fast_mode=True)


def test_event_times() -> None:
    """The first derivative of an event time by ``discrete`` and ``direct``; the second by both, the same."""
    y0 = torch.tensor([1.0, 0.0], dtype=F64, requires_grad=True)
    w = torch.tensor(2.0, dtype=F64, requires_grad=True)

    def loss(gradient: str) -> Tensor:
        ends = torchivp.Event(lambda t, y: y[0], terminal=True)
        sol = torchivp.solve(
            lambda t, y: torch.stack([y[1], -w * y[0] - 0.1 * y[1] ** 3]),
            y0,
            (0.0, 5.0),
            events=ends,
            gradient=gradient,
        )
        return sol.t_events[0].sum() + sol.y_events[0][0, 1]

    agree(loss, [y0, w])


def test_adjoint_says_that_it_has_none() -> None:
    y0 = torch.tensor([0.7, -0.4], dtype=F64, requires_grad=True)
    y = torchivp.solve(lambda t, y: -(y**3), y0, (0.0, 1.0), gradient="adjoint").y
    (first,) = torch.autograd.grad(y.sum(), y0, create_graph=True)
    with pytest.raises(RuntimeError):
        first.sum().backward()
