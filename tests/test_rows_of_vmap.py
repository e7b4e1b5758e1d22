"""A loop over exposed rows of vmap against the same loop for one row at a time, which knows nothing of vmap."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor, func, nn
from torch.autograd import forward_ad
from torch.autograd.functional import hessian, jacobian

from torchivp import rows_of_vmap
from torchivp.rows_of_vmap import expose, hide, row_count

F64 = torch.float64
TOL = 2e-2
Field = Callable[[Tensor, Tensor], Tensor]


@pytest.fixture(params=["as vmap does", "autograd.Function"])
def _both_ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The short way is only open where no derivative is taken inside vmap; the other one has to work there too."""
    if request.param == "autograd.Function":
        monkeypatch.setattr(rows_of_vmap, "_levels", lambda like: None)


def field(t: Tensor, y: Tensor, w: Tensor) -> Tensor:
    return torch.stack([torch.sin(w[0] * y[1] + t) - y[0] ** 2, w[1] * torch.cos(3 * y[0] + t * t) * y[1]])


def next_size(h: float, error: float) -> float:
    return h * min(3.0, max(0.2, 0.9 * (TOL / (error + 1e-12)) ** 0.5))


def alone(f: Field, y: Tensor, t1: Tensor, steps: list[int] | None = None) -> Tensor:
    """Heun with Euler inside, one row, with steps in units of the time there is."""
    s, h, n = 0.0, 0.1, 0
    while s < 1:
        h, n = min(h, 1 - s), n + 1
        k1 = f(s * t1, y)
        k2 = f((s + h) * t1, y + h * t1 * k1)
        error = float(0.5 * h * (t1 * (k2 - k1)).detach().abs().max())
        if error <= TOL:
            s, y = s + h, y + 0.5 * h * t1 * (k1 + k2)
        h = next_size(h, error)
    if steps is not None:
        steps.append(n)
    return y


def together(f: Field, y0: Tensor, t1: Tensor, like: Tensor) -> Tensor:
    """The same for every row at once: each with steps of its own, rows that have arrived or failed stay where they are."""
    y, t1 = expose(y0, like), expose(t1, like).unsqueeze(1)
    s, h = torch.zeros_like(t1.detach()), torch.full_like(t1.detach(), 0.1)

    def slope(s: Tensor, y: Tensor) -> Tensor:
        return expose(f(hide((s * t1).squeeze(1), like), hide(y, like)), like)

    while bool((s < 1).any()):
        h = torch.minimum(h, 1 - s)
        k1 = slope(s, y)
        k2 = slope(s + h, y + h * t1 * k1)
        error = 0.5 * h * (t1 * (k2 - k1)).detach().abs().amax(1, keepdim=True)
        accepted = (error <= TOL) & (s < 1)
        y = torch.where(accepted, y + 0.5 * h * t1 * (k1 + k2), y)
        s = torch.where(accepted, s + h, s)
        h = torch.tensor([[next_size(h[i].item(), error[i].item())] for i in range(row_count(like))], dtype=h.dtype)
    return hide(y, like)


ROWS = torch.tensor([[0.7, -0.4, 4.0, 1.5, 1.0], [0.1, 2.0, 0.3, -0.6, 0.4], [-0.2, 0.9, 9.0, 0.8, 1.0]], dtype=F64)


def row(z: Tensor) -> Tensor:
    """All there is to differentiate in one tensor: initial state, parameters that f closes over, final time."""
    return alone(lambda t, y: field(t, y, z[2:4]), z[:2], z[4])


def rows(z: Tensor) -> Tensor:
    return together(lambda t, y: field(t, y, z[2:4]), z[:2], z[4], like=z)


def number(y: Tensor) -> Tensor:
    return torch.sin(1.3 * y[0] + 0.4) + y[1] ** 2


def loss(f: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda z: number(f(z))


def total(z: Tensor) -> Tensor:
    return func.vmap(loss(rows))(z).sum()


def each(derivative: Callable[[Tensor], Tensor], z: Tensor = ROWS) -> Tensor:
    return torch.stack([derivative(one) for one in z])


def blocks(x: Tensor) -> Tensor:
    """Derivatives of many rows by many rows from those row by row: rows know nothing of each other."""
    return torch.stack([torch.stack([x[i] if i == j else 0 * x[i] for j in range(len(x))], -2) for i in range(len(x))])


def backward(z: Tensor) -> Tensor:
    z = z.clone().requires_grad_()
    total(z).backward()
    assert z.grad is not None
    return z.grad


def double_backward(z: Tensor) -> Tensor:
    z = z.clone().requires_grad_()
    (first,) = torch.autograd.grad(total(z), z, create_graph=True)
    return torch.autograd.grad(first.sum(), z)[0]


def dual(z: Tensor) -> Tensor:
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(func.vmap(rows)(forward_ad.make_dual(z, torch.cos(z)))).tangent
        assert tangent is not None
        return tangent


def pulled(z: Tensor) -> Tensor:
    y, pull = func.vjp(rows, z)
    return pull(torch.cos(y))[0]


@cache
def grads() -> Tensor:
    return each(lambda z: jacobian(loss(row), z))


@cache
def jacobians() -> Tensor:
    return each(lambda z: jacobian(row, z))


@cache
def hessians() -> Tensor:
    return each(lambda z: hessian(loss(row), z))


@cache
def thirds() -> Tensor:
    return each(lambda z: jacobian(lambda z: hessian(loss(row), z, create_graph=True).sum((0, 1)), z))


def tangents() -> Tensor:
    return torch.einsum("bij,bj->bi", jacobians(), torch.cos(ROWS))


def grads_of_squares() -> Tensor:
    return 2 * torch.einsum("bi,bij->bj", grads(), hessians())


NESTINGS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[], Tensor]]] = {
    "vmap": (func.vmap(rows), lambda: each(row)),
    "vmap(grad)": (func.vmap(func.grad(loss(rows))), grads),
    "grad(vmap)": (func.grad(total), grads),
    "backward of vmap": (backward, grads),
    "double backward of vmap": (double_backward, lambda: hessians().sum(1)),
    "vmap(vjp)": (func.vmap(pulled), lambda: torch.einsum("bi,bij->bj", torch.cos(each(row)), jacobians())),
    "vmap(jvp)": (func.vmap(lambda z: func.jvp(rows, (z,), (torch.cos(z),))[1]), tangents),
    "jvp(vmap)": (lambda z: func.jvp(func.vmap(rows), (z,), (torch.cos(z),))[1], tangents),
    "forward_ad of vmap": (dual, tangents),
    "vmap(jacrev)": (func.vmap(func.jacrev(rows)), jacobians),
    "vmap(jacrev), chunked": (func.vmap(func.jacrev(rows, chunk_size=1), chunk_size=2), jacobians),
    "vmap(jacfwd)": (func.vmap(func.jacfwd(rows)), jacobians),
    "jacrev(vmap)": (func.jacrev(func.vmap(rows)), lambda: blocks(jacobians())),
    "jacfwd(vmap)": (func.jacfwd(func.vmap(rows)), lambda: blocks(jacobians())),
    "vmap(hessian)": (func.vmap(func.hessian(loss(rows))), hessians),
    "vmap(jacrev(jacfwd))": (func.vmap(func.jacrev(func.jacfwd(loss(rows)))), hessians),
    "vmap(jacfwd(jacfwd))": (func.vmap(func.jacfwd(func.jacfwd(loss(rows)))), hessians),
    "vmap(jacrev(jacrev))": (func.vmap(func.jacrev(func.jacrev(loss(rows)))), hessians),
    "jacfwd(vmap(grad))": (func.jacfwd(func.vmap(func.grad(loss(rows)))), lambda: blocks(hessians())),
    "jacrev(vmap(grad))": (func.jacrev(func.vmap(func.grad(loss(rows)))), lambda: blocks(hessians())),
    "hessian(vmap)": (lambda z: func.hessian(total)(z).sum(2), hessians),
    "grad(vmap(grad))": (
        lambda z: func.grad(lambda z: (func.vmap(func.grad(loss(rows)))(z) ** 2).sum())(z),
        grads_of_squares,
    ),
    "vmap(grad(grad))": (func.vmap(func.grad(lambda z: (func.grad(loss(rows))(z) ** 2).sum())), grads_of_squares),
    "vmap(jacrev(hessian))": (func.vmap(func.jacrev(lambda z: func.hessian(loss(rows))(z).sum((0, 1)))), thirds),
    "vmap(vmap)": (lambda z: func.vmap(func.vmap(rows))(z[None])[0], lambda: each(row)),
    "vmap(vmap(grad))": (lambda z: func.vmap(func.vmap(func.grad(loss(rows))))(z[:, None])[:, 0], grads),
    "vmap(grad(vmap))": (lambda z: func.vmap(func.grad(total))(z[:, None])[:, 0], grads),
    "grad(vmap(vmap))": (func.grad(lambda z: func.vmap(func.vmap(loss(rows)))(z[None]).sum()), grads),
    "vmap(jacfwd(vmap))": (lambda z: func.vmap(func.jacfwd(func.vmap(rows)))(z[None])[0], lambda: blocks(jacobians())),
}


def assert_same(found: Tensor, expected: Tensor) -> None:
    assert torch.count_nonzero(expected), "nothing is tested"
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12 * float(expected.abs().max()))


@pytest.mark.usefixtures("_both_ways")
@pytest.mark.parametrize("nesting", NESTINGS)
def test_rows_together_are_rows_alone(nesting: str) -> None:
    transform, expected = NESTINGS[nesting]
    assert_same(transform(ROWS), expected())


def test_rows_have_steps_of_their_own() -> None:
    steps: list[int] = []
    for z in ROWS:
        alone(lambda t, y, z=z: field(t, y, z[2:4]), z[:2], z[4], steps)
    assert len(set(steps)) == 3, steps


@pytest.mark.usefixtures("_both_ways")
def test_levels_of_several_sizes_over_several_dimensions() -> None:
    """The rows of the outermost vmap are the slowest, whichever dimension they come from."""
    x = torch.rand(4, 2, 3, dtype=F64)
    seen = []

    def inner(x: Tensor) -> Tensor:
        seen.append(expose(x, x))
        assert row_count(x) == 6
        return hide(2 * seen[-1], x)

    found = func.vmap(func.vmap(inner, in_dims=1, out_dims=1), in_dims=1, out_dims=1)(x)
    assert torch.equal(found, 2 * x)
    assert torch.equal(seen[0], x.permute(1, 2, 0).reshape(6, 4))


@pytest.mark.usefixtures("_both_ways")
def test_what_the_rows_share_is_repeated_and_has_a_gradient_of_each_row() -> None:
    """y0 and t1 have no rows, only the parameters do; nested, so that some levels are those of others."""
    w = ROWS[:, 2:4]
    y0, t1 = ROWS[0, :2], ROWS[0, 4]

    def shared(w: Tensor, y0: Tensor, t1: Tensor) -> Tensor:
        return number(together(lambda t, y: field(t, y, w), y0, t1, like=w + y0))

    def by_row(z: Tensor) -> Tensor:
        return number(alone(lambda t, y: field(t, y, z[2:4]), z[:2], z[4]))

    expected = each(lambda w: jacobian(by_row, torch.cat([y0, w, t1[None]])), w)
    found = func.vmap(func.grad(shared, argnums=(1, 0, 2)), in_dims=(0, None, None))(w, y0, t1)
    assert_same(torch.cat([found[0], found[1], found[2][:, None]], 1), expected)

    def everything(y0: Tensor) -> Tensor:
        return func.vmap(shared, in_dims=(0, None, None))(w, y0, t1).sum()

    assert_same(func.grad(everything)(y0), expected[:, :2].sum(0))
    both = torch.stack([y0, ROWS[1, :2]])
    found = func.vmap(lambda y0: func.vmap(lambda w: func.grad(lambda y0: shared(w, y0 + 0 * w, t1))(y0))(w))(both)
    assert_same(found[0], expected[:, :2])


@pytest.mark.usefixtures("_both_ways")
def test_rows_that_like_does_not_have_stay_hidden() -> None:
    """On both sides of the level that is exposed."""
    a, b = ROWS[:2, :2], ROWS[:, :2]
    expected = a[:, None].sin() * b

    def product(x: Tensor, like: Tensor) -> Tensor:
        return hide(expose(x, like).sin() * expose(like, like), like)

    assert_same(func.vmap(lambda a: func.vmap(lambda b: product(a, b))(b))(a), expected)
    assert_same(func.vmap(lambda b: func.vmap(lambda a: product(a, b))(a))(b), expected.transpose(0, 1))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2, dtype=F64)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return torch.tanh(self.layer(y)) * torch.cos(3 * t)


def test_gradients_of_the_parameters_of_a_network() -> None:
    """Of every sample by functional_call, and of all of them by plain autograd, where the network is closed over."""
    net, y0, t1 = Net(), ROWS[:, :2].contiguous(), torch.tensor(2.0, dtype=F64)
    parameters = dict(net.named_parameters())

    def error(parameters: dict[str, Tensor], y0: Tensor) -> Tensor:
        def f(t: Tensor, y: Tensor) -> Tensor:
            return func.functional_call(net, parameters, (t, y))

        return number(together(f, y0, t1, like=y0))

    def of_all(weight: Tensor, y0: Tensor) -> Tensor:
        f = lambda t, y: func.functional_call(net, {**parameters, "layer.weight": weight}, (t, y))
        return number(alone(f, y0, t1))

    expected = torch.stack([jacobian(lambda w, one=one: of_all(w, one), net.layer.weight) for one in y0])
    detached = {name: p.detach() for name, p in parameters.items()}
    assert_same(func.vmap(func.grad(error), in_dims=(None, 0))(detached, y0)["layer.weight"], expected)
    start = y0.clone().requires_grad_()
    func.vmap(lambda y0: number(together(net, y0, t1, like=y0)))(start).sum().backward()
    assert net.layer.weight.grad is not None
    assert start.grad is not None
    assert_same(net.layer.weight.grad, expected.sum(0))
    assert_same(start.grad, torch.stack([jacobian(lambda y: number(alone(net, y, t1)), one) for one in y0]))


@pytest.mark.usefixtures("_both_ways")
def test_without_vmap_there_is_one_row() -> None:
    z = ROWS[0]
    assert row_count(z) == 1
    assert torch.equal(expose(z, z), z[None])
    assert torch.equal(hide(z[None], z), z)
    assert torch.equal(hide(expose(z[0], z), z), z[0])
    assert_same(func.jacfwd(rows)(z), jacobians()[0])
    assert_same(func.hessian(loss(rows))(z), hessians()[0])
    with pytest.raises(RuntimeError, match="invalid"):
        hide(ROWS, z)


@pytest.mark.usefixtures("_both_ways")
@pytest.mark.parametrize("shape", [(0, 2), (3, 0)])
def test_no_rows_and_nothing_in_them(shape: tuple[int, int]) -> None:
    assert func.vmap(lambda x: hide(expose(x, x) + 1, x))(torch.zeros(shape)).shape == shape


@pytest.mark.usefixtures("_both_ways")
def test_decisions_have_no_gradient() -> None:
    """Masks and counts go both ways as well, at whatever level of differentiation."""

    def positive(x: Tensor) -> Tensor:
        mask, count = expose(x > 0, x), expose((x > 0).long(), x)
        assert mask.dtype == torch.bool
        return (x * hide(mask, x) * hide(count, x)).sum()

    expected = (ROWS > 0).to(F64)
    assert torch.equal(func.vmap(func.grad(positive))(ROWS), expected)
    assert torch.equal(func.grad(lambda x: func.vmap(positive)(x).sum())(ROWS), expected)
    assert torch.equal(func.vmap(func.jacfwd(positive))(ROWS), expected)


@pytest.mark.usefixtures("_both_ways")
def test_like_is_not_differentiated_and_its_graph_not_kept() -> None:
    x, y = ROWS.clone().requires_grad_(), ROWS.clone().requires_grad_()

    def f(x: Tensor, y: Tensor) -> Tensor:
        like = y.sin()
        return hide(expose(x, like), like)

    seen, todo = set(), [func.vmap(f)(x, y).grad_fn]
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            todo += [before for before, _ in node.next_functions]
            assert not any(saved.requires_grad for saved in getattr(node, "saved_tensors", ()))
    leaves = [node.variable for node in seen if hasattr(node, "variable")]
    assert len(leaves) == 1
    assert leaves[0] is x


@pytest.mark.usefixtures("_both_ways")
def test_what_is_exposed_may_be_written_to() -> None:
    x = ROWS.clone()

    def f(x: Tensor) -> Tensor:
        rows = expose(x, x)
        rows[1] = 0
        return hide(rows, x)

    assert torch.equal(func.vmap(f)(x)[1], torch.zeros(5, dtype=F64))
    assert torch.equal(x, ROWS)


def test_rows_mixed_with_what_is_still_hidden_are_refused() -> None:
    with pytest.raises(RuntimeError, match="expose"):
        func.vmap(lambda x: hide(expose(x, x) * x, x))(ROWS)
