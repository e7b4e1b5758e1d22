"""Options of the adaptive methods, and callbacks, beside torchdiffeq's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from parity.side_by_side import (
    ADAPTIVE,
    FIXED,
    Count,
    Net,
    Pair,
    as_good,
    close,
    ours,
    outcome,
    pair_state,
    reference,
    state,
    theirs,
    times,
)

both = (ours, theirs)


class Recorder(nn.Module):
    """A vector field with all six callbacks, which write down what they get."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net
        self.seen: dict[str, list[tuple[Any, Any, Any]]] = {}
        for kind in ("step", "accept_step", "reject_step"):
            for suffix in ("", "_adjoint"):
                name = f"callback_{kind}{suffix}"
                setattr(self, name, lambda t0, y0, dt, name=name: self.seen.setdefault(name, []).append((t0, y0, dt)))

    def forward(self, t: Tensor, y: Any) -> Any:
        return self.net(t, y)

    def count(self, kind: str) -> int:
        return len(self.seen.get(f"callback_{kind}", []))


def mesh(lib: Any, **how: Any) -> list[float]:
    """Ends of the accepted steps."""
    f = Recorder(Net())
    with torch.no_grad():
        lib.odeint(f, state(2), times(3), rtol=1e-6, atol=1e-6, **how)
    return [float(t0 + dt) for t0, _, dt in f.seen["callback_accept_step"]]


@pytest.mark.parametrize("options", [
    {"first_step": 0.01}, {"safety": 0.7}, {"ifactor": 1.5}, {"dfactor": 0.5}, {"max_step": 0.05}, {"first_step": 0.4},
    {"first_step": torch.tensor(0.02), "safety": torch.tensor(0.8), "max_step": torch.tensor(0.2)},
    {"step_t": torch.tensor([0.33, 0.71])}, {"jump_t": torch.tensor([0.33, 0.71], dtype=torch.float64)},
    {"min_step": 0.15, "first_step": 0.2}, {"dtype": torch.float32}, {"norm": lambda x: x.abs().max()}, {},
], ids=lambda options: "-".join(options) or "none")  # fmt: skip
@pytest.mark.parametrize("method", ["dopri5", "bosh3", "dopri8"])
def test_about_the_same_steps(method: str, options: dict[str, Any]) -> None:
    """The mesh of torchdiffeq, but that a good step may be followed by a shorter one, and that ours lands on the end."""
    a, b = (mesh(lib, method=method, options=options) for lib in both)
    assert a[0] == pytest.approx(b[0], rel=1e-4)
    assert len(b) - 1 <= len(a) <= 1.2 * len(b) + 2
    assert a[-1] == 1.5


@pytest.mark.parametrize("method", ADAPTIVE)
def test_step_t_and_jump_t(method: str) -> None:
    """Both are landed on; at a jump f is asked just before and just after."""
    for reverse in (False, True):
        f = Count(lambda t, y: y * (1.0 if t < 0.5 else -1.0))
        t = torch.tensor([0.0, 1.0], dtype=torch.float64)
        options = {"jump_t": torch.tensor([0.5]), "step_t": torch.tensor([0.25])}
        y = ours.odeint(f, torch.ones(1, dtype=torch.float64), t.flip(0) if reverse else t, rtol=1e-4, atol=1e-6,
                        method=method, options=options)  # fmt: skip
        assert float(y[-1, 0]) == pytest.approx(1.0, abs=5e-3)
        assert 0 < min(abs(t - 0.5) for t in f.times) < 1e-15
        assert 0.5 not in f.times


def test_max_num_steps_counts_per_interval() -> None:
    for lib in both:
        how = {"rtol": 1e-6, "atol": 1e-8}
        lib.odeint(Net(), state(2), torch.linspace(0, 10, 11), options={"max_num_steps": 20}, **how)
        error, _, _ = outcome(
            lambda lib=lib, how=how: lib.odeint(
                Net(), state(2), torch.linspace(0, 10, 2), options={"max_num_steps": 20}, **how
            )
        )
        assert isinstance(error, AssertionError)
        assert str(error).startswith("max_num_steps exceeded (20>=20)")


def test_min_step_accepts_whatever_the_error() -> None:
    def stiff(t: Tensor, y: Tensor) -> Tensor:
        return torch.sign(0.5 - t) * 100.0 + 0 * y

    how = {"rtol": 1e-9, "atol": 1e-9, "options": {"min_step": 0.05}}
    a, b = (lib.odeint(stiff, state(1), torch.tensor([0.0, 1.0], dtype=torch.float64), **how) for lib in both)
    assert torch.isfinite(a).all()
    assert torch.isfinite(b).all()


@pytest.mark.parametrize("form", ["tensor", "tuple", "broadcast"])
def test_tolerances_for_each_entry(form: str) -> None:
    rtol = {"tensor": torch.tensor([1e-9, 1e-3]), "tuple": (1e-9, 1e-3), "broadcast": torch.tensor([[1e-9, 1e-3]])}[
        form
    ]
    atol = torch.tensor(1e-9)
    y0, t = state(3, 2), times(3)
    a, b = (lib.odeint(lambda t, y: torch.cos(3 * t) * y, y0, t, rtol=rtol, atol=atol) for lib in both)
    close(a, b, 1e-3)
    exact = reference(lambda t, y: torch.cos(3 * t) * y, y0, t)
    assert ((a - exact)[..., 0].abs().max()) < 1e-3


def test_tolerances_for_each_part_of_a_tuple() -> None:
    exact = reference(Pair(), pair_state(), times(3))
    for rtol in ((1e-9, 1e-4), [1e-9, 1e-4], (torch.tensor(1e-9), 1e-4)):
        with torch.no_grad():
            a, b = (lib.odeint(Pair(), pair_state(), times(3), rtol=rtol, atol=(1e-10, 1e-6)) for lib in both)
        for x, y, z in zip(a, b, exact):
            as_good(x, y, z, 1e-4)


def test_norms_see_the_users_shapes() -> None:
    for lib in both:
        seen: list[Any] = []

        def largest(x: Any, seen: list[Any] = seen) -> Any:
            parts = x if isinstance(x, tuple) else (x,)
            seen.append([tuple(part.shape) for part in parts])
            return torch.stack([part.abs().max() for part in parts]).max()

        how = {"rtol": 1e-3, "atol": 1e-3, "options": {"norm": largest}}
        lib.odeint(Net(), state(3, 2), times(3), **how)
        assert all(shapes == [(3, 2)] for shapes in seen)
        seen.clear()
        lib.odeint(Pair(), pair_state(), times(3), **how)
        assert seen
        assert all(shapes == [(2,), (3, 1)] for shapes in seen)


def test_a_norm_may_return_a_number() -> None:
    y = ours.odeint(Net(), state(2), times(3), options={"norm": lambda x: x.abs().max().item()})
    close(y.detach(), reference(Net(), state(2), times(3)), 1e-6)


@pytest.mark.parametrize(("method", "options"), [
    ("dopri5", {"max_steps": 3}), ("rk4", {"max_num_steps": 3}), ("rk4", {"first_step": 3}), ("explicit_adams", {"foo": 1}),
    ("implicit_adams", {"foo": 1}), ("scipy_solver", {"foo": 1}), ("dopri5", {"grid_points": torch.tensor([0.5]), "eps": 0.1}),
    ("rk4", {"grid_points": torch.tensor([0.5]), "eps": 0.1}), ("scipy_solver", {"grid_points": 1, "eps": 0.1}), ("bosh3", {}),
], ids=str)  # fmt: skip
def test_unknown_and_legacy_options_only_warn(method: str, options: dict[str, Any]) -> None:
    texts = []
    for lib in both:
        with torch.no_grad():
            error, _, warned = outcome(
                lambda lib=lib: lib.odeint(Net(), state(2), times(3), method=method, options=options)
            )
        assert error is None
        texts.append(warned)
    assert texts[0] == texts[1]


# --- callbacks ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("method", ADAPTIVE)
def test_callbacks_of_adaptive_methods(method: str, reverse: bool) -> None:
    f = Recorder(Net())
    tol = 1e-3 if method == "adaptive_heun" else 1e-5
    y = ours.odeint_adjoint(
        f, state(2), times(3, reverse=reverse), method=method, rtol=tol, atol=tol, options={"first_step": 1.4}
    )
    assert f.count("step") == f.count("accept_step") + f.count("reject_step")
    assert f.count("reject_step") > 0
    assert not any(name.endswith("adjoint") for name in f.seen)
    for t0, y0, dt in f.seen["callback_step"]:
        assert 0.1 <= t0 <= 1.5
        assert (t0.dtype, t0.shape, dt.dtype, dt.shape) == (torch.float64, (), torch.float64, ())
        assert y0.shape == (2,)
        assert dt > 0
    (y**2).sum().backward()
    assert f.count("step_adjoint") == f.count("accept_step_adjoint") + f.count("reject_step_adjoint") > 0
    t0, y0, dt = f.seen["callback_step_adjoint"][0]
    assert float(t0) == (0.1 if reverse else 1.5)
    assert [x.shape for x in y0] == [(), (2,), (2,), (2, 2), (2,)]
    assert dt > 0


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("method", FIXED)
def test_callbacks_of_fixed_methods_once_per_interval(method: str, reverse: bool) -> None:
    t = torch.linspace(0, 1, 3, dtype=torch.float64)
    t = t.flip(0) if reverse else t
    seen = []
    for lib in both:
        f = Recorder(Net())
        for name in ("accept_step", "reject_step", "accept_step_adjoint", "reject_step_adjoint"):
            delattr(f, f"callback_{name}")
        y = lib.odeint_adjoint(f, state(2), t, rtol=1e-3, atol=1e-3, method=method, options={"step_size": 0.1})
        assert f.count("step") == 10
        y.sum().backward()
        assert f.count("step_adjoint") == 10
        # torchdiffeq hands the backward solve's callbacks negated times where the forward solve's decrease
        seen.append(
            [(abs(float(t0)), float(dt)) for name in ("", "_adjoint") for t0, _, dt in f.seen[f"callback_step{name}"]]
        )
    assert [x for pair in seen[0] for x in pair] == pytest.approx([x for pair in seen[1] for x in pair], abs=1e-12)


def test_callbacks_see_tuple_states_unpacked() -> None:
    for lib in both:
        f = Recorder(Pair())
        with torch.no_grad():
            lib.odeint(f, pair_state(), times(3), rtol=1e-3, atol=1e-3)
        assert all([x.shape for x in y0] == [(2,), (3, 1)] for _, y0, _ in f.seen["callback_accept_step"])


@pytest.mark.parametrize("method", ["rk4", "implicit_adams", "scipy_solver"])
def test_unsupported_callbacks_warn(method: str) -> None:
    for lib in both:
        with torch.no_grad():
            error, _, texts = outcome(
                lambda lib=lib: lib.odeint(Recorder(Net()), state(2), times(9), rtol=1e-3, method=method)
            )
        assert error is None
        (text,) = texts
        assert text.startswith(f"Solver '{method}' does not support callbacks {{")
        assert "callback_reject_step" in text


def test_an_error_in_a_callback_comes_through() -> None:
    f = Count(Net())

    def stop(t0: Tensor, y0: Tensor, dt: Tensor) -> None:
        raise KeyError("stop")

    f.callback_step = stop  # type: ignore[attr-defined]
    with pytest.raises(KeyError, match="stop"):
        ours.odeint(f, state(2), times(3))
