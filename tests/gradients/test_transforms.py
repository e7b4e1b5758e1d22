"""Every gradient method under every transform: the right numbers, or an error that names another method.

The reference is the closed form of the solution under the same transform. What comes out is the table in docs/gradients.md.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, func, nn

import torchivp
from gradients.transforms import OVER_ROWS, TRANSFORMS, Function
from torchivp.gradients import GRADIENTS

F64 = torch.float64
PAGE = Path(__file__).resolve().parents[2] / "docs" / "gradients.md"


# What each gradient method refuses; all else works. The table in the docs is made of this.
AGAIN = ("double backward", "triple backward")
IN_REVERSE = ("grad", "vjp", "jacrev", "hessian", "grad(grad)", "jvp(grad)", "vmap(grad)", "grad(vmap)")
REFUSED: dict[str, tuple[str, ...]] = {
    "direct": (),
    "discrete": (),
    "reversible": (),
    "forward": AGAIN,
    "adjoint": (*AGAIN, *IN_REVERSE),
    "interpolated": (*AGAIN, *IN_REVERSE),
    "gauss": (*AGAIN, *IN_REVERSE),
}
ELSEWHERE = {"implicit"}  # of steady states alone: test_a_steady_state_under_transforms

Y0 = torch.tensor([0.2, 0.5, 0.7], dtype=F64)
W = torch.tensor([1.0, -0.7, 1.6], dtype=F64)
T = torch.tensor([0.1, 0.4, 1.0], dtype=F64)
TIGHT: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-9, "method": "dopri8"}


def settings(gradient: str) -> dict[str, Any]:
    of_its_own = {"reversible": {"method": torchivp.methods.Reversible("dopri8")}}
    return {**TIGHT, "gradient": gradient, **of_its_own.get(gradient, {})}


def slope(t: Tensor, y: Tensor, w: Tensor) -> Tensor:
    return w * y * (1 - y) * torch.cos(t)


def closed_form(y0: Tensor, w: Tensor, t: Tensor) -> Tensor:
    growth = torch.exp(w * (torch.sin(t[-1]) - torch.sin(t[0])))
    return y0 * growth / (1 + y0 * (growth - 1))


class Slope(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(W.clone())

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return slope(t, y, self.w)


class Odeint(nn.Module):
    """The drop-in around a module: its parameters are put in from outside."""

    def __init__(self) -> None:
        super().__init__()
        self.func = Slope()

    def forward(self, y: Tensor) -> Tensor:
        return torchivp.odeint(self.func, y, T, **TIGHT)[-1]


def end(gradient: str, y0: Tensor = Y0, w: Tensor = W, t: Tensor = T) -> Tensor:
    return torchivp.solve(slope, y0, t, w, **settings(gradient)).y[-1]


def in_between(gradient: str, y0: Tensor = Y0, w: Tensor = W, t: Tensor = T) -> Tensor:
    return torchivp.solve(slope, y0, t, w, dense=True, **settings(gradient))(0.5 * (t[0] + t[-1]))


def halfway(y0: Tensor = Y0, w: Tensor = W, t: Tensor = T) -> Tensor:
    return closed_form(y0, w, torch.stack([t[0], 0.5 * (t[0] + t[-1])]))


def block(gradient: str, x: Tensor = Y0, w: Tensor | None = None) -> Tensor:
    layer = torchivp.nn.ODEBlock(Slope(), (0.1, 1.0), **settings(gradient))
    return layer(x) if w is None else func.functional_call(layer, {"func.w": w}, x)


# What is differentiated: the solver's function for a gradient method, its closed form, and the point.
SUBJECTS: dict[str, tuple[Callable[[str], Function], Function, Tensor]] = {
    "y0": (lambda name: lambda y0: end(name, y0=y0), lambda y0: closed_form(y0, W, T), Y0),
    "args": (lambda name: lambda w: end(name, w=w), lambda w: closed_form(Y0, w, T), W),
    "times": (lambda name: lambda t: end(name, t=t), lambda t: closed_form(Y0, W, t), T),
    "block: input": (lambda name: lambda x: block(name, x), lambda x: closed_form(x, W, T), Y0),
}
DENSE: dict[str, tuple[Callable[[str], Function], Function, Tensor]] = {
    "y0": (lambda name: lambda y0: in_between(name, y0=y0), lambda y0: halfway(y0=y0), Y0),
    "args": (lambda name: lambda w: in_between(name, w=w), lambda w: halfway(w=w), W),
    "times": (lambda name: lambda t: in_between(name, t=t), lambda t: halfway(t=t), T),
}
ODEINT: dict[str, tuple[Function, Function, Tensor]] = {
    "y0": (lambda y0: torchivp.odeint(Slope(), y0, T, **TIGHT)[-1], lambda y0: closed_form(y0, W, T), Y0),
    "times": (lambda t: torchivp.odeint(Slope(), Y0, t, **TIGHT)[-1], lambda t: closed_form(Y0, W, t), T),
    "parameters": (
        lambda w: func.functional_call(Odeint(), {"func.w": w}, Y0),
        lambda w: closed_form(Y0, w, T),
        W,
    ),
}


def assert_close(found: Tensor, expected: Tensor, most: float = 2e-6) -> None:
    assert torch.count_nonzero(expected), "no derivative at all: nothing is tested"
    off = float((found - expected).detach().abs().max() / expected.detach().abs().max())
    assert off < most, f"off by {off:.1e}"


def refuses(error: BaseException, gradient: str) -> None:
    """The text names a gradient method to use instead."""
    others = [name for name in GRADIENTS if name != gradient and f"gradient='{name}'" in str(error)]
    assert others, f"no other method is named in: {error}"


def check(name: str, gradient: str, f: Function, closed: Function, x: Tensor) -> None:
    """One cell of the table."""
    refused = None
    try:
        found = TRANSFORMS[name](f, x)
    except (torchivp.GradientError, torchivp.InputError) as error:
        refused = error
    assert (refused is not None) == (name in REFUSED[gradient]), f"not as REFUSED has it: {refused}"
    if refused is None:
        assert_close(found, TRANSFORMS[name](closed, x))
    else:
        refuses(refused, gradient)


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("subject", SUBJECTS)
@pytest.mark.parametrize("gradient", REFUSED)
def test_solve_and_block(gradient: str, subject: str, name: str) -> None:
    f, closed, x = SUBJECTS[subject]
    check(name, gradient, f(gradient), closed, x)


@pytest.mark.parametrize("name", [name for name in TRANSFORMS if name not in OVER_ROWS])
@pytest.mark.parametrize("subject", DENSE)
@pytest.mark.parametrize("gradient", ["direct", "discrete"])
def test_dense_output(gradient: str, subject: str, name: str) -> None:
    f, closed, x = DENSE[subject]
    check(name, gradient, f(gradient), closed, x)


@pytest.mark.parametrize("name", ["vmap", "vmap(grad)"])
@pytest.mark.parametrize("gradient", ["direct", "discrete"])
def test_dense_output_over_rows(gradient: str, name: str) -> None:
    f, closed, x = DENSE["args"]
    check(name, gradient, f(gradient), closed, x)


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("subject", ODEINT)
def test_odeint(subject: str, name: str) -> None:
    f, closed, x = ODEINT[subject]
    assert_close(TRANSFORMS[name](f, x), TRANSFORMS[name](closed, x))


IN_PLAIN_AUTOGRAD = ("backward", "double backward", "triple backward")


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("gradient", REFUSED)
def test_parameters_put_into_a_block(gradient: str, name: str) -> None:
    """functional_call around an ODEBlock. It takes the parameters back out before a later backward pass, which is too late
    only for those that evaluate f in it."""
    if gradient not in ("direct", "forward") and name in IN_PLAIN_AUTOGRAD:
        with pytest.raises(torchivp.GradientError) as error:
            TRANSFORMS[name](lambda w: block(gradient, w=w), W)
        refuses(error.value, gradient)
        return
    check(name, gradient, lambda w: block(gradient, w=w), lambda w: closed_form(Y0, w, T), W)


def test_the_table_covers_every_gradient() -> None:
    assert REFUSED.keys() | ELSEWHERE == GRADIENTS.keys(), "add a line to REFUSED in this file"
    assert all(name in TRANSFORMS for names in REFUSED.values() for name in names)


@pytest.mark.parametrize("name", ["backward", *AGAIN, "grad", "jacrev", "hessian", "forward_ad", "jvp", "jacfwd"])
def test_a_steady_state_under_transforms(name: str) -> None:
    """``y (1 + y^2) = w``. Refused where ``adjoint`` is; forward mode follows the way to the steady state."""

    def rest(w: Tensor) -> Tensor:
        return torchivp.solve(
            lambda t, y, w: w - y * (1 + y * y), torch.zeros(3, dtype=F64), (0.0, 100.0), w, save="end",
            events=torchivp.SteadyState(), gradient="implicit", rtol=1e-8, atol=1e-10,
        ).y[-1]  # fmt: skip

    def closed(w: Tensor) -> Tensor:
        root = torch.sqrt(w * w / 4 + 1 / 27)
        return torch.pow(root + w / 2, 1 / 3) - torch.pow(root - w / 2, 1 / 3)

    if name in REFUSED["adjoint"]:
        with pytest.raises(torchivp.GradientError) as error:
            TRANSFORMS[name](rest, W)
        refuses(error.value, "implicit")
    else:
        assert_close(TRANSFORMS[name](rest, W), TRANSFORMS[name](closed, W), 1e-5)


SHOWN = {
    "backward": "`backward`, `torch.autograd.grad`",
    "forward_ad": "`torch.autograd.forward_ad`",
    "grad(grad)": "`grad(grad)`",
    "jvp(grad)": "`jvp(grad)` (Hessian-vector products)",
    "vmap(grad)": "`vmap(grad)` (per-sample gradients)",
    "backward of vmap": "`backward` through `vmap`",
    "double backward": "double backward (`create_graph=True`)",
    "triple backward": "triple backward",
}


def table() -> str:
    """The table of the docs."""
    lines = ["| | " + " | ".join(f"`{g}`" for g in REFUSED) + " |", "|---|" + "---|" * len(REFUSED)]
    for name in TRANSFORMS:
        cells = ["error" if name in refused else "works" for refused in REFUSED.values()]
        lines.append(f"| {SHOWN.get(name, f'`{name}`')} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def test_the_table_in_the_docs() -> None:
    begin, stop = "<!-- transforms:begin -->\n", "\n<!-- transforms:end -->"
    text = PAGE.read_text()
    assert text.partition(begin)[2].partition(stop)[0].strip() == table(), f"docs/gradients.md should have:\n{table()}"
