"""Tensors that ``f`` closes over get the gradient of ``direct`` under ``discrete``, or an error; a part of it is never missing.

Every case is a function that makes a slope ``f(t, y)`` using the tensor ``w`` in some way.
"""

from __future__ import annotations

import contextlib
import functools
import types
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import torchivp
from gradients.comparison import assert_agree, gradients, weighted

F64 = torch.float64
Slope = Callable[[Tensor, Tensor], Tensor]

GLOBAL_W: Tensor | None = None
GLOBAL_NETS: dict[str, list[nn.Module]] = {}
hidden = types.ModuleType("hidden")
"""A module from which ``f`` takes tensors: attributes of modules are not looked at."""


def solve(f: Callable, y0: Tensor | None = None, gradient: str = "discrete", **kw: Any) -> torchivp.Solution:
    y0 = torch.tensor([0.6, -0.4], dtype=F64) if y0 is None else y0
    return torchivp.solve(f, y0, (0.0, 1.0), gradient=gradient, rtol=1e-5, atol=1e-7, **kw)


@pytest.fixture
def w() -> Tensor:
    return torch.tensor([[0.7, -1.3], [0.9, 0.2]], dtype=F64, requires_grad=True)


# ---- what can be seen


def leaf(w: Tensor) -> Slope:
    return lambda t, y: torch.tanh(w @ y) * torch.cos(t)


def non_leaf(w: Tensor) -> Slope:
    v = w**2 - 1
    return lambda t, y: torch.tanh(v @ y)


def leaf_and_what_is_computed_from_it(w: Tensor) -> Slope:
    v, u = w**2, w * 2
    return lambda t, y: torch.tanh(v @ y) - w @ y + torch.sin(u @ y)


def two_of_which_one_is_computed_from_the_other(w: Tensor) -> Slope:
    v = torch.sin(w)
    u = v * v
    return lambda t, y: v @ y - u @ y


def view_of_a_leaf(w: Tensor) -> Slope:
    row = w[0]
    return lambda t, y: torch.tanh(row * y) + w.T @ y


def default_argument(w: Tensor) -> Slope:
    def f(t: Tensor, y: Tensor, v: Tensor = w, *, u: Tensor = w) -> Tensor:
        return torch.tanh(v @ y) + u.T @ y

    return f


def list_and_dict(w: Tensor) -> Slope:
    things = {"a": [w, {"b": (w * 2,)}], "c": {1, 2}}
    return lambda t, y: things["a"][0] @ y - things["a"][1]["b"][0].T @ y


def partial(w: Tensor) -> Slope:
    return functools.partial(lambda v, t, y, u: v @ y + u @ y, w, u=w.T)


def nested_closure(w: Tensor) -> Slope:
    def inner(y: Tensor) -> Tensor:
        return w @ y

    def outer(y: Tensor) -> Tensor:
        return torch.tanh(inner(y))

    return lambda t, y: outer(y) - y


class Holder:
    """An ordinary object."""

    def __init__(self, w: Tensor):
        self.w = w

    def method(self, t: Tensor, y: Tensor) -> Tensor:
        return torch.tanh(self.w @ y)

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        return self.method(t, y) * torch.cos(t)


class Slots:
    __slots__ = ("w",)

    def __init__(self, w: Tensor):
        self.w = w

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        return torch.tanh(self.w @ y)


@dataclass
class Settings:
    w: Tensor
    names: list[str]


class Pair(NamedTuple):
    w: Tensor
    v: Tensor


def bound_method(w: Tensor) -> Slope:
    return Holder(w).method


def callable_object(w: Tensor) -> Slope:
    return Holder(w)


def slots(w: Tensor) -> Slope:
    return Slots(w)


def dataclass_attribute(w: Tensor) -> Slope:
    settings = Settings(w, ["a"])
    return lambda t, y: torch.tanh(settings.w @ y)


def named_tuple(w: Tensor) -> Slope:
    pair = Pair(w, torch.sin(w))
    return lambda t, y: torch.tanh(pair.w @ y) - pair.v @ y


def a_global(w: Tensor) -> Slope:
    global GLOBAL_W
    GLOBAL_W = w
    return lambda t, y: torch.tanh(GLOBAL_W @ y)


def used_by_a_helper_that_is_global(w: Tensor) -> Slope:
    global GLOBAL_W
    GLOBAL_W = w
    return lambda t, y: _helper(y) - y


def _helper(y: Tensor) -> Tensor:
    return torch.tanh(GLOBAL_W @ y)


def decorated(w: Tensor) -> Slope:
    def plain(t: Tensor, y: Tensor) -> Tensor:
        return torch.tanh(w @ y)

    return functools.wraps(plain)(functools.lru_cache(maxsize=None)(lambda *a: None) and (lambda t, y: plain(t, y)))


def module_attribute(w: Tensor) -> Slope:
    """A leaf that only the evaluation shows."""
    hidden.leaf = w
    return lambda t, y: torch.tanh(hidden.leaf @ y)


class Buffers(nn.Module):
    def __init__(self, w: Tensor):
        super().__init__()
        self.register_buffer("leaf", w)
        self.register_buffer("computed", w * 1.5)
        self.register_buffer("constant", torch.ones(2, dtype=F64))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return torch.tanh(self.leaf @ y) - self.computed.T @ y * self.constant


def buffers(w: Tensor) -> Slope:
    return Buffers(w)


class Plain(nn.Module):
    """A plain list of modules, which nn.Module does not register, and a module in a dict in it."""

    def __init__(self, w: Tensor):
        super().__init__()
        self.nets = [Buffers(w), {"more": Buffers(w + 1)}]

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.nets[0](t, y) - self.nets[1]["more"](t, y)


def plain_list_of_modules(w: Tensor) -> Slope:
    return Plain(w)


def nested_modules(w: Tensor) -> Slope:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.ModuleDict({"a": nn.ModuleList([Buffers(w)])})
            self.plain = w.sin()

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return self.net["a"][0](t, y) + self.plain @ y

    return Outer()


def hook_of_a_module(w: Tensor) -> Slope:
    net = nn.Identity()
    net.register_forward_hook(lambda module, args, out: torch.tanh(w @ out))
    return lambda t, y: net(y)


def functional_call_inside(w: Tensor) -> Slope:
    """Parameters computed beforehand, put into a module within f."""
    net = nn.Linear(2, 2, bias=False, dtype=F64)
    net.requires_grad_(False)
    params = {"weight": w.sin()}
    return lambda t, y: torch.tanh(torch.func.functional_call(net, params, (y,)))


def functional_call_inside_of_leaves(w: Tensor) -> Slope:
    net = nn.Linear(2, 2, bias=False, dtype=F64)
    return lambda t, y: torch.func.functional_call(net, {"weight": w}, (y,))


def used_later_only(w: Tensor) -> Slope:
    return lambda t, y: -y if t < 0.5 else torch.tanh(w @ y)


SEEN = [
    leaf, non_leaf, leaf_and_what_is_computed_from_it, two_of_which_one_is_computed_from_the_other, view_of_a_leaf,
    default_argument, list_and_dict, partial, nested_closure, bound_method, callable_object, slots, dataclass_attribute,
    named_tuple, a_global, used_by_a_helper_that_is_global, decorated, module_attribute, buffers, plain_list_of_modules,
    nested_modules, hook_of_a_module, functional_call_inside, functional_call_inside_of_leaves, used_later_only,
]  # fmt: skip


@pytest.mark.parametrize("make", SEEN, ids=lambda make: make.__name__)
def test_gradient_is_that_of_direct(make: Callable[[Tensor], Slope], w: Tensor) -> None:
    """With y0 that requires grad, and without."""
    for y0 in (torch.tensor([0.6, -0.4], dtype=F64, requires_grad=True), torch.tensor([0.6, -0.4], dtype=F64)):
        inputs = [w, y0] if y0.requires_grad else [w]
        assert_agree(lambda gradient, y0=y0: weighted(solve(make(w), y0, gradient).y), inputs)


@pytest.mark.parametrize("make", SEEN, ids=lambda make: make.__name__)
def test_adjoint_sees_them_too(make: Callable[[Tensor], Slope], w: Tensor) -> None:
    """To the tolerance of the solves."""
    direct, adjoint = (weighted(solve(make(w), gradient=gradient).y) for gradient in ("direct", "adjoint"))
    (a,), (b,) = gradients(direct, [w]), gradients(adjoint, [w])
    assert torch.allclose(a, b, rtol=1e-3, atol=1e-4)


def test_all_at_once(w: Tensor) -> None:
    """Every way in one f."""

    def loss(gradient: str) -> Tensor:
        slopes = [make(w) for make in SEEN]
        return weighted(solve(lambda t, y: sum(f(t, y) for f in slopes) / 9, gradient=gradient).y)

    assert_agree(loss, [w])


ARGS: dict[str, Callable[[Tensor], Any]] = {
    "the same tensor": lambda w: [w],
    "and one computed from it": lambda w: [w, w.sin()],
    "computed from it": lambda w: [w * 2],
}


@pytest.mark.parametrize("make", ARGS.values(), ids=ARGS.keys())
def test_args_too(make: Callable[[Tensor], list[Tensor]], w: Tensor) -> None:
    """The same tensor as an argument and closed over, y0 computed from it."""

    def f(t: Tensor, y: Tensor, args: list[Tensor]) -> Tensor:
        return torch.tanh(w @ y) + sum(a.T @ y for a in args) / 2

    def loss(gradient: str) -> Tensor:
        return weighted(torchivp.solve(f, w[0] / 2, (0.0, 1.0), make(w), gradient=gradient).y)

    assert_agree(loss, [w])


class Keeps(nn.Module):
    """Keeps its last output, as one does for a picture or a penalty."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(2, 2, dtype=F64)
        self.last: Tensor | None = None
        self.all: list[Tensor] = []

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        self.last = torch.tanh(self.net(y))
        self.all.append(self.last)
        return self.last


@pytest.mark.parametrize("gradient", ["direct", "discrete", "adjoint"])
def test_a_module_that_keeps_its_last_output(gradient: str) -> None:
    """Through several iterations: what is left from the one before has a graph that is gone."""
    f = Keeps()
    found = []
    for _ in range(3):
        f.zero_grad()
        solve(f, gradient=gradient).y[-1].sum().backward()
        found.append(f.net.weight.grad.clone())
    assert bool(found[0].any())
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[1], found[2])


@pytest.mark.parametrize("gradient", ["direct", "discrete", "adjoint"])
def test_weight_norm(gradient: str) -> None:
    """A parametrised weight is computed anew in every evaluation, from parameters of its own."""
    net = torch.nn.utils.parametrizations.weight_norm(nn.Linear(2, 2, dtype=F64))
    inputs = list(net.parameters())
    reference = gradients(weighted(solve(lambda t, y: torch.tanh(net(y)), gradient="direct").y), inputs)
    for _ in range(2):
        found = gradients(weighted(solve(lambda t, y: torch.tanh(net(y)), gradient=gradient).y), inputs)
        tol = 1e-4 if gradient == "adjoint" else 1e-12
        assert all(torch.allclose(a, b, rtol=tol, atol=tol) for a, b in zip(reference, found))


# ---- what cannot be seen: a right gradient, or an error that names the way out


def computed_and_hidden(w: Tensor) -> Slope:
    """A non-leaf in a module's attribute: neither looking at f nor its graph shows that it is an input."""
    hidden.computed = w.sin()
    return lambda t, y: torch.tanh(hidden.computed @ y)


def in_an_iterator(w: Tensor) -> Slope:
    """Behind an object written in C that cannot be looked into."""
    v = w.sin()

    def tensors() -> Iterator[Tensor]:
        while True:
            yield v

    source = tensors()
    return lambda t, y: torch.tanh(next(source) @ y)


def functional_call_with_hidden_parameters(w: Tensor) -> Slope:
    net = nn.Linear(2, 2, bias=False, dtype=F64)
    hidden.params = {"weight": w.sin()}
    return lambda t, y: torch.func.functional_call(net, hidden.params, (y,))


def hidden_until_later(w: Tensor) -> Slope:
    hidden.late = w
    return lambda t, y: -y if t < 0.5 else torch.tanh(hidden.late @ y)


def computed_and_hidden_until_later(w: Tensor) -> Slope:
    hidden.late_computed = w.sin()
    return lambda t, y: -y if t < 0.5 else torch.tanh(hidden.late_computed @ y)


def frozen_module_with_hidden_parameters(w: Tensor) -> Slope:
    net = nn.Linear(2, 2, bias=False, dtype=F64).requires_grad_(False)
    hidden.frozen_params = {"weight": w.sin()}
    return lambda t, y: torch.func.functional_call(net, hidden.frozen_params, (y,)) if t > 0.3 else y


UNSEEN = [
    computed_and_hidden, in_an_iterator, functional_call_with_hidden_parameters, hidden_until_later,
    computed_and_hidden_until_later, frozen_module_with_hidden_parameters,
]  # fmt: skip


@pytest.mark.parametrize("gradient", ["discrete", "adjoint"])
@pytest.mark.parametrize("y0_grad", [True, False], ids=["y0 requires grad", "nothing else does"])
@pytest.mark.parametrize("make", UNSEEN, ids=lambda make: make.__name__)
def test_right_or_an_error(make: Callable[[Tensor], Slope], y0_grad: bool, gradient: str, w: Tensor) -> None:
    """The loss has a part beside the solve, so that a gradient that is not asked for would go unnoticed."""
    y0 = torch.tensor([0.6, -0.4], dtype=F64, requires_grad=y0_grad)
    (weighted(solve(make(w), y0, "direct").y) + w.sum()).backward()
    expected, w.grad = w.grad, None
    assert not torch.allclose(expected, torch.ones_like(w))
    with contextlib.suppress(torchivp.GradientError):
        (weighted(solve(make(w), y0, gradient).y) + w.sum()).backward()
        tol = 1e-3 if gradient == "adjoint" else 1e-12
        assert torch.allclose(w.grad, expected, rtol=tol, atol=tol)


@pytest.mark.parametrize("gradient", ["discrete", "adjoint"])
@pytest.mark.parametrize("make", UNSEEN[:3], ids=lambda make: make.__name__)
def test_the_error_names_the_way_out(make: Callable[[Tensor], Slope], gradient: str, w: Tensor) -> None:
    """What the first evaluation shows is reported before anything is computed."""
    with pytest.raises(torchivp.GradientError, match=r"Pass them as `args`.*gradient='direct'"):
        solve(make(w), gradient=gradient)


@pytest.mark.parametrize("make", [computed_and_hidden, hidden_until_later, computed_and_hidden_until_later])
def test_second_derivatives_miss_nothing_either(make: Callable[[Tensor], Slope], w: Tensor) -> None:
    y0 = torch.tensor([0.6, -0.4], dtype=F64, requires_grad=True)
    with pytest.raises(torchivp.GradientError, match="args"):
        torch.autograd.grad(solve(make(w), y0).y.sum() + w.sum(), [y0, w], create_graph=True, allow_unused=True)


class Field(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(OrderedDict(a=nn.Linear(2, 4), b=nn.Tanh(), c=nn.Linear(4, 2)))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.net(y) * torch.cos(t)


@pytest.mark.parametrize("frozen", [True, False], ids=["own parameters frozen", "own parameters trained"])
@pytest.mark.parametrize("gradient", ["direct", "discrete", "adjoint"])
def test_functional_call_around_a_block(gradient: str, frozen: bool) -> None:
    """The parameters are swapped back before the backward pass: where f is asked again then, that is an error."""
    model = nn.Sequential(nn.Linear(2, 2), torchivp.nn.ODEBlock(Field(), gradient=gradient), nn.Linear(2, 1)).double()
    model.requires_grad_(not frozen)
    x = torch.randn(3, 2, dtype=F64)
    params = {name: (p.detach() * 1.2 + 0.1).requires_grad_() for name, p in model.named_parameters()}
    reference = nn.Sequential(
        nn.Linear(2, 2), torchivp.nn.ODEBlock(Field(), gradient="direct"), nn.Linear(2, 1)
    ).double()
    reference.load_state_dict({name: p.detach() for name, p in params.items()})
    reference(x).square().sum().backward()
    loss = torch.func.functional_call(model, params, (x,)).square().sum()
    if gradient != "direct":
        with pytest.raises(torchivp.GradientError, match="args"):
            loss.backward()
        return
    loss.backward()
    for name, p in reference.named_parameters():
        assert torch.allclose(params[name].grad, p.grad, rtol=1e-10), name


@pytest.mark.parametrize("gradient", ["direct", "discrete", "adjoint"])
def test_parameters_changed_before_the_backward_pass(gradient: str) -> None:
    """In place: the error autograd has for it. Replaced by others: the right gradient or an error."""
    f = Field().double()
    y = solve(f, gradient=gradient).y
    with torch.no_grad():
        f.net.a.weight.mul_(1.1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()

    f = Field().double()
    old = f.net.a.weight
    y = solve(f, gradient=gradient).y
    f.net.a.weight = nn.Parameter(2 * old.detach())
    if gradient == "direct":
        assert bool(gradients(y.sum(), [old])[0].any())
    else:
        with pytest.raises(torchivp.GradientError):
            y.sum().backward()


def test_nothing_requires_grad() -> None:
    """No graph, no tape, no error."""
    sol = solve(lambda t, y: -y)
    assert not sol.y.requires_grad
    with torch.no_grad():
        assert not solve(Field().double()).y.requires_grad
    with torch.inference_mode():
        assert not solve(Field().double(), torch.tensor([0.1, 0.2], dtype=F64)).y.requires_grad
