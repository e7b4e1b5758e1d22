"""What programs do with torchdiffeq's classes beyond naming them: subclass, override, step by hand."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from parity.side_by_side import ADAPTIVE, FIXED, Count, Net, close, ours, state, theirs, times
from torchivp import TorchIVPError

both = (ours, theirs)


def private(lib: Any, module: str) -> Any:
    return importlib.import_module(f"{lib.__name__}._impl.{module}")


@pytest.fixture
def registered() -> Iterator[Any]:
    """Tables of both libraries to register in; what was registered goes away again."""
    tables = [private(lib, "odeint").SOLVERS for lib in both]
    before = [dict(table) for table in tables]
    yield tables
    for table, old in zip(tables, before):
        table.clear()
        table.update(old)


def f(t: Tensor, y: Tensor) -> Tensor:
    return -y * torch.cos(t)


def with_integrate(lib: Any) -> type:
    """Euler's method with a hundred steps between the times, which only its own ``integrate`` knows of."""

    class Fine(private(lib, "solvers").FixedGridODESolver):  # type: ignore[misc,name-defined]
        order = 1

        def _step_func(self, func: Any, t0: Any, dt: Any, t1: Any, y0: Any) -> Any:
            f0 = func(t0, y0)
            return dt * f0, f0

        def integrate(self, t: Any) -> Any:
            values = [self.y0]
            for a, b in zip(t[:-1], t[1:]):
                y, grid = values[-1], torch.linspace(float(a), float(b), 101, dtype=t.dtype)
                for t0, t1 in zip(grid[:-1], grid[1:]):
                    y = y + self._step_func(self.func, t0, t1 - t0, t1, y)[0]
                values.append(y)
            return torch.stack(values)

    return Fine


def test_a_solver_with_its_own_integrate(registered: Any) -> None:
    """It solves backwards, too; and has no dense output."""
    results = []
    for lib, table in zip(both, registered):
        table["fine"] = with_integrate(lib)
        y0 = state(2).requires_grad_()
        y = lib.odeint_adjoint(f, y0, times(), method="fine", adjoint_params=())
        results.append((y.detach(), *torch.autograd.grad((y**2).sum(), y0)))
    close(*results, 1e-12)
    with pytest.raises(AttributeError, match="no dense output") as error:
        ours.odeint_dense(f, state(2), torch.tensor(0.0), torch.tensor(1.0), method="fine")
    assert isinstance(error.value, TorchIVPError)


@pytest.mark.parametrize("hook", ["_adaptive_step", "_before_integrate", "_advance", "_interp_fit"])
def test_overridden_hooks_are_called(registered: Any, hook: str) -> None:
    results, calls = [], []
    for lib, table in zip(both, registered):
        solver = private(lib, "dopri5").Dopri5Solver
        count = [0]

        def called(self: Any, *args: Any, solver: Any = solver, count: list[int] = count) -> Any:
            count[0] += 1
            return getattr(solver, hook)(self, *args)

        table["mine"] = type("Mine", (solver,), {hook: called})
        options = {"step_t": torch.tensor([0.4, 0.2]), "jump_t": torch.tensor([0.7])}
        y0 = state(2).requires_grad_()
        y = lib.odeint_adjoint(f, y0, times(), method="mine", options=options, adjoint_params=())
        results.append((y.detach(), *torch.autograd.grad((y**2).sum(), y0)))
        event_t, values = lib.odeint(f, state(2), times(2), method="mine", event_fn=lambda t, y: y[1] - 0.8)
        results[-1] += (event_t, values)
        calls.append(count[0])
    close(results[0][:1] + results[0][2:], results[1][:1] + results[1][2:], 1e-9)
    close(results[0][1], results[1][1], 1e-6)  # ours leaves the parameters and lands on the outputs
    assert calls[0] > 0
    if hook in ("_before_integrate", "_advance"):
        assert calls[0] == calls[1]


@pytest.mark.parametrize("name", ADAPTIVE)
def test_stepping_by_hand(name: str) -> None:
    """The same steps, and attributes under the same names."""
    results = []
    for lib in both:
        table, func = private(lib, "odeint").SOLVERS, Count(Net())
        inputs = private(lib, "misc")._check_inputs(func, state(3, 2), times(), 1e-5, 1e-6, name, None, None, table)
        _, func_, y0, t, rtol, atol, _, options, _, _ = inputs
        solver = table[name](func=func_, y0=y0, rtol=rtol, atol=atol, **options)
        limits = [getattr(solver, x).clamp(max=99) for x in ("min_step", "max_step", "safety", "ifactor", "dfactor")]
        solver._before_integrate(t)
        sizes, states = [], []
        while solver.rk_state.t1 < t[-1]:
            solver.rk_state = solver._adaptive_step(solver.rk_state)
            sizes.append(solver.rk_state.dt)
            states.append(torch.stack([solver.rk_state.y1, solver.rk_state.f1, *solver.rk_state.interp_coeff]))
        results.append((*limits, torch.stack(sizes), torch.stack(states), solver._advance(t[-1])))
        assert func.calls > 0
    close(*results, 1e-6)


def test_classes_and_their_constants() -> None:
    for module, name, mid in (
        ("dopri5", "Dopri5Solver", "DPS_C_MID"),
        ("dopri8", "Dopri8Solver", "_C_mid"),
        ("bosh3", "Bosh3Solver", "_BS_C_MID"),
        ("fehlberg2", "Fehlberg2", "_FE_C_MID"),
        ("adaptive_heun", "AdaptiveHeunSolver", "_AH_C_MID"),
    ):
        mine, other = (private(lib, module) for lib in both)
        close(getattr(mine, mid), getattr(other, mid), 1e-14)
        close(getattr(mine, name).mid, getattr(other, name).mid, 1e-14)
        assert getattr(mine, name).__name__ == name
    for name in (*ADAPTIVE, *FIXED):
        mine, other = (private(lib, "odeint").SOLVERS[name] for lib in both)
        assert mine.order == other.order
        assert isinstance(mine.order, int)


def test_the_warning_names_the_class() -> None:
    texts = []
    for lib in both:
        with pytest.warns(UserWarning, match="Unexpected") as caught:
            lib.odeint(f, state(2), times(2), rtol=1e-3, atol=1e-3, method="fehlberg2", options={"foo": 1})
        texts.append([str(w.message) for w in caught])
    assert texts[0] == texts[1] == ["Fehlberg2: Unexpected arguments {'foo': 1}"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_step_function_gets_times_of_the_users_dtype(registered: Any, dtype: torch.dtype) -> None:
    for lib, table in zip(both, registered):
        seen: set[Any] = set()

        class Mine(private(lib, "solvers").FixedGridODESolver):  # type: ignore[misc,name-defined]
            order = 1

            def _step_func(self, func: Any, t0: Any, dt: Any, t1: Any, y0: Any, seen: Any = seen) -> Any:
                seen |= {t0.dtype, dt.dtype, t1.dtype}
                f0 = func(t0, y0)
                return dt * f0, f0

        table["mine"] = Mine
        for options in ({}, {"step_size": 0.1}):
            lib.odeint(f, state(2), times(dtype=dtype), method="mine", options=options)
        assert seen == {dtype}


def test_interpolation_of_fixed_steps() -> None:
    """Programs with their own loop call the two interpolants of the base class."""
    t0, t1, t = (torch.tensor(x, dtype=torch.float64) for x in (0.2, 0.7, 0.4))
    y0, y1, f0, f1 = (state(3) * k for k in (1.0, 1.2, 0.3, -0.4))
    results = []
    for lib in both:
        solver = private(lib, "fixed_grid").RK4(func=None, y0=y0, rtol=1e-3, atol=1e-3)
        lines = [solver._linear_interp(t0, t1, y0, y1, x) for x in (t0, t, t1)]
        results.append((*lines, *(solver._cubic_hermite_interp(t0, y0, f0, t1, y1, f1, x) for x in (t0, t, t1))))
    close(*results, 1e-14)


def test_wrappers_are_modules() -> None:
    """Their parameters register, so that odeint_adjoint finds them."""
    results = []
    for lib in both:
        misc, net = private(lib, "misc"), Net()
        shapes = [torch.Size([2])]
        for wrapped in (misc._PerturbFunc(net), misc._ReverseFunc(net), misc._TupleFunc(net, shapes),
                        misc._TupleInputOnlyFunc(net, shapes)):  # fmt: skip
            assert isinstance(wrapped, nn.Module)
            assert len(list(wrapped.parameters())) == 2
        y = lib.odeint_adjoint(misc._ReverseFunc(net, mul=-1.0), state(2), times())
        results.append((y.detach(), *torch.autograd.grad(y[-1].sum(), list(net.parameters()))))
    close(*results, 1e-6)


def test_the_adjoint_function_by_hand() -> None:
    """With inputs that are not in normal form yet, in both directions of time."""
    for reverse in (False, True):
        results = []
        for lib in both:
            y0 = state(2).requires_grad_()
            apply = private(lib, "adjoint").OdeintAdjointMethod.apply
            y = apply(None, f, y0, times(reverse=reverse), 1e-7, 1e-9, None, {}, None, 1e-7, 1e-9, None, {}, False)
            results.append((y.detach(), *torch.autograd.grad((y**2).sum(), y0)))
        close(*results, 1e-6)


def test_the_stored_seminorm_knows_the_time() -> None:
    for t in (5.0, 1e-3):
        norms = []
        for lib in both:
            options = {"norm": "seminorm"}
            private(lib, "adjoint").handle_adjoint_norm_(options, None, private(lib, "misc")._rms_norm)
            y = state(3)
            norms.append(options["norm"]((torch.tensor(-t, dtype=torch.float64), y, 2 * y, 99 * y)))
        close(*norms, 1e-14)
