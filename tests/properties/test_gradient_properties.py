"""What must hold for gradients whatever the network, the dtype, the times and their direction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

import torchivp
from gradients.comparison import weighted
from torchivp import gradients as ways

few = settings(max_examples=12)
F32, F64, C128 = torch.float32, torch.float64, torch.complex128
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "sin": torch.sin,
    "softplus": torch.nn.functional.softplus,
    "relu": torch.relu,
}
SMOOTH = ("tanh", "sin")
BASES = ["tsit5", "dopri5", "dopri8", "bosh3"]


@dataclass(frozen=True)
class Case:
    """A random network, its start, and when it is looked at.

    Attributes:
        activation: a name.
        widths: of the layers; the first one is the size of the state.
        times: of the outputs, strictly monotone, in either direction.
        seed: of the weights and the start.
    """

    activation: str
    widths: list[int]
    dtype: torch.dtype
    times: list[float]
    seed: int

    def gradient(self, gradient: str | ways.Gradient, **kw: Any) -> Tensor:
        """Of y0, the times and all weights, in one vector."""
        draw = torch.Generator().manual_seed(self.seed)
        act = ACTIVATIONS[self.activation]

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=draw, dtype=C128 if self.dtype is C128 else F64).to(self.dtype)

        shapes = list(zip([*self.widths, self.widths[-1]], [*self.widths[1:], self.widths[0]]))
        layers = [(normal(n, m) / m**0.5, normal(n) / 2) for m, n in shapes]
        inputs = [normal(self.widths[0]), torch.tensor(self.times, dtype=F64), *(x for layer in layers for x in layer)]
        y0, t, *weights = (x.requires_grad_() for x in inputs)

        def f(t: Tensor, y: Tensor) -> Tensor:
            for w, b in zip(weights[:-2:2], weights[1:-2:2]):
                y = act(w @ y + b)
            return weights[-2] @ y * torch.cos(t) + weights[-1] / 4

        sol = torchivp.solve(f, y0, t, gradient=gradient, **kw)
        grads = torch.autograd.grad(weighted(sol.y), [y0, t, *weights])
        return torch.cat([torch.view_as_real(g).reshape(-1) if g.is_complex() else g.reshape(-1) for g in grads]).to(
            F64
        )


@st.composite
def cases(
    draw: st.DrawFn,
    activations: tuple[str, ...] = tuple(ACTIVATIONS),
    dtypes: tuple[torch.dtype, ...] = (F32, F64, C128),
) -> Case:
    dtype = draw(st.sampled_from(dtypes))
    sign = draw(st.sampled_from([1.0, -1.0]))
    gaps = draw(st.lists(st.floats(0.02, 0.6), min_size=1, max_size=5))
    first = draw(st.floats(-1, 1))
    return Case(
        activation=draw(st.sampled_from(SMOOTH if dtype is C128 else activations)),
        widths=draw(st.lists(st.integers(1, 6), min_size=1, max_size=3)),
        dtype=dtype,
        times=[first + sign * x for x in accumulate(gaps, initial=0.0)],
        seed=draw(st.integers(0, 10_000)),
    )


def tolerance(dtype: torch.dtype) -> float:
    """How exact an exact gradient is."""
    return 1e-4 if dtype is F32 else 1e-12


def assert_close(a: Tensor, b: Tensor, tol: float) -> None:
    assert torch.linalg.vector_norm(a - b) <= tol * torch.linalg.vector_norm(a)


def settings_for(method: str) -> dict[str, Any]:
    adaptive = torchivp.methods.METHODS[method]().adaptive
    return {"method": method, **({"rtol": 1e-4, "atol": 1e-5} if adaptive else {"dt": 0.1})}


@few
@given(cases(), st.sampled_from(sorted(torchivp.methods.METHODS)))
def test_discrete_is_direct(case: Case, method: str) -> None:
    how = settings_for(method)
    assert_close(case.gradient("direct", **how), case.gradient("discrete", **how), tolerance(case.dtype))


@settings(max_examples=6)
@given(cases(), st.sampled_from(["tsit5", "dopri8", "rk4", "implicit_adams"]), st.integers(1, 9))
def test_what_is_kept_changes_nothing(case: Case, method: str, number: int) -> None:
    """Steps taken once more from a checkpoint are the same to the last bit."""
    how = settings_for(method)
    exact = case.gradient("discrete", **how)
    for way in (ways.Discrete(every="sqrt"), ways.Discrete(every=number), ways.Discrete(checkpoints=number)):
        assert torch.equal(case.gradient(way, **how), exact)


@pytest.mark.parametrize("way", ["adjoint", "interpolated", "gauss"])
@settings(max_examples=6)
@given(cases(activations=("tanh", "sin", "softplus"), dtypes=(F64, C128)), st.sampled_from(["tsit5", "dopri8"]))
def test_continuous_ones_are_close_at_a_tight_tolerance(way: str, case: Case, method: str) -> None:
    how = {"method": method, "rtol": 1e-9, "atol": 1e-10}
    assert_close(case.gradient("direct", **how), case.gradient(way, **how), 1e-6)


@few
@given(cases(), st.one_of(st.sampled_from(["reversible_heun", "alf"]), st.sampled_from(BASES)), st.floats(0.98, 1))
def test_reversible_is_direct(case: Case, name: str, lam: float) -> None:
    method = torchivp.methods.Reversible(name, lam=lam) if name in BASES else name
    how = {"method": method, "rtol": 1e-3, "atol": 1e-4}
    exact = case.gradient("direct", **how)
    assert_close(exact, case.gradient("reversible", **how), 1e-3 if case.dtype is F32 else 1e-10)
