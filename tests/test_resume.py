"""``solve(..., start=solution)``: going on from where another solve stopped."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import torchivp
from iterating import ITERATING
from torchivp import PI, PID, Event, FixedSteps, GradientError, InputError, Solution, Status, solve

METHODS = sorted(torchivp.methods.METHODS)
Y0 = torch.tensor([1.0, 0.5], dtype=torch.float64)
FORTH, BACK = (0.0, 3.0), (3.0, 0.0)


def adaptive(method: str) -> bool:
    return torchivp.methods.METHODS[method]().adaptive


def f(t: Tensor, y: Tensor) -> Tensor:
    """Not autonomous, not linear."""
    return torch.stack([torch.cos(t) * y[0] - 0.1 * y[0] ** 2, y[0] - torch.sin(2 * t) * y[1]])


def stop_after(n: int) -> Any:
    left = [n]

    def on_step(t: float, y: Any) -> bool:
        left[0] -= 1
        return left[0] == 0

    return on_step


def in_pieces(pieces: list[int], t: Any, **options: Any) -> list[Solution]:
    """The solve stopped after each given number of steps, then run to its end."""
    first, *rest = pieces
    out = [solve(f, Y0, t, on_step=stop_after(first), **options)]
    for n in rest:
        out.append(solve(f, None, t[-1], start=out[-1], on_step=stop_after(n), **options))
    return [*out, solve(f, None, t[-1], start=out[-1], **options)]


def joined(parts: list[Solution]) -> tuple[Tensor, Tensor]:
    return (
        torch.cat([parts[0].t, *(p.t[1:] for p in parts[1:])]),
        torch.cat([parts[0].y, *(p.y[1:] for p in parts[1:])]),
    )


@pytest.mark.parametrize(
    ("method", "t"), [*((m, FORTH) for m in METHODS), *((m, BACK) for m in ("tsit5", "implicit_adams"))]
)
def test_stopped_and_continued_is_uninterrupted_bit_for_bit(method: str, t: tuple[float, float]) -> None:
    """The same mesh and the same numbers, wherever it was stopped (multistep methods: in their first steps, too)."""
    tol = 1e-8 if method in ("tsit5", "dopri5", "dopri8", "dop853", "vern7", "vern8", "vern9") else 1e-3  # enough steps
    options = {"method": method, "dt": None if adaptive(method) else 0.125, "rtol": tol, "atol": tol, "save": "steps"}
    whole = solve(f, Y0, t, **options)
    for pieces in ([1], [2, 1], [2, 3]):
        parts = in_pieces(pieces, t, **options)
        times, states = joined(parts)
        if method in ITERATING:  # the slope at the start is asked of f again, instead of what the iteration had for it
            assert torch.allclose(states[-1], whole.y[-1], rtol=10 * tol)
            continue
        assert [p.status for p in parts] == [Status.STOPPED] * len(pieces) + [Status.SUCCESS]
        assert torch.equal(times, whole.t)
        assert torch.equal(states, whole.y)
        assert sum(p.stats.accepted for p in parts) == whole.stats.accepted
        assert sum(p.stats.rejected for p in parts) == whole.stats.rejected


@pytest.mark.parametrize("method", ["rk4", "explicit_adams", "implicit_adams"])
def test_fixed_steps_that_are_no_binary_fractions(method: str) -> None:
    options = {"method": method, "dt": 0.1, "save": "steps"}
    whole = solve(f, Y0, (0.0, 3.0), **options)
    times, states = joined(in_pieces([7, 11], (0.0, 3.0), **options))
    torch.testing.assert_close(times, whole.t, rtol=0, atol=1e-14)
    torch.testing.assert_close(states, whole.y, rtol=0, atol=1e-13)


@pytest.mark.parametrize("order", [1, 2, 6])
def test_adams_of_other_orders(order: int) -> None:
    options = {"method": torchivp.methods.ExplicitAdams(order), "dt": 0.125, "save": "steps"}
    whole = solve(f, Y0, (0.0, 3.0), **options)
    for n in range(1, 9):
        times, states = joined(in_pieces([n], (0.0, 3.0), **options))
        assert torch.equal(times, whole.t)
        assert torch.equal(states, whole.y)


@pytest.mark.parametrize("controller", [PI(), PID(p=0.2, i=0.4, d=0.1), PID(max_step=0.2)], ids=repr)
def test_the_controller_remembers(controller: PID) -> None:
    options = {"controller": controller, "rtol": 1e-5, "atol": 1e-7, "save": "steps"}
    whole = solve(f, Y0, (0.0, 3.0), **options)
    times, states = joined(in_pieces([2, 3], (0.0, 3.0), **options))
    assert torch.equal(times, whole.t)
    assert torch.equal(states, whole.y)


@pytest.mark.parametrize("gradient", ["discrete", "direct", "adjoint"])
@pytest.mark.parametrize("method", ["tsit5", "dopri8", "bosh3", "rk4"])
def test_outputs_dense_output_and_events_go_on_too(method: str, gradient: str) -> None:
    t = torch.linspace(0, 3, 31, dtype=torch.float64)
    options: dict[str, Any] = {"method": method, "dt": 0.125 if method == "rk4" else None, "gradient": gradient}
    options |= {"events": Event(lambda t, y: torch.sin(5 * t)), "dense": True}
    whole = solve(f, Y0, t, **options)
    first = solve(f, Y0, t, on_step=stop_after(5), **options)
    rest = solve(f, None, t[len(first.t) :], start=first, **options)
    assert torch.equal(torch.cat([first.t, rest.t]), t)
    torch.testing.assert_close(torch.cat([first.y, rest.y]), whole.y, rtol=1e-14, atol=0)
    torch.testing.assert_close(torch.cat([first.t_events[0], rest.t_events[0]]), whole.t_events[0], rtol=1e-13, atol=0)
    torch.testing.assert_close(rest(2.9), whole(2.9), rtol=1e-14, atol=0)


def test_landings_and_jumps_go_on_too() -> None:
    options: dict[str, Any] = {"save": "steps", "stop_times": [0.5, 2.5], "jump_times": [1.0, 2.0]}
    whole = solve(f, Y0, (0.0, 3.0), **options)
    for n in (1, 3, 5):
        times, states = joined(in_pieces([n], (0.0, 3.0), **options))
        assert torch.equal(times, whole.t)
        assert torch.equal(states, whole.y)


@pytest.mark.parametrize("method", ["tsit5", "explicit_adams"])
def test_stopped_exactly_on_a_jump(method: str) -> None:
    dt = None if adaptive(method) else 0.125
    options: dict[str, Any] = {"method": method, "dt": dt, "save": "steps", "jump_times": [1.0]}
    whole = solve(f, Y0, (0.0, 2.0), **options)
    first = solve(f, Y0, (0.0, 2.0), on_step=lambda t, y: t == 1.0, **options)
    assert first.t[-1] == 1
    times, states = joined([first, solve(f, None, 2.0, start=first, **options)])
    assert torch.equal(times, whole.t)
    assert torch.equal(states, whole.y)


@pytest.mark.parametrize("method", METHODS)
def test_a_finished_solve_goes_on(method: str) -> None:
    """With its step size: no probe, no small steps to start again."""
    options = {"method": method, "dt": None if adaptive(method) else 0.05, "rtol": 1e-4, "atol": 1e-4}
    first = solve(f, Y0, (0.0, 1.5), **options)
    rest = solve(f, None, 3.0, start=first, save="steps", **options)
    whole = solve(f, Y0, (0.0, 3.0), **options)
    assert rest.t[0] == 1.5
    torch.testing.assert_close(rest.y[0], first.y[-1], rtol=0, atol=0)
    torch.testing.assert_close(rest.y[-1], whole.y[-1], rtol=0.05 if method == "euler" else 5e-3, atol=0)
    if adaptive(method):
        assert rest.t.diff()[0] > 0.2 * rest.t.diff().max()
        assert first.stats.attempted + rest.stats.attempted <= whole.stats.attempted + 4


def test_the_step_before_the_end_does_not_count() -> None:
    """The last step of the first solve was cut to a crumb; the next one starts with the controller's size."""
    t1 = solve(f, Y0, (0.0, 3.0), save="steps", rtol=1e-6).t[5].item() + 1e-6
    first = solve(f, Y0, (0.0, t1), save="steps", rtol=1e-6)
    assert first.t.diff()[-1] < 1e-5
    rest = solve(f, None, 3.0, start=first, save="steps", rtol=1e-6)
    assert rest.t.diff()[0] > 0.05


@pytest.mark.parametrize(
    "t",
    [3, 3.0, np.float32(3), torch.tensor(3.0), [3.0], (1.5, 3.0), torch.tensor([1.5, 2.0, 3.0]), [2.0, 3.0]],
    ids=repr,
)
def test_times_to_go_on_to(t: Any) -> None:
    """A number or one time: from here to there."""
    first = solve(f, Y0, (0.0, 1.5), rtol=1e-9, atol=1e-9)
    rest = solve(f, None, t, start=first, rtol=1e-9, atol=1e-9)
    exact = solve(f, Y0, (0.0, 3.0), rtol=1e-9, atol=1e-9).y[-1]
    assert rest.t[-1] == 3
    torch.testing.assert_close(rest.y[-1], exact, rtol=1e-7, atol=0)
    if isinstance(t, tuple | Tensor) and len(torch.as_tensor(t).shape):
        assert rest.t.tolist() == list(map(float, t))


def test_times_to_go_on_to_backwards() -> None:
    first = solve(f, Y0, (3.0, 1.5))
    for t in (0.0, [0.0], [1.5, 0.0], torch.tensor(0.0)):
        rest = solve(f, None, t, start=first)
        assert rest.t.tolist() == [1.5, 0.0]


def test_nowhere_to_go() -> None:
    first = solve(f, Y0, (0.0, 1.5))
    for t in (1.5, [1.5], (1.5, 1.5)):
        rest = solve(f, None, t, start=first)
        assert rest.success
        assert set(rest.t.tolist()) == {1.5}
        assert torch.equal(rest.y[-1], first.y[-1])
        assert rest.stats.accepted == 0


def test_after_no_interval() -> None:
    """There is no step size to go on with: it is chosen as for a new solve."""
    first = solve(f, Y0, (0.5, 0.5))
    for t in ((0.5, 3.0), 3.0):
        rest, whole = solve(f, None, t, start=first, save="steps"), solve(f, Y0, (0.5, 3.0), save="steps")
        assert torch.equal(rest.t, whole.t)
        assert torch.equal(rest.y, whole.y)


@pytest.mark.parametrize("t", [0.0, 1.4, (1.5, 0.0), (0.0, 3.0), [1.4, 3.0], (3.0, 2.0), (2.0, 1.5)], ids=str)
def test_going_back_is_refused(t: Any) -> None:
    first = solve(f, Y0, (0.0, 1.5))
    with pytest.raises(InputError, match=r"ran forwards to t=1\.5.*Give times from 1\.5 on"):
        solve(f, None, t, start=first)
    back = solve(f, Y0, (3.0, 1.5))
    with pytest.raises(InputError, match=r"ran backwards to t=1\.5"):
        solve(f, None, (1.5, 3.0), start=back)


def test_the_state_comes_from_the_solution_alone() -> None:
    first = solve(f, Y0, 1.0)
    with pytest.raises(InputError, match=r"start=.*Write `solve\(f, None, t, start=solution\)`"):
        solve(f, Y0, 2.0, start=first)


def test_without_start_a_state_is_needed() -> None:
    with pytest.raises(InputError, match="y0"):
        solve(f, None, 2.0)


@pytest.mark.parametrize("save", ["t", "steps", "end", "function"])
def test_whatever_was_saved(save: str) -> None:
    """Going on needs no saved state: the solution knows where it stood."""
    kind: Any = (lambda t, y: y.sum()) if save == "function" else save
    first = solve(f, Y0, torch.linspace(0, 3, 4), save=kind, on_step=lambda t, y: t > 1.2)
    rest = solve(f, None, 3.0, start=first)
    torch.testing.assert_close(rest.y[-1], solve(f, Y0, 3.0).y[-1], rtol=0, atol=0)


@pytest.mark.parametrize("how", ["pickle", "deepcopy", "to", "detach"])
def test_from_a_copy(how: str) -> None:
    options = {"save": "steps", "rtol": 1e-6}
    first = solve(f, Y0, (0.0, 3.0), on_step=stop_after(4), **options)
    other = {
        "pickle": lambda s: pickle.loads(pickle.dumps(s)), "deepcopy": copy.deepcopy, "to": lambda s: s.to("cpu"),
        "detach": lambda s: s.detach(),
    }[how](first)  # fmt: skip
    a, b = (solve(f, None, 3.0, start=s, **options) for s in (first, other))
    assert torch.equal(a.y, b.y)


def test_in_another_precision() -> None:
    first = solve(f, Y0, (0.0, 1.5)).to(torch.float32)
    rest = solve(f, None, 3.0, start=first)
    assert rest.y.dtype == torch.float32
    torch.testing.assert_close(rest.y[-1].double(), solve(f, Y0, 3.0).y[-1], rtol=1e-3, atol=0)


def test_with_another_f_method_and_tolerance() -> None:
    """A pulse that ends, a method that had a past of its own, and one that has none."""
    first = solve(lambda t, y: y, Y0, 1.0, method="explicit_adams", dt=0.01)
    for method in METHODS:
        if "adams" in method:  # goes on with its past slopes: of the same f
            continue
        rest = solve(lambda t, y: -y, None, 2.0, start=first, method=method, dt=None if adaptive(method) else 0.01)
        torch.testing.assert_close(rest.y[-1], Y0, rtol=0.02 if "euler" in method else 1e-3, atol=0)


def test_pytrees_args_and_complex_states() -> None:
    def g(t: Tensor, y: dict[str, Tensor], w: float) -> dict[str, Tensor]:
        return {"z": 1j * w * y["z"], "r": -w * y["r"]}

    y0 = {"z": torch.ones(2, dtype=torch.complex64), "r": torch.ones(1)}
    first = solve(g, y0, 1.0, 2.0)
    rest = solve(g, None, 3.0, 2.0, start=first)
    assert rest.y["z"].dtype == torch.complex64
    assert abs(rest.y["z"][-1, 0].item() - complex(math.cos(6), math.sin(6))) < 1e-3
    assert rest.y["r"].shape == (2, 1)


# ---- gradients through both


@pytest.mark.parametrize("gradient", ["discrete", "direct"])
@pytest.mark.parametrize("method", ["tsit5", "dopri8", "bosh3", "rk4"])
@pytest.mark.parametrize("t", [(0.0, 3.0), (3.0, 0.0)], ids=["forth", "back"])
def test_gradients_flow_through_both_solves(t: tuple[float, float], method: str, gradient: str) -> None:
    """The same mesh, so the same gradient as of the uninterrupted solve."""
    y0 = Y0.clone().requires_grad_()
    w = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
    g = lambda t, y: w * f(t, y)
    options: dict[str, Any] = {
        "method": method, "dt": 0.125 if method == "rk4" else None, "gradient": gradient, "rtol": 1e-4, "atol": 1e-4
    }  # fmt: skip
    whole = solve(g, y0, t, **options)
    first = solve(g, y0, t, on_step=stop_after(4), **options)
    rest = solve(g, None, t[-1], start=first, **options)
    assert torch.equal(rest.y[-1], whole.y[-1])
    for a, b in zip(*(torch.autograd.grad((s.y[-1] ** 2).sum(), (y0, w)) for s in (rest, whole))):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=0)


@pytest.mark.parametrize("method", ["explicit_adams", "implicit_adams"])
def test_gradients_of_a_resumed_multistep_method(method: str) -> None:
    """By autograd through both, exactly; the replay cannot reach into the past of another solve, and says so."""
    y0 = Y0.clone().requires_grad_()
    options: dict[str, Any] = {"method": method, "dt": 0.125, "gradient": "direct"}
    whole = solve(f, y0, (0.0, 3.0), **options)
    first = solve(f, y0, (0.0, 3.0), on_step=stop_after(7), **options)
    rest = solve(f, None, 3.0, start=first, **options)
    a, b = (torch.autograd.grad(s.y[-1].sum(), y0)[0] for s in (rest, whole))
    torch.testing.assert_close(a, b, rtol=1e-12, atol=0)
    with pytest.raises(GradientError, match=r"multistep method was resumed.*gradient='direct' for both"):
        solve(f, None, 3.0, start=first, **{**options, "gradient": "discrete"})
    with pytest.raises(GradientError, match=r"multistep method was resumed.*gradient='direct' for both"):
        solve(f, None, 3.0, start=solve(f, y0, 1.0, **{**options, "gradient": "discrete"}), **options)
    assert solve(f, None, 3.0, start=first.detach(), method=method, dt=0.125).success


def test_a_second_solve_of_its_own_gradient() -> None:
    """From a detached solution: only what happens in the second solve counts."""
    w = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    g = lambda t, y: -w * y
    first = solve(g, Y0, 1.0, rtol=1e-9, atol=1e-9).detach()
    (grad,) = torch.autograd.grad(solve(g, None, 3.0, start=first, rtol=1e-9, atol=1e-9).y[-1, 0], w)
    assert grad.item() == pytest.approx(-2 * math.exp(-3), rel=1e-6)


def test_gradients_of_the_times_of_the_second_solve() -> None:
    first = solve(f, Y0, 1.0, rtol=1e-9, atol=1e-9)
    t = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64, requires_grad=True)
    for gradient in ("discrete", "direct"):
        rest = solve(f, None, t, start=first, rtol=1e-9, atol=1e-9, gradient=gradient)
        (grad,) = torch.autograd.grad(rest.y[-1, 0] + rest.y[1, 1], t)
        with torch.no_grad():
            expected = [0.0, f(t[1], rest.y[1])[1].item(), f(t[2], rest.y[2])[0].item()]
        assert grad.tolist()[1:] == pytest.approx(expected[1:], rel=1e-5)


def test_many_short_solves_are_one_long_one() -> None:
    """On a grid with outputs and a controller of fixed steps."""
    t = torch.linspace(0, 3, 13, dtype=torch.float64)
    whole = solve(f, Y0, t, method="rk4", controller=FixedSteps(dt=0.125))
    sol = solve(f, Y0, t[:2], method="rk4", controller=FixedSteps(dt=0.125))
    for end in t[2:]:
        sol = solve(f, None, end, start=sol, method="rk4", controller=FixedSteps(dt=0.125))
    assert torch.equal(sol.y[-1], whole.y[-1])


def test_a_past_that_rightly_has_no_gradient() -> None:
    """f that does not look at y: its slopes were recorded, and carry nothing."""
    y0 = torch.ones(2, dtype=torch.float64, requires_grad=True)
    kw = {"method": "explicit_adams", "dt": 0.1, "gradient": "direct"}
    begun = torchivp.solve(lambda t, y: torch.ones_like(y) * t, y0, (0.0, 1.0), **kw)
    ended = torchivp.solve(lambda t, y: torch.ones_like(y) * t, None, 2.0, start=begun, **kw)
    (grad,) = torch.autograd.grad(ended.y[-1].sum(), y0)
    assert grad.tolist() == [1.0, 1.0]
