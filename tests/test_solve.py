"""The front door: what states, times, arguments and tolerances may be, and what it says to input that makes no sense."""

from __future__ import annotations

import collections
import dataclasses
import functools
import json
import math
import subprocess
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

import torchivp
from torchivp import InputError, InputTypeError, solve

TIGHT: dict[str, Any] = {"method": "dopri8", "rtol": 1e-9, "atol": 1e-11}
METHODS = sorted(torchivp.methods.METHODS)
FIXED = [name for name in METHODS if not torchivp.methods.METHODS[name]().adaptive]


def decay(t: Tensor, y: Tensor) -> Tensor:
    return -y


def shifted(shift: float, t: Tensor, y: Tensor) -> Tensor:
    return shift - y


def growth(t: Tensor, y: Tensor) -> Tensor:
    """y = y0 exp(sin t): not autonomous."""
    return torch.cos(t) * y


# ---- states


@pytest.mark.parametrize(
    ("y0", "shape", "dtype"),
    [
        (2.0, (), torch.float32),
        (2, (), torch.float32),
        (2 + 0j, (), torch.complex64),
        ([2.0, 2.0], (2,), torch.float32),
        ((2, 2.0), (2,), torch.float32),
        ([[2.0, 2.0, 2.0]], (1, 3), torch.float32),
        (np.float64(2.0), (), torch.float64),
        (np.full((2, 2), 2.0), (2, 2), torch.float64),
        (np.full(3, 2.0, dtype=np.float16), (3,), torch.float16),
        (np.full(3, 2.0, dtype=np.complex64), (3,), torch.complex64),
        (np.linspace(2.0, 2.0, 4)[::-1], (4,), torch.float64),
        (np.broadcast_to(2.0, (3,)), (3,), torch.float64),
        (torch.tensor(2.0, dtype=torch.float64), (), torch.float64),
        (torch.full((3, 2), 2.0).T, (2, 3), torch.float32),
        (torch.full((1,), 2.0).expand(5), (5,), torch.float32),
    ],
    ids=repr,
)
def test_a_state_is_anything_like_an_array(y0: Any, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    sol = solve(decay, y0, (0.0, 1.0))
    assert sol.y.shape == (2, *shape)
    assert sol.y.dtype == dtype
    precision = max(1e-5, torch.finfo(dtype).eps)
    torch.testing.assert_close(
        sol.y[-1], torch.full(shape, 2 / math.e, dtype=dtype), rtol=2 * precision, atol=2 * precision
    )


def test_a_number_follows_the_default_dtype() -> None:
    torch.set_default_dtype(torch.float64)
    assert solve(decay, 1, 1).y.dtype == torch.float64
    assert solve(decay, [1, 2], 1).y.dtype == torch.float64


@pytest.mark.parametrize("t", [(0.0, 1.0), (1.0, 1.0)])
def test_the_solution_has_memory_of_its_own(t: tuple[float, float]) -> None:
    for y0 in (np.ones(3), torch.ones(3), {"a": torch.ones(3)}):
        sol = solve(decay if not isinstance(y0, dict) else lambda t, y: {"a": -y["a"]}, y0, t)
        (y0["a"] if isinstance(y0, dict) else y0)[:] = 7  # type: ignore[index,call-overload]
        assert torch.equal((sol.y["a"] if isinstance(y0, dict) else sol.y)[0], torch.ones(3).to(sol.resume.y))


@pytest.mark.parametrize(
    ("dtype", "precision"),
    [
        (torch.float16, 1e-3),
        (torch.bfloat16, 8e-3),
        (torch.float32, 2e-6),
        (torch.float64, 1e-8),
        (torch.complex64, 2e-6),
        (torch.complex128, 1e-8),
    ],
    ids=str,
)
@pytest.mark.parametrize("method", ["tsit5", "dopri8", "bosh3", "rk4", "implicit_adams"])
def test_every_dtype(method: str, dtype: torch.dtype, precision: float) -> None:
    """The slope's dtype, the time's and the state's are the user's; the result is as accurate as the dtype allows."""
    rate = complex(-0.5, 2.0) if dtype.is_complex else -0.5
    seen = set()

    def f(t: Tensor, y: Tensor) -> Tensor:
        seen.add((t.dtype, t.dim(), y.dtype, y.shape))
        return rate * y

    y0 = torch.tensor([1.0, -2.0]).to(dtype)
    wide = max(1e-8 if method != "bosh3" else 1e-9, torch.finfo(dtype).eps)
    sol = solve(
        f,
        y0,
        (0.0, 1.0),
        method=method,
        dt=None if method in ("tsit5", "dopri8", "bosh3") else 0.02,
        rtol=wide,
        atol=wide,
    )
    real = torch.finfo(dtype).dtype
    assert seen == {(getattr(torch, real), 0, dtype, (2,))}
    assert sol.y.dtype == dtype
    exact = torch.tensor([1.0, -2.0], dtype=torch.complex128) * np.exp(rate)
    assert (sol.y[-1].to(torch.complex128) - exact).abs().max() < max(2 * precision, 1e-6 if method in FIXED else 0)


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 3), (2, 1, 3, 2), (0,), (0, 3), (2, 0, 4)], ids=str)
@pytest.mark.parametrize(
    ("method", "gradient"), [("tsit5", "discrete"), ("dopri8", "direct"), ("explicit_adams", "discrete")]
)
def test_every_shape(shape: tuple[int, ...], method: str, gradient: str) -> None:
    y0 = torch.rand(shape, dtype=torch.float64, requires_grad=True)
    t = torch.linspace(0, 1, 21, dtype=torch.float64)
    sol = solve(growth, y0, t, method=method, gradient=gradient, rtol=1e-7, atol=1e-7)
    assert sol.success
    assert sol.y.shape == (21, *shape)
    torch.testing.assert_close(sol.y[-1], y0 * math.exp(math.sin(1)), rtol=1e-5, atol=1e-7)
    sol.y[-1].sum().backward()
    torch.testing.assert_close(
        y0.grad, torch.full(shape, math.exp(math.sin(1)), dtype=torch.float64), rtol=1e-5, atol=0
    )


class Pair(NamedTuple):
    x: Tensor
    v: Tensor


@dataclasses.dataclass(frozen=True)
class Body:
    x: Tensor
    v: Tensor


@dataclasses.dataclass
class World:
    bodies: list[Body]
    heat: Tensor


def pair(x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    return v, -x


X0 = torch.tensor([1.0, 0.5], dtype=torch.float64)
V0 = torch.tensor([0.0, -1.0], dtype=torch.float64)
TREES: dict[str, tuple[Any, Callable[..., Any], Callable[[Any], tuple[Tensor, Tensor]]]] = {
    "tuple": ((X0, V0), lambda t, y: pair(*y), tuple),
    "list": ([X0, V0], lambda t, y: list(pair(*y)), tuple),
    "namedtuple": (Pair(X0, V0), lambda t, y: Pair(*pair(*y)), tuple),
    "dict": (
        {"x": X0, "v": V0},
        lambda t, y: dict(zip(("x", "v"), pair(y["x"], y["v"]))),
        lambda y: (y["x"], y["v"]),
    ),
    "ordered": (
        collections.OrderedDict(x=X0, v=V0),
        lambda t, y: collections.OrderedDict(x=y["v"], v=-y["x"]),
        lambda y: (y["x"], y["v"]),
    ),
    "dataclass": (Body(X0, V0), lambda t, y: Body(*pair(y.x, y.v)), lambda y: (y.x, y.v)),
    "with None": (
        {"x": X0, "v": V0, "no": None},
        lambda t, y: {"x": y["v"], "v": -y["x"], "no": None},
        lambda y: (y["x"], y["v"]),
    ),
    "nested": (
        {"a": [(X0,), {"b": V0}]},
        lambda t, y: {"a": [(y["a"][1]["b"],), {"b": -y["a"][0][0]}]},
        lambda y: (y["a"][0][0], y["a"][1]["b"]),
    ),
}


@pytest.mark.parametrize("name", TREES)
def test_pytrees_come_back_as_they_went_in(name: str) -> None:
    """The same numbers as the flat solve, bit for bit, in the user's structure, with the time axis in front."""
    y0, f, parts = TREES[name]
    t = torch.linspace(0, 3, 7, dtype=torch.float64)
    kinds = set()

    def spy(t: Tensor, y: Any) -> Any:
        kinds.add(type(y))
        return f(t, y)

    sol = solve(spy, y0, t, **TIGHT)
    flat = solve(lambda t, y: torch.cat(pair(y[:2], y[2:])), torch.cat([X0, V0]), t, **TIGHT)
    assert kinds == {type(y0)}
    assert type(sol.y) is type(y0)
    x, v = parts(sol.y)
    if name in ("tuple", "list", "namedtuple", "dataclass"):  # the others sort their keys
        assert torch.equal(torch.cat([x, v], dim=1), flat.y)
    exact = X0 * torch.cos(t).unsqueeze(1) + V0 * torch.sin(t).unsqueeze(1)
    torch.testing.assert_close(x, exact, rtol=0, atol=1e-7)


def test_a_dataclass_in_a_list_in_a_dataclass() -> None:
    y0 = World([Body(X0, V0), Body(2 * X0, V0)], torch.tensor(1.0))

    def f(t: Tensor, y: World) -> World:
        return World([Body(b.v, -b.x) for b in y.bodies], -y.heat)

    sol = solve(f, y0, (0.0, math.pi), **TIGHT)
    assert isinstance(sol.y, World)
    assert isinstance(sol.y.bodies[1], Body)
    torch.testing.assert_close(sol.y.bodies[1].x[-1], -2 * X0, rtol=0, atol=1e-7)
    assert sol.y.heat.dtype == torch.float32
    assert sol.y.heat.shape == (2,)


def test_mixed_dtypes_and_shapes_in_one_state() -> None:
    y0 = {
        "half": torch.ones(2, dtype=torch.float16),
        "single": torch.ones(2, 1),
        "double": torch.ones((), dtype=torch.float64),
        "wave": torch.ones(3, dtype=torch.complex64),
        "none": torch.ones(0, 5),
    }
    times, kinds = set(), set()

    def f(t: Tensor, y: dict[str, Tensor]) -> dict[str, Tensor]:
        times.add(t.dtype)
        kinds.add(tuple(x.dtype for x in y.values()))
        return {k: (1j * x if k == "wave" else -x) for k, x in y.items()}

    sol = solve(f, y0, (0.0, 1.0))
    assert times == {torch.float64}
    assert kinds == {tuple(x.dtype for x in y0.values())}
    assert {k: (x.dtype, x.shape[1:]) for k, x in sol.y.items()} == {k: (x.dtype, x.shape) for k, x in y0.items()}
    assert list(sol.y) == list(y0)
    assert abs(sol.y["double"][-1].item() - math.exp(-1)) < 1e-5
    assert abs(sol.y["half"][-1, 0].item() - math.exp(-1)) < 1e-3
    assert abs(sol.y["wave"][-1, 0].item() - complex(math.cos(1), math.sin(1))) < 1e-5


@pytest.mark.parametrize(
    "f",
    [
        lambda t, y: [y[1], -y[0]],
        lambda t, y: [y[1], -1 * y[0]],
        lambda t, y: (y[1], -y[0]),
    ],
)
def test_a_list_for_a_tuple_is_understood(f: Callable[..., Any]) -> None:
    one, nil = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    sol = solve(f, (one, nil), (0.0, math.pi), **TIGHT)
    assert isinstance(sol.y, tuple)
    assert abs(sol.y[0][-1].item() + 1) < 1e-7


def test_keys_of_a_dict_in_any_order() -> None:
    sol = solve(lambda t, y: {"v": -y["x"], "x": y["v"]}, {"x": X0, "v": V0}, (0.0, math.pi), **TIGHT)
    assert list(sol.y) == ["x", "v"]
    torch.testing.assert_close(sol.y["x"][-1], -X0, rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    "slope", [3.0, 3, torch.tensor(3.0), torch.tensor(3), torch.full((2, 2), 3.0).half()], ids=repr
)
def test_slopes_that_are_surely_meant(slope: Any) -> None:
    """A number for every entry, or a lower precision."""
    sol = solve(lambda t, y: slope, torch.ones(2, 2, dtype=torch.float64), (0.0, 2.0))
    torch.testing.assert_close(sol.y[-1], torch.full((2, 2), 7.0, dtype=torch.float64))


# ---- f and its arguments


def test_args_are_handed_on_as_they_are() -> None:
    args = {"rate": torch.tensor(2.0, dtype=torch.float64), "name": "x", "n": [1, (2,)]}
    seen = []

    def f(t: Tensor, y: Tensor, given: Any) -> Tensor:
        seen.append(given)
        return -given["rate"] * y

    sol = solve(f, torch.ones(1, dtype=torch.float64), (0.0, 1.0), args, **TIGHT)
    assert abs(sol.y[-1].item() - math.exp(-2)) < 1e-8
    assert all(a["name"] == "x" and a["n"] == [1, (2,)] for a in seen)


@pytest.mark.parametrize("args", [0.5, (), 0, [], {"k": 0.5}], ids=repr)
def test_anything_but_none_makes_a_third_argument(args: Any) -> None:
    given = []
    solve(lambda t, y, a: (given.append(a), -y)[1], torch.ones(1), (0.0, 0.1), args)
    assert given
    assert all(a == args for a in given)


def test_any_callable_is_an_f() -> None:
    class Decay:
        rate = 1.0

        def __call__(self, t: Tensor, y: Tensor) -> Tensor:
            return -self.rate * y

        def method(self, t: Tensor, y: Tensor) -> Tensor:
            return self(t, y)

    class Net(torch.nn.Module):
        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return -y

    y0 = torch.ones(2)
    results = [solve(f, y0, 1.0).y for f in (decay, Decay(), Decay().method, Net(), functools.partial(shifted, 0.0))]
    assert all(torch.equal(r, results[0]) for r in results)


def test_f_knows_nothing_of_autograd_without_need() -> None:
    """Without anything to differentiate the result carries no graph; under no_grad neither."""
    w = torch.ones(1, requires_grad=True)
    assert not solve(decay, torch.ones(1), 1.0).y.requires_grad
    with torch.no_grad():
        assert not solve(lambda t, y: -w * y, torch.ones(1), 1.0).y.requires_grad
    with torch.inference_mode():
        assert not solve(lambda t, y: -w * y, torch.ones(1), 1.0).y.requires_grad
    assert solve(lambda t, y: -w * y, torch.ones(1), 1.0).y.requires_grad


@pytest.mark.parametrize("method", [*METHODS, "bdf", "auto"])
def test_f_may_return_the_same_buffer_every_time(method: str) -> None:
    """Autograd refuses such an ``f``: implicit methods find their Jacobians by differences, with and without the buffer."""
    out = torch.empty(2, dtype=torch.float64)

    def f(t: Tensor, y: Tensor) -> Tensor:
        return torch.mul(torch.cos(t), y, out=out)

    def copied(t: Tensor, y: Tensor) -> Tensor:
        return f(t, y).clone()

    dt = 0.1 if method in FIXED else None
    with torch.no_grad():
        for options in ({"save": "steps"}, {"save": lambda t, y: y[0]}):
            results = [
                solve(g, torch.ones(2).double(), 1.0, method=method, dt=dt, rtol=1e-3, dense=True, **options)
                for g in (f, copied)
            ]
            assert torch.equal(results[0].y, results[1].y)
            assert torch.equal(results[0](0.77), results[1](0.77))


def test_a_solve_inside_a_solve() -> None:
    """y' = -z(1/2), z' = -w z, z(0) = y: a decay of rate k = exp(-w / 2); and its gradient."""
    w = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)

    def f(t: Tensor, y: Tensor) -> Tensor:
        return -solve(lambda s, z: -w * z, y, 0.5, method="rk4", dt=0.1).y[-1]

    k = math.exp(-0.5)
    for gradient in ("discrete", "direct", "adjoint"):
        sol = solve(f, torch.ones(1, dtype=torch.float64), 1.0, rtol=1e-7, atol=1e-9, gradient=gradient)
        assert sol.y[-1].item() == pytest.approx(math.exp(-k), abs=1e-6)
        (grad,) = torch.autograd.grad(sol.y[-1].sum(), w)
        assert grad.item() == pytest.approx(0.5 * k * math.exp(-k), abs=1e-6)


# ---- times


@pytest.mark.parametrize(
    "t",
    [
        2,
        2.0,
        np.float32(2.0),
        torch.tensor(2.0),
        torch.tensor(2),
        (0, 2),
        [0.0, 1.0, 2.0],
        range(3),
        np.linspace(0, 2, 5),
        np.arange(3),
        torch.arange(3),
        torch.linspace(0, 2, 5),
        (0.0, torch.tensor(2.0)),
        [torch.tensor(0), torch.tensor(2.0, dtype=torch.float64)],
        (np.float32(0), np.int64(2)),
    ],
    ids=repr,
)
def test_times_in_every_form(t: Any) -> None:
    sol = solve(growth, torch.ones(1, dtype=torch.float64), t, **TIGHT)
    assert sol.t.dtype == torch.float64
    assert (sol.t[0], sol.t[-1]) == (0, 2)
    torch.testing.assert_close(sol.y[:, 0], torch.exp(torch.sin(sol.t)), rtol=1e-7, atol=0)


DECREASING = [-2.0, (0, -2), np.linspace(0, -2, 5), np.linspace(-2, 0, 5)[::-1], torch.tensor(-2.0)]


@pytest.mark.parametrize("t", DECREASING, ids=repr)
def test_times_may_decrease(t: Any) -> None:
    sol = solve(growth, torch.ones(1, dtype=torch.float64), t, **TIGHT)
    assert (sol.t[0], sol.t[-1]) == (0, -2)
    assert (sol.t.diff() < 0).all()
    torch.testing.assert_close(sol.y[:, 0], torch.exp(torch.sin(sol.t)), rtol=1e-7, atol=0)


@pytest.mark.parametrize("method", METHODS)
def test_backwards_is_forwards_in_a_mirror(method: str) -> None:
    """y' = cos(t) y is its own mirror image under (t, y) -> (-t, 1 / y); in reversed time the very same steps are taken."""
    dt = None if torchivp.methods.METHODS[method]().adaptive else 0.05
    options = {"method": method, "dt": dt, "rtol": 1e-4, "atol": 1e-6, "save": "steps"}
    back = solve(lambda t, y: -torch.cos(t) * y, torch.ones(1, dtype=torch.float64), (0.5, -1.5), **options)
    forth = solve(lambda s, y: torch.cos(-s) * y, torch.ones(1, dtype=torch.float64), (-0.5, 1.5), **options)
    assert torch.equal(back.t, -forth.t)
    assert torch.equal(back.y, forth.y)
    assert back.stats == forth.stats


@pytest.mark.parametrize("gradient", ["discrete", "direct", "adjoint"])
@pytest.mark.parametrize("method", ["tsit5", "dopri8", "rk4", "implicit_adams"])
@pytest.mark.parametrize(("t", "n"), [((1.5, 1.5), 2), ([1.5], 1), (torch.tensor([1.5]), 1)], ids=str)
def test_no_interval(t: Any, n: int, method: str, gradient: str) -> None:
    """t0 == t1, or one time: the state as it is, as often as asked for, without asking f, and with its gradient."""

    def never(t: Tensor, y: Tensor) -> Tensor:
        raise AssertionError("f was asked")

    y0 = torch.rand(3, dtype=torch.float64, requires_grad=True)
    sol = solve(never, y0, t, method=method, gradient=gradient, dense=gradient != "adjoint")
    assert sol.success
    assert sol.t.tolist() == [1.5] * n
    assert torch.equal(sol.y, y0.expand(n, 3))
    assert sol.stats.nfe == sol.stats.attempted == 0
    sol.y.sum().backward()
    assert torch.equal(y0.grad, torch.full((3,), float(n), dtype=torch.float64))
    if gradient != "adjoint":
        assert torch.equal(sol(1.5), y0)


@pytest.mark.parametrize("save", ["t", "steps", "end", lambda t, y: y * 2])
def test_no_interval_whatever_is_saved(save: Any) -> None:
    sol = solve(decay, torch.ones(2), (1.0, 1.0), save=save)
    assert sol.success
    assert sol.y[-1].tolist() == ([2.0, 2.0] if callable(save) else [1.0, 1.0])
    assert len(sol.t) == len(sol.y) == {"steps": 1, "end": 1}.get(save, 2)


def test_zero_as_a_number_is_no_interval() -> None:
    sol = solve(decay, torch.ones(2), 0)
    assert sol.t.tolist() == [0]
    assert sol.y.tolist() == [[1.0, 1.0]]


@pytest.mark.parametrize("t0", [0.0, 1.0, -1e6, 1e-300])
def test_the_smallest_intervals(t0: float) -> None:
    """Down to one unit in the last place: nothing is lost, nothing loops."""
    for ulps in (1, 3, 1000):
        t1 = t0 + ulps * math.ulp(t0)
        sol = solve(decay, torch.ones(1, dtype=torch.float64), (t0, t1), save="steps", max_steps=100)
        assert sol.t[-1].item() == t1
        assert (sol.t.diff() > 0).all()
        assert abs(sol.y[-1].item() - math.exp(t0 - t1)) < 1e-9


def test_an_empty_batch() -> None:
    net = torch.nn.Linear(3, 3)
    for gradient in ("discrete", "direct", "adjoint"):
        sol = solve(lambda t, y: net(y), torch.ones(0, 3), torch.linspace(0, 1, 4), gradient=gradient)
        assert sol.success
        assert sol.y.shape == (4, 0, 3)
        sol.y.sum().backward()


def test_an_empty_batch_by_an_implicit_method() -> None:
    for method in ("trbdf2", "rodas5p", "radau5", "radau3", "bdf"):
        assert solve(lambda t, y: -y, torch.ones(0, 3), torch.linspace(0, 1, 4), method=method).y.shape == (4, 0, 3)


def test_a_large_slope_at_a_late_time_still_moves() -> None:
    """Hairer's first step is below the precision of the time there."""
    sol = solve(lambda t, y: 1e25 * torch.ones_like(y), torch.ones(1, dtype=torch.float64), (1.0, 2.0), save="steps")
    assert (sol.t.diff() > 0).all()
    assert abs(sol.y[-1].item() / 1e25 - 1) < 1e-12
    assert sol.stats.attempted < 100


def test_a_first_step_below_the_precision_of_time_still_moves() -> None:
    sol = solve(decay, torch.ones(1), (1.0, 2.0), dt=1e-30, save="steps")
    assert (sol.t.diff() > 0).all()
    assert sol.stats.attempted < 100


# ---- where f is asked


EVERY_KIND = ["tsit5", "dopri8", "bosh3", "rk4_classic", "explicit_adams", "implicit_adams"]


@pytest.mark.parametrize(
    ("method", "dtype"),
    [
        *((m, torch.float64) for m in METHODS),
        *((m, d) for m in EVERY_KIND for d in (torch.float32, torch.float16, torch.bfloat16)),
    ],
    ids=str,
)
@pytest.mark.parametrize("t", [(0.7, 1.3), (1.3, 0.7), (0.1, 0.3), (-0.3, 0.1)], ids=str)
def test_f_is_never_asked_outside_the_interval(method: str, t: tuple[float, float], dtype: torch.dtype) -> None:
    """Not by the probe of the first step, not by a stage, not by the dense output, not by rounding of the time."""
    asked = []

    def f(t: Tensor, y: Tensor) -> Tensor:
        asked.append(t.double().item())
        return torch.cos(t) * y

    y0 = torch.ones(2, dtype=dtype)
    tol = max(1e-4, torch.finfo(dtype).eps)
    solve(f, y0, t, method=method, rtol=tol, atol=tol, dense=True, jump_times=[0.2], dt=None)
    solve(f, y0, t, method=method, rtol=tol, atol=tol, dt=0.07, save="steps")
    assert min(t) <= min(asked)
    assert max(asked) <= max(t)


def test_the_probe_of_the_first_step_stays_inside() -> None:
    """A slope so flat that Hairer's probe would go far."""
    asked = []
    solve(lambda t, y: (asked.append(t.item()), 1e-9 * y)[1], torch.ones(1, dtype=torch.float64), (0.0, 1e-3))
    assert min(asked) >= 0
    assert max(asked) <= 1e-3


def test_evaluations_are_counted_exactly() -> None:
    calls = []

    def f(t: Tensor, y: Tensor) -> Tensor:
        calls.append(1)
        return torch.cos(t) * y

    for method in METHODS:
        for save in ("end", "t"):
            calls.clear()
            sol = solve(f, torch.ones(1), torch.linspace(0, 2, 9), method=method, save=save, rtol=1e-3, atol=1e-3)
            assert sol.stats.nfe == len(calls), method
            assert sol.stats.attempted == sol.stats.accepted + sol.stats.rejected


@pytest.mark.parametrize(
    ("method", "per_step"), [("euler", 1), ("midpoint", 2), ("heun3", 3), ("rk4", 4), ("rk4_classic", 4)]
)
def test_fixed_steps_cost_what_the_tableau_says(method: str, per_step: int) -> None:
    sol = solve(growth, torch.ones(1), (0.0, 1.0), method=method, dt=0.1)
    assert sol.stats.accepted == 10
    assert sol.stats.nfe == 10 * per_step


def test_first_same_as_last_is_used() -> None:
    """6 evaluations a step of tsit5, and two to start."""
    sol = solve(growth, torch.ones(1, dtype=torch.float64), (0.0, 5.0), rtol=1e-8, atol=1e-8)
    assert sol.stats.nfe == 6 * sol.stats.attempted + 2


# ---- tolerances


def test_a_tighter_tolerance_is_a_smaller_error() -> None:
    exact = math.exp(math.sin(10))
    errors = []
    for tol in (1e-4, 1e-6, 1e-8, 1e-10):
        y = solve(growth, torch.ones(1, dtype=torch.float64), (0.0, 10.0), rtol=tol, atol=tol).y[-1].item()
        errors.append(abs(y - exact))
        assert errors[-1] < 30 * tol
    assert errors[0] > 100 * errors[2] > 0


EQUIVALENT: list[tuple[Any, Any, Any]] = [
    (torch.tensor(1e-6).double(), None, None),
    (np.float64(1e-6), None, None),
    (np.full(2, 1e-6), None, None),
    ([1e-6, 1e-6], None, None),
    ({"x": 1e-6, "v": 1e-6}, "dict", None),
    ({"v": 1e-6, "x": [1e-6, 1e-6]}, "dict", None),
    ((1e-6, torch.tensor(1e-6).double()), "tuple", None),
    ([1e-6, 1e-6], "tuple", None),
    (Body(1e-6, 1e-6), "dataclass", None),  # type: ignore[arg-type]
]


@pytest.mark.parametrize("which", ["rtol", "atol"])
@pytest.mark.parametrize(("tol", "tree", "_"), EQUIVALENT, ids=lambda x: repr(x)[:40])
def test_tolerances_in_every_form(tol: Any, tree: str | None, _: None, which: str) -> None:
    """The same number said in other ways: the same mesh."""
    y0, f = (X0, decay) if tree is None else TREES[tree][:2]
    plain = solve(f, y0, (0.0, 3.0), save="steps", **{"rtol": 1e-6, "atol": 1e-6})
    said = solve(f, y0, (0.0, 3.0), save="steps", **{"rtol": 1e-6, "atol": 1e-6, which: tol})
    assert len(said.t) == len(plain.t)
    torch.testing.assert_close(said.t, plain.t, rtol=1e-4, atol=0)


def test_a_tolerance_for_each_entry() -> None:
    """Entries whose tolerance is loose do not cost steps, and are less accurate."""

    def f(t: Tensor, y: Tensor) -> Tensor:
        return torch.stack([torch.cos(t) * y[0], torch.cos(20 * t) * 20 * y[1]])

    y0 = torch.ones(2, dtype=torch.float64)
    both = solve(f, y0, (0.0, 3.0), rtol=0.0, atol=1e-8)
    first = solve(f, y0, (0.0, 3.0), rtol=0.0, atol=[1e-8, 1e-1])
    tree = solve(
        lambda t, y: dict(zip("ab", f(t, torch.stack([y["a"], y["b"]])))),
        {"a": y0[0], "b": y0[1]}, (0.0, 3.0), rtol=0.0, atol={"a": 1e-8, "b": 1e-1},
    )  # fmt: skip
    assert first.stats.nfe < both.stats.nfe / 2
    assert tree.stats.nfe == first.stats.nfe
    exact = torch.exp(torch.stack([torch.sin(both.t[-1]), torch.sin(20 * both.t[-1])]))
    assert (both.y[-1] - exact).abs().max() < 1e-6
    assert (first.y[-1] - exact).abs()[1] > 1e-5


def test_an_absolute_tolerance_of_zero_where_the_state_is_zero() -> None:
    sol = solve(decay, torch.tensor([1.0, 0.0], dtype=torch.float64), (0.0, 1.0), rtol=1e-8, atol=0.0)
    assert sol.y[-1, 1] == 0
    assert abs(sol.y[-1, 0].item() - math.exp(-1)) < 1e-7


def test_half_precision_holds_small_tolerances() -> None:
    """1e-9 is zero in float16; the tolerance is not kept in it."""
    sol = solve(decay, torch.ones(2, dtype=torch.float16), (0.0, 1.0), rtol=1e-3, atol=[1e-9, 1e-9])
    assert abs(sol.y[-1, 0].item() - math.exp(-1)) < 1e-3


# ---- choices


@pytest.mark.parametrize("method", METHODS)
def test_a_method_is_a_name_a_class_or_an_instance(method: str) -> None:
    cls = torchivp.methods.METHODS[method]
    results = [solve(growth, torch.ones(2), torch.linspace(0, 1, 11), method=m).y for m in (method, cls, cls())]  # type: ignore[arg-type]
    assert all(torch.equal(r, results[0]) for r in results)


def test_defaults_are_accurate() -> None:
    sol = solve(growth, torch.ones(3, dtype=torch.float64), torch.linspace(0, 10, 101))
    assert (sol.y[:, 0] - torch.exp(torch.sin(sol.t))).abs().max() < 2e-4


# ---- input that makes no sense

FINE = {"f": decay, "y0": torch.ones(2), "t": (0.0, 1.0)}
NONSENSE: dict[str, tuple[dict[str, Any], type[Exception], list[str]]] = {
    "no state": ({"y0": None}, InputError, ["y0", "no tensor", "Give a tensor"]),
    "empty list": ({"y0": []}, InputError, ["y0", "no tensor", "Give a tensor"]),
    "text": ({"y0": "abc"}, InputTypeError, ["y0 is a str", "no tensor", "A state is"]),
    "text inside": ({"y0": {"a": torch.ones(1), "b": "x"}}, InputTypeError, ["y0['b'] is a str", "A state is"]),
    "integers": ({"y0": torch.arange(3)}, InputTypeError, ["y0 has dtype torch.int64", "integers", "Write `y0.float()`"]),
    "integers inside": ({"y0": [torch.ones(1), torch.arange(3)]}, InputTypeError, ["y0[1]", "int64", "Write"]),
    "bools": ({"y0": torch.tensor([True])}, InputTypeError, ["torch.bool", "Write"]),
    "integer array": ({"y0": np.arange(3)}, InputTypeError, ["int64", "integers", "Write"]),
    "object array": ({"y0": np.array([None, 1])}, InputTypeError, ["dtype object", "no counterpart", "astype"]),
    "ragged": ({"y0": [[1.0, 2.0], [3.0]]}, InputError, ["rows differ", "one length", "list of tensors"]),
    "no times": ({"t": None}, InputTypeError, ["t is the NoneType", "does not read as times", "Give"]),
    "times as text": ({"t": "0, 1"}, InputTypeError, ["t is the str", "does not read as times", "Give"]),
    "times as dict": ({"t": {"a": 1}}, InputTypeError, ["t is the dict", "Give"]),
    "no time": ({"t": []}, InputError, ["t has shape (0,)", "at least one", "Give"]),
    "matrix of times": ({"t": torch.ones(2, 2)}, InputError, ["t has shape (2, 2)", "one sequence", "Give"]),
    "complex times": ({"t": torch.tensor([0j, 1j])}, InputTypeError, ["t has dtype torch.complex64", "real", "Give"]),
    "repeated times": ({"t": [0.0, 1.0, 1.0]}, InputError, ["t[1]=1 is followed by t[2]=1", "strictly", "Sort"]),
    "zigzag": ({"t": [0.0, 2.0, 1.0]}, InputError, ["t[1]=2 is followed by t[2]=1", "strictly", "Sort"]),
    "zigzag downwards": ({"t": [2.0, 1.0, 1.5]}, InputError, ["t[1]=1 is followed by t[2]=1.5", "Sort"]),
    "three equal": ({"t": [1.0, 1.0, 1.0]}, InputError, ["t[0]=1 is followed by t[1]=1", "Sort"]),
    "infinite": ({"t": (0.0, math.inf)}, InputError, ["inf", "finite", "events"]),
    "both infinite": ({"t": (math.inf, math.inf)}, InputError, ["inf", "finite", "events"]),
    "nan time": ({"t": (0.0, math.nan)}, InputError, ["nan"]),
    "one nan": ({"t": [math.nan]}, InputError, ["nan", "finite"]),
    "negative rtol": ({"rtol": -1.0}, InputError, ["rtol=-1.0", "no tolerance", "Give"]),
    "nan atol": ({"atol": math.nan}, InputError, ["atol=nan", "no tolerance", "Give"]),
    "negative atol inside": ({"atol": [1e-3, -1.0]}, InputError, ["atol holds", "-1.0", "Give"]),
    "nan in a tensor": ({"rtol": torch.tensor([1e-3, math.nan])}, InputError, ["rtol holds", "nan", "Give"]),
    "no tolerance": ({"rtol": 0, "atol": 0.0}, InputError, ["both 0", "no error is as small", "Give"]),
    "no tolerance in a tensor": (
        {"rtol": torch.tensor([1e-3, 0.0]), "atol": torch.zeros(2)}, InputError, ["both 0 in y[1] (1 of 2", "Give"],
    ),
    "no tolerance in a tree": (
        {"y0": {"a": torch.ones(1), "b": torch.ones(1)}, "rtol": {"a": 1e-3, "b": 0.0}, "atol": 0.0},
        InputError, ["both 0 in y['b'][0]", "Give"],
    ),
    "float8": (
        {"y0": torch.ones(2).to(torch.float8_e5m2)}, InputTypeError, ["float8_e5m2", "does not calculate", "Write"],
    ),
    "a comparison as event": (
        {"events": torchivp.Event(lambda t, y: y[0] > 0.5)}, InputError, ["torch.bool", "through zero", "a - b"],
    ),
    "tolerance as text": ({"rtol": "1e-3"}, InputTypeError, ["rtol is a str", "Give"]),
    "tolerance of another shape": ({"atol": torch.ones(3)}, InputError, ["atol of shape (3,)", "(2,)", "Give"]),
    "tolerance of another tree": (
        {"y0": {"a": torch.ones(1), "b": torch.ones(1)}, "atol": {"a": 1e-3, "c": 1e-3}},
        InputError, ["atol has the structure", "'c'", "Give"],
    ),
    "tolerance of another length": (
        {"y0": (torch.ones(1), torch.ones(1)), "atol": (1e-3, 1e-3, 1e-3)}, InputError, ["atol", "structure", "Give"],
    ),
    "unknown method": ({"method": "tsit6"}, InputError, ["method='tsit6'", "Did you mean 'tsit5'?", "Choose one of"]),
    "unknown gradient": ({"gradient": "adjiont"}, InputError, ["gradient='adjiont'", "Did you mean 'adjoint'?", "Choose"]),
    "unknown runner": ({"runner": "quick"}, InputError, ["runner='quick'", "not known", "Choose one of: auto, compiled"]),
    "unknown save": ({"save": "all"}, InputError, ["save='all'", "not known", "Write 't'"]),
    "negative dt": ({"dt": -0.1}, InputError, ["dt=-0.1", "no step size", "Give a positive number"]),
    "negative fixed dt": ({"dt": -0.1, "method": "rk4"}, InputError, ["dt=-0.1", "no step size", "direction follows t"]),
    "no dt": ({"dt": 0.0}, InputError, ["dt=0.0", "no step size", "Give"]),
    "infinite dt": ({"dt": math.inf}, InputError, ["dt=inf", "no step size", "Give"]),
    "no steps": ({"max_steps": 0}, InputError, ["max_steps=0", "no step", "Give"]),
    "adaptive control of a fixed method": (
        {"method": "rk4", "controller": torchivp.PID()}, InputError, ["RK4()", "no error estimate", "Take an adaptive method"],
    ),
    "two step sizes": (
        {"dt": 0.1, "controller": torchivp.FixedSteps(dt=0.2)}, InputError, ["dt=0.1", "both", "Write"],
    ),
    "a grid elsewhere": (
        {"controller": torchivp.FixedSteps(times=[0.0, 0.5])}, InputError, ["grid", "0.5", "Start it at t[0]"],
    ),
    "jump times as None": ({"jump_times": None}, InputTypeError, ["jump_times", "None", "Give"]),
    "jump times as text": ({"jump_times": "abc"}, InputTypeError, ["jump_times", "abc", "Give"]),
    "nan jump": ({"jump_times": [0.5, math.nan]}, InputError, ["jump_times holds nan", "Give"]),
    "events as a number": ({"events": 3}, InputTypeError, ["events is a int", "no event", "Give Event"]),
    "an event as a number": ({"events": [3]}, InputTypeError, ["event is a int", "cannot be called", "Give Event"]),
    "an event of two numbers": (
        {"events": torchivp.Event(lambda t, y: y)}, InputError, ["shape (2,)", "one real number", "Give"],
    ),
    "a complex event": (
        {"y0": torch.ones((), dtype=torch.complex64), "events": torchivp.Event(lambda t, y: y)},
        InputError, ["torch.complex64", "one real number", "Give"],
    ),
    "start and state": ({"start": solve(decay, torch.ones(2), 1.0)}, InputError, ["start=", "None", "Write"]),
}  # fmt: skip


@pytest.mark.parametrize("name", NONSENSE)
def test_nonsense_gets_three_parts(name: str) -> None:
    """What we got, why that is a problem, what to write instead; before f is asked or a step is taken."""
    change, kind, parts = NONSENSE[name]
    with pytest.raises(kind) as caught:
        solve(**{**FINE, **change})
    text = str(caught.value)
    assert isinstance(caught.value, TypeError if kind is InputTypeError else ValueError)
    for part in parts:
        assert part in text, text
    assert len(text) > 40
    assert "\n" not in text


# Arguments with strict annotations: in this run they would meet the type checker of the tests first.
_UNCHECKED = """
import json, torch, torchivp
from torchivp import solve, Event, FixedSteps, PID
cases = {
    "f": lambda: solve(3, torch.ones(2), 1.0),
    "f and y0 swapped": lambda: solve(torch.ones(2), lambda t, y: y, 1.0),
    "method": lambda: solve(lambda t, y: y, 1.0, 1.0, method=5),
    "save": lambda: solve(lambda t, y: y, 1.0, 1.0, save=["t"]),
    "save none": lambda: solve(lambda t, y: y, 1.0, 1.0, save=None),
    "gradient": lambda: solve(lambda t, y: y, 1.0, 1.0, gradient=None),
    "event": lambda: Event(3),
    "event direction": lambda: Event(lambda t, y: y, direction=2),
    "both": lambda: FixedSteps(dt=0.1, times=[0.0, 1.0]),
    "factors": lambda: PID(min_factor=2.0),
    "limits": lambda: PID(min_step=1.0, max_step=0.5),
    "safety": lambda: PID(safety=1.5),
    "start": lambda: solve(lambda t, y: y, None, 1.0, start=torch.ones(2)),
    "controller": lambda: solve(lambda t, y: y, 1.0, 1.0, controller="pid"),
    "dt": lambda: solve(lambda t, y: y, 1.0, 1.0, dt="0.1"),
    "max_steps": lambda: solve(lambda t, y: y, 1.0, 1.0, max_steps=None),
    "on_step": lambda: solve(lambda t, y: y, 1.0, 1.0, on_step=3),
}
out = {}
for name, case in cases.items():
    try:
        case()
        out[name] = ["nothing", ""]
    except Exception as error:
        out[name] = [type(error).__name__, str(error)]
print(json.dumps(out))
"""


@pytest.fixture(scope="module")
def unchecked() -> dict[str, tuple[str, str]]:
    run = subprocess.run([sys.executable, "-W", "error", "-c", _UNCHECKED], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.parametrize(
    ("name", "kind", "parts"),
    [
        ("f", "InputTypeError", ["f is a int", "cannot be called", "Give"]),
        ("f and y0 swapped", "InputTypeError", ["f is a Tensor", "cannot be called", "Give"]),
        ("method", "InputError", ["method=5", "not known", "Choose one of"]),
        ("save", "InputError", ["save=['t']", "not known", "Write"]),
        ("save none", "InputError", ["save=None", "not known", "Write"]),
        ("gradient", "InputError", ["gradient=None", "not known", "Choose"]),
        ("event", "InputTypeError", ["event function is a int", "cannot be called", "Give"]),
        ("event direction", "InputError", ["direction=2", "not known", "Give"]),
        ("both", "InputError", ["Both dt and times", "contradict", "Give one"]),
        ("factors", "InputError", ["min_factor=2.0", "never", "Choose"]),
        ("limits", "InputError", ["min_step=1.0, max_step=0.5", "no step", "Choose"]),
        ("safety", "InputError", ["safety=1.5", "rejected", "Choose"]),
        ("start", "InputTypeError", ["start", "Tensor", "Give"]),
        ("controller", "InputTypeError", ["controller", "str", "Give"]),
        ("dt", "InputTypeError", ["dt", "str", "Give"]),
        ("max_steps", "InputTypeError", ["max_steps", "None", "Give"]),
        ("on_step", "InputTypeError", ["on_step is a int", "cannot be called", "Give"]),
    ],
)
def test_wrong_types_get_three_parts(
    unchecked: dict[str, tuple[str, str]], name: str, kind: str, parts: list[str]
) -> None:
    got, text = unchecked[name]
    assert got == kind, text
    for part in parts:
        assert part in text, text


def test_an_unknown_keyword_is_python_s_error() -> None:
    with pytest.raises(TypeError, match="tolerance"):
        solve(decay, torch.ones(2), 1.0, tolerance=1e-3)  # type: ignore[call-arg]
