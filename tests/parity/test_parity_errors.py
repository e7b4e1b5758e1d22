"""Exceptions and warnings beside torchdiffeq's: the same type, the same words, and always also a ``TorchIVPError``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from parity.side_by_side import Net, Pair, ours, outcome, state, theirs, times
from torchivp import TorchIVPError

both = (ours, theirs)


def f(t: Any, y: Any) -> Any:
    return -y


def pair(t: Any, y: Any) -> Any:
    return -y[0], -y[1]


Y, T = state(2), times(3)
GRAD = torch.tensor(1e-3, requires_grad=True)
CALLS: dict[str, Callable[[Any], Any]] = {
    "y0 is a list": lambda lib: lib.odeint(f, [1.0, 2.0], T),
    "y0 is an array": lambda lib: lib.odeint(f, Y.numpy(), T),
    "t is a list": lambda lib: lib.odeint(f, Y, [0.0, 1.0]),
    "t holds integers": lambda lib: lib.odeint(f, Y, torch.tensor([0, 1])),
    "t is complex": lambda lib: lib.odeint(f, Y, T + 0j),
    "t has two axes": lambda lib: lib.odeint(f, Y, T[None]),
    "t is not monotone": lambda lib: lib.odeint(f, Y, torch.tensor([0.0, 1.0, 0.5])),
    "t stands still": lambda lib: lib.odeint(f, Y, torch.tensor([0.0, 0.0])),
    "t stands still in the middle": lambda lib: lib.odeint(f, Y, torch.tensor([1.0, 0.5, 0.5])),
    "t is nan": lambda lib: lib.odeint(f, Y, torch.tensor([0.0, float("nan")])),
    "rtol requires grad": lambda lib: lib.odeint(f, Y, T, rtol=GRAD),
    "atol requires grad": lambda lib: lib.odeint(f, Y, T, atol=GRAD),
    "rtol has three parts": lambda lib: lib.odeint(pair, (Y, Y), T, rtol=(1e-3, 1e-3, 1e-3)),
    "atol has one part": lambda lib: lib.odeint(pair, (Y, Y), T, atol=(1e-3,)),
    "steps run out": lambda lib: lib.odeint(f, Y, T, options={"max_num_steps": 1}),
    "steps run out with a first step": lambda lib: lib.odeint(f, Y, T, options={"max_num_steps": 1, "first_step": 1e-3}),
    "order 13": lambda lib: lib.odeint(f, Y, T, method="implicit_adams", options={"max_order": 13}),
    "two grids": lambda lib: lib.odeint(f, Y, T, method="rk4", options={"step_size": 0.1, "grid_constructor": lambda f, y, t: t}),
    "unknown interpolation": lambda lib: lib.odeint(f, Y, T, method="rk4", options={"interp": "foo"}),
    "a time twice": lambda lib: lib.odeint(f, Y, T, options={"step_t": T[1:2], "jump_t": T[1:2]}),
    "a jump twice": lambda lib: lib.odeint(f, Y, T, options={"jump_t": torch.tensor([0.5, 0.5])}),
    "three times for an event": lambda lib: lib.odeint(f, Y, T, event_fn=lambda t, y: y.sum()),
    "no step size for an event": lambda lib: lib.odeint(f, Y, T[:2], event_fn=lambda t, y: y[1] - 0.1, method="rk4"),
    "no module": lambda lib: lib.odeint_adjoint(f, Y, T),
    "whose options": lambda lib: lib.odeint_adjoint(Net(), Y, T, options={"max_num_steps": 9}, adjoint_method="rk4"),
    "perturb is no Perturb": lambda lib: lib._impl.misc._PerturbFunc(f)(T[0], Y, perturb=True),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_the_same_exception(name: str) -> None:
    (mine, _, _), (other, _, _) = (outcome(lambda lib=lib: CALLS[name](lib)) for lib in both)
    assert isinstance(mine, TorchIVPError)
    assert isinstance(mine, type(other))
    assert str(mine).startswith(str(other))


TYPES: dict[str, Callable[[Any], Any]] = {
    "no module to look into": lambda lib: lib._impl.adjoint.find_parameters(3),
    "no time": lambda lib: lib.odeint(f, Y, T[:0]),
    "numbers in a tuple": lambda lib: lib.odeint(f, (1.0, 2.0), T),
    "an empty tuple": lambda lib: lib.odeint(f, (), T),
    "a norm's name": lambda lib: lib.odeint_adjoint(Net(), Y, T, adjoint_options={"norm": "foo"}).sum().backward(),
    "steps backwards": lambda lib: lib.odeint(f, Y, T, method="euler", options={"step_size": -0.1}),
    "steps of no size": lambda lib: lib.odeint(f, Y, T, method="euler", options={"step_size": 0.0}),
    "steps of no number": lambda lib: lib.odeint(f, Y, T, options={"max_num_steps": float("inf")}),
    "no iterations": lambda lib: lib.odeint(f, Y, times(11), method="implicit_adams", options={"max_iters": 0}),
    "an abstract class": lambda lib: lib._impl.solvers.FixedGridODESolver(func=f, y0=Y, atol=1),
    "no step function": lambda lib: type("X", (lib._impl.solvers.FixedGridODESolver,), {"order": 1})(f, Y, rtol=1, atol=1),
    "no _advance": lambda lib: type("X", (lib._impl.solvers.AdaptiveStepsizeODESolver,), {})(torch.float64, Y, torch.norm),
    "an event never comes": lambda lib: lib.odeint(lambda t, y: 0 * y, Y, T[:2], event_fn=lambda t, y: y[0] + 5),
    "an event never comes, float32": lambda lib: lib.odeint(
        lambda t, y: 0 * y, Y.float(), T[:2], event_fn=lambda t, y: y[0] + 5),
    "part of an adjoint tolerance": lambda lib: lib.odeint_adjoint(Net(), Y, T, adjoint_rtol=[1e-3] * 7).sum().backward(),
}  # fmt: skip


@pytest.mark.parametrize("name", TYPES)
def test_the_same_type_of_exception(name: str) -> None:
    (mine, _, mine_said), (other, _, _) = (outcome(lambda lib=lib: TYPES[name](lib)) for lib in both)
    assert isinstance(mine, TorchIVPError)
    assert isinstance(mine, type(other))
    assert mine_said == []


def test_a_wrong_number_of_adjoint_tolerances() -> None:
    for y0, func in ((Y, Net()), ((Y, Y), Pair())):
        with pytest.raises(AssertionError, match="If using tupled atol it must have the same length as the tuple y0"):
            ours.odeint_adjoint(func, y0, T, adjoint_atol=[1e-3] * 7)


@pytest.mark.parametrize("start", [5.0, 1.0])
@pytest.mark.parametrize("solve", ["odeint", "odeint_adjoint", "event"])
def test_failures_name_the_users_time(solve: str, start: float) -> None:
    """In both directions, and in the backward solve."""
    broken = [True]

    def breaks_at_3(t: Any, y: Any) -> Any:
        beyond = (t < 3) == (start == 5 if solve != "odeint_adjoint" else start == 1)
        return -y * (float("nan") if beyond and broken[0] else 1)

    t, y0 = torch.tensor([start, 6 - start]), torch.ones(1, requires_grad=True)

    def run() -> None:
        if solve == "odeint_adjoint":
            broken[0] = False
            loss = ours.odeint_adjoint(breaks_at_3, y0, t, adjoint_params=()).sum()
            broken[0] = True
            loss.backward()
        ours.odeint(breaks_at_3, y0, t, event_fn=(lambda t, y: y[0] + 5) if solve == "event" else None)

    with pytest.raises(AssertionError, match=r"at t=(3|2\.9)"):
        run()


UNALIKE: dict[str, tuple[Callable[[Any], Any], type[Exception], str]] = {
    "integers": (lambda lib: lib.odeint(f, torch.tensor([1, 2]), T), NotImplementedError, "y0 has dtype torch.int64"),
    "a singularity": (lambda lib: lib.odeint(lambda t, y: y**2, Y * 10, T * 10), AssertionError, "underflow in dt"),
    "a grid that ends elsewhere": (
        lambda lib: lib.odeint(f, Y, T, method="rk4", options={"grid_constructor": lambda f, y, t: t + 1}), AssertionError,
        "The time grid runs from"),
    "a method nobody has": (lambda lib: lib.odeint(f, Y, T, method="foo"), ValueError, 'Invalid method "foo". Must be'),
    "a method of old": (lambda lib: lib.odeint(f, Y, T, method="adams"), ValueError, 'Invalid method "adams". Must be one of {'),
    "an unhashable method": (lambda lib: lib.odeint(f, Y, T, method=[1]), TypeError, "unhashable type: 'list'"),
    "a positional tolerance": (lambda lib: lib.odeint(f, Y, T, 1e-3), TypeError, "positional arguments"),
    "nothing from f": (lambda lib: lib.odeint(lambda t, y: None, Y, T), TypeError, "NoneType"),
    "a wrong shape from f": (lambda lib: lib.odeint(lambda t, y: torch.ones(3), Y, T), RuntimeError, "3"),
    "an error in f": (lambda lib: lib.odeint(lambda t, y: 1 / 0, Y, T), ZeroDivisionError, "division by zero"),
    "SciPy's name": (
        lambda lib: lib.odeint(f, Y, T, method="scipy_solver", options={"solver": "foo"}), ValueError, "must be one of"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNALIKE)
def test_the_same_type_in_other_words(name: str) -> None:
    call, type_, text = UNALIKE[name]
    (mine, _, _), (other, _, _) = (outcome(lambda lib=lib: call(lib)) for lib in both)
    assert isinstance(mine, type_)
    assert isinstance(other, type_)
    assert text in str(mine)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("where", ["f", "y0", "first step", "later", "the state"])
def test_nan_is_called_nan(where: str, dtype: torch.dtype) -> None:
    """torchdiffeq says "underflow in dt 0.0"; both are AssertionErrors."""
    y0, nan = state(3, dtype=dtype), float("nan")
    calls: dict[str, Callable[[Any], Any]] = {
        "f": lambda lib: lib.odeint(lambda t, y: y * nan, y0, T),
        "y0": lambda lib: lib.odeint(f, y0 * torch.tensor([1, nan, 1]), T),
        "first step": lambda lib: lib.odeint(lambda t, y: y * nan, y0, T, options={"first_step": 0.1}),
        "later": lambda lib: lib.odeint(lambda t, y: -y if t < 0.7 else y * nan, y0, T, rtol=1e-4, atol=1e-4),
        "the state": lambda lib: lib.odeint(
            lambda t, y: -y if t < 0.7 else y * float("inf"), y0, T, options={"min_step": 0.1}
        ),
    }
    (mine, _, _), (other, _, _) = (outcome(lambda lib=lib: calls[where](lib)) for lib in (ours, theirs))
    assert isinstance(mine, AssertionError)
    assert isinstance(other, AssertionError)
    assert "non-finite" in str(mine)
    assert "underflow" not in str(mine)
    if where == "y0":
        assert "y0[1]" in str(mine)


@pytest.mark.parametrize("method", ["euler", "rk4", "implicit_adams"])
def test_fixed_steps_return_nan(method: str) -> None:
    """As torchdiffeq does: training loops look for nan in the loss."""

    def until_08(t: Any, y: Any) -> Any:
        return y * torch.log(0.8 - t)

    for lib in both:
        _, y, _ = outcome(lambda lib=lib: lib.odeint(until_08, state(2), times(30), method=method))
        assert y.shape == (30, 2)
        assert torch.isfinite(y[0]).all()
        assert torch.isnan(y[-1]).all()


def test_no_time_at_all() -> None:
    with pytest.raises(IndexError, match="at least one time"):
        ours.odeint(f, Y, torch.tensor([]))


def test_adams_warnings() -> None:
    for options, text in (({"max_order": 3}, "max_order is below 4, so the solver reduces to `rk4`."),
                          ({"max_iters": 1}, "Functional iteration did not converge. Solution may be incorrect.")):  # fmt: skip
        for lib in both:
            error, _, texts = outcome(
                lambda lib=lib, o=options: lib.odeint(
                    lambda t, y: -50 * y, Y, torch.linspace(0, 1, 51), method="implicit_adams", options=o
                )
            )
            assert error is None
            assert set(texts) == {text}
    assert torch.equal(*(ours.odeint(f, Y, T, method=m, options=o) for m, o in (("rk4", {}), ("rk4", {}))))


def test_adjoint_warnings() -> None:
    net = Net()
    net.bias.requires_grad_(False)
    for options, expected in (({}, 0), ({"norm": "seminorm"}, 0), ({"norm": lambda x: x[1].abs().max()}, 1)):
        for lib in both:
            _, _, texts = outcome(lambda lib=lib, o=options: lib.odeint_adjoint(net, Y, T, adjoint_options=o))
            assert len(texts) == expected
            assert all(
                t.startswith("An adjoint parameter was passed without requiring gradient. For efficiency")
                for t in texts
            )
    for lib in both:
        y = lib.odeint_adjoint(Net(), Y, T, adjoint_options={"foo": 1}, rtol=1e-3, atol=1e-3)
        _, _, texts = outcome(lambda y=y: y.sum().backward())
        assert set(texts) == {"Dopri5Solver: Unexpected arguments {'foo': 1}"}


def test_times_on_another_device_are_moved_with_a_warning() -> None:
    """The meta device stands in for a GPU: what can be seen there is the warning."""
    for lib in both:
        _, _, texts = outcome(lambda lib=lib: lib.odeint(f, torch.ones(2, device="meta"), torch.tensor([0.0])))
        assert "t is not on the same device as y0. Coercing to y0.device." in texts


def test_the_solve_failed_before_the_backward_pass_or_in_it() -> None:
    y = ours.odeint_adjoint(Net(), Y.clone().requires_grad_(), T, adjoint_options={"max_num_steps": 1})
    with pytest.raises(AssertionError, match="max_num_steps exceeded"):
        y.sum().backward()


def test_nan_in_the_backward_solve_is_called_nan() -> None:
    """The state is fine, its adjoint is not: sqrt has no slope at zero."""
    y = ours.odeint_adjoint(lambda t, y: torch.sqrt(0 * y), Y.clone().requires_grad_(), T, adjoint_params=())
    with pytest.raises(AssertionError, match="non-finite"):
        y.sum().backward()
