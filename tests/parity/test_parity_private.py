"""The private names of torchdiffeq that programs import, and ``compat.install()``."""

from __future__ import annotations

import importlib
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from parity.side_by_side import Count, Net, close, ours, state, theirs, times

both = (ours, theirs)
NAMES = {
    "odeint": "SOLVERS odeint odeint_dense odeint_event",
    "solvers": "FixedGridODESolver AdaptiveStepsizeODESolver AdaptiveStepsizeEventODESolver",
    "rk_common": (
        "RKAdaptiveStepsizeODESolver _ButcherTableau _RungeKuttaState _runge_kutta_step rk4_alt_step_func rk4_step_func"
    ),
    "misc": (
        "Perturb _check_inputs _flat_to_shape _mixed_norm _rms_norm _linf_norm _zero_norm _PerturbFunc "
        "_ReverseFunc _TupleFunc _TupleInputOnlyFunc _null_callback _select_initial_step _optimal_step_size "
        "_compute_error_ratio _handle_unused_kwargs _tuple_tol _nextafter _all_callback_names "
        "_all_adjoint_callback_names"
    ),
    "interp": "_interp_fit _interp_evaluate",
    "adjoint": "find_parameters handle_adjoint_norm_ OdeintAdjointMethod odeint_adjoint",
    "dopri5": "Dopri5Solver _DORMAND_PRINCE_SHAMPINE_TABLEAU DPS_C_MID",
    "dopri8": "Dopri8Solver",
    "bosh3": "Bosh3Solver _BOGACKI_SHAMPINE_TABLEAU",
    "fehlberg2": "Fehlberg2 _FEHLBERG2_TABLEAU",
    "adaptive_heun": "AdaptiveHeunSolver _ADAPTIVE_HEUN_TABLEAU",
    "fixed_grid": "Euler Midpoint Heun2 Heun3 RK4",
    "fixed_adams": "AdamsBashforth AdamsBashforthMoulton",
    "scipy_wrapper": "ScipyWrapperODESolver",
    "event_handling": "find_event combine_event_functions",
}


def private(lib: Any, module: str) -> Any:
    return importlib.import_module(f"{lib.__name__}._impl.{module}")


@pytest.mark.parametrize("module", NAMES)
def test_names_are_there(module: str) -> None:
    for lib in both:
        found = private(lib, module)
        assert [name for name in NAMES[module].split() if not hasattr(found, name)] == []


def test_the_table_of_solvers() -> None:
    """The keys programs offer on their command lines: torchdiffeq's, in its order, and those of its main branch."""
    mine, other = (list(private(lib, "odeint").SOLVERS) for lib in both)
    implicit = "implicit_euler implicit_midpoint trapezoid radauIIA3 gl4 radauIIA5 gl6 sdirk2 trbdf2"
    newer = {"tsit5", *implicit.split()}
    assert [name for name in mine if name not in newer or name in other] == other
    assert newer <= set(mine)
    for name, solver in private(theirs, "odeint").SOLVERS.items():
        assert private(ours, "odeint").SOLVERS[name].__name__.startswith(solver.__name__)


@pytest.fixture
def registered() -> Any:
    """Tables of both libraries to register in; what was registered goes away again."""
    tables = [private(lib, "odeint").SOLVERS for lib in both]
    before = [dict(table) for table in tables]
    yield tables
    for table, old in zip(tables, before):
        table.clear()
        table.update(old)


def heun_class(lib: Any) -> type:
    class Heun(private(lib, "solvers").FixedGridODESolver):  # type: ignore[misc]
        order = 2

        def __init__(self, func: Any, y0: Any, extra: float = 0.0, **kwargs: Any):
            super().__init__(func, y0, **kwargs)
            self.extra = extra

        def _step_func(self, func: Any, t0: Any, dt: Any, t1: Any, y0: Any) -> Any:
            perturb = private(lib, "misc").Perturb.NEXT if self.perturb else private(lib, "misc").Perturb.NONE
            f0 = func(t0, y0, perturb=perturb)
            return dt / 2 * (f0 + func(t1, y0 + dt * f0)), f0

    return Heun


@pytest.mark.parametrize(
    "options",
    [{"interp": "linear"}, {"interp": "cubic", "step_size": 0.1}, {"perturb": True, "extra": 1.0, "interp": "linear"}],
    ids=str,
)
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "backward"])
def test_a_registered_step_function(registered: Any, options: dict[str, Any], reverse: bool) -> None:
    results = []
    for lib, table in zip(both, registered):
        table["my_heun"] = heun_class(lib)
        net, y0, t = Net(), state(3, 2).requires_grad_(), times(5, reverse=reverse).requires_grad_()
        f = Count(net)
        y = lib.odeint(f, y0, t, method="my_heun", options=options)
        results.append([y.detach(), *torch.autograd.grad((y**2).sum(), [y0, t, *net.parameters()])])
        if "step_size" not in options:
            assert f.calls == 8
        z = lib.odeint_adjoint(net, y0, t.detach(), method="my_heun", options=options)
        results[-1] += torch.autograd.grad((z**2).sum(), [y0, *net.parameters()])
    close(*results, 1e-11)
    event, _ = ours.odeint(
        Net(),
        state(2),
        torch.tensor([0.0, 1.0]),
        method="my_heun",
        options={"step_size": 0.1},
        event_fn=lambda t, y: y[0],
    )
    assert event > 0


def test_a_subclass_of_a_built_in_step_function(registered: Any) -> None:
    for lib, table in zip(both, registered):
        rk4 = private(lib, "fixed_grid").RK4

        class Half(rk4):  # type: ignore[misc,valid-type]
            def _step_func(self, func: Any, t0: Any, dt: Any, t1: Any, y0: Any) -> Any:
                dy, f0 = super()._step_func(func, t0, dt, t1, y0)
                return dy / 2, f0

        table["half"] = Half
    a, b = (lib.odeint(Net(), state(2), times(5), method="half") for lib in both)
    close(a, b, 1e-12)


def test_a_registered_adaptive_tableau(registered: Any) -> None:
    """Bogacki and Shampine's method typed in again, with and without a middle."""
    for lib, table in zip(both, registered):
        rk = private(lib, "rk_common")

        class Mine(rk.RKAdaptiveStepsizeODESolver):  # type: ignore[misc,name-defined]
            order = 3
            mid = torch.tensor([0.0, 0.5, 0.0, 0.0], dtype=torch.float64)
            tableau = rk._ButcherTableau(
                alpha=torch.tensor([1 / 2, 3 / 4, 1.0], dtype=torch.float64),
                beta=[torch.tensor(row, dtype=torch.float64) for row in ([1 / 2], [0.0, 3 / 4], [2 / 9, 1 / 3, 4 / 9])],
                c_sol=torch.tensor([2 / 9, 1 / 3, 4 / 9, 0.0], dtype=torch.float64),
                c_error=torch.tensor([2 / 9 - 7 / 24, 1 / 3 - 1 / 4, 4 / 9 - 1 / 3, -1 / 8], dtype=torch.float64),
            )

        table["mine"] = Mine
    options = {"step_t": times(4)[1:-1]}
    a, b, c = (lib.odeint(Net(), state(2), times(4), rtol=1e-6, atol=1e-6, method=m, options=options)
               for lib, m in ((ours, "mine"), (theirs, "mine"), (ours, "bosh3")))  # fmt: skip
    close(a, b, 1e-3)  # torchdiffeq interpolates at the end of a step that goes past it
    close(a[1:3], c[1:3], 1e-12)
    a, b = (lib.odeint(Net(), state(2), times(30), rtol=1e-4, atol=1e-4, method="mine") for lib in both)
    close(a, b, 2e-3)


def test_a_registered_solver_from_scratch(registered: Any) -> None:
    for lib, table in zip(both, registered):
        base = private(lib, "solvers").AdaptiveStepsizeODESolver

        class Exact(base):  # type: ignore[misc,valid-type]
            def __init__(self, func: Any, y0: Any, rtol: Any, atol: Any, **kwargs: Any):
                super().__init__(dtype=torch.float64, y0=y0, **kwargs)

            def _before_integrate(self, t: Any) -> None:
                self.t0 = t[0]

            def _advance(self, next_t: Any) -> Any:
                return self.y0 * torch.exp(self.t0 - next_t)

        table["exact"] = Exact
    a, b = (lib.odeint(lambda t, y: -y, state(3), times(), method="exact") for lib in both)
    close(a, b, 1e-14)
    y0 = state(3).requires_grad_()
    y = ours.odeint_adjoint(Net(), y0, times(2), adjoint_method="dopri5", method="exact", adjoint_params=())
    assert y.requires_grad


def test_solver_classes_by_hand() -> None:
    """Some programs build the solver themselves."""
    results = []
    for lib in both:
        misc = private(lib, "misc")
        inputs = misc._check_inputs(
            Net(), state(3, 2), times(4), 1e-9, 1e-9, "dopri5", None, None, private(lib, "odeint").SOLVERS
        )
        shapes, func, y0, t, rtol, atol, _, options, event_fn, t_is_reversed = inputs
        assert (shapes, event_fn, t_is_reversed) == (None, None, False)
        results.append(
            private(lib, "dopri5").Dopri5Solver(func=func, y0=y0, rtol=rtol, atol=atol, **options).integrate(t)
        )
    close(*results, 1e-6)


def test_tableaux() -> None:
    for module, name, mid in (
        ("dopri5", "_DORMAND_PRINCE_SHAMPINE_TABLEAU", "DPS_C_MID"),
        ("bosh3", "_BOGACKI_SHAMPINE_TABLEAU", None),
    ):
        mine, other = (getattr(private(lib, module), name) for lib in both)
        for a, b in zip(mine, other):
            close(tuple(a) if isinstance(a, list) else a, tuple(b) if isinstance(b, list) else b, 1e-15)
        if mid is not None:
            close(getattr(private(ours, module), mid), getattr(private(theirs, module), mid), 1e-14)


def test_helper_functions_compute_the_same() -> None:
    y0, y1, f0, f1, mid = (state(3) * k for k in (1.0, 1.2, 0.3, -0.4, 1.1))
    dt, t0, t1 = (torch.tensor(x, dtype=torch.float64) for x in (0.5, 0.2, 0.7))

    limits = [torch.tensor(x) for x in (0.9, 10.0, 0.2)]

    def values(lib: Any) -> list[Any]:
        rk, misc, interp, dopri5 = (private(lib, m) for m in ("rk_common", "misc", "interp", "dopri5"))
        func = misc._PerturbFunc(Net())
        pair = torch.stack([y0, y1], -1)
        coefficients = interp._interp_fit(y0, y1, mid, f0, f1, dt)
        tableau = dopri5._DORMAND_PRINCE_SHAMPINE_TABLEAU
        return [
            *coefficients,
            interp._interp_evaluate(coefficients, t0, t1, torch.tensor(0.4, dtype=torch.float64)),
            *rk._runge_kutta_step(func, pair, func(t0, pair), t0, dt, t1, tableau),
            rk.rk4_alt_step_func(func, t0, dt, t1, pair),
            rk.rk4_step_func(func, t0, dt, t1, pair, perturb=True),
            misc._select_initial_step(func, t0, pair, 4, 1e-6, 1e-8, misc._rms_norm),
            misc._compute_error_ratio(y1 - y0, 1e-3, 1e-3, y0, y1, misc._rms_norm),
            *(misc._optimal_step_size(dt, torch.tensor(r), *limits, 5) for r in (0.0, 0.3, 2.0, 1e9)),
            misc._rms_norm(y0), misc._mixed_norm((y0, y1)), misc._linf_norm(y0),
            misc._TupleFunc(lambda t, y: (y[1], y[0]), [y0.shape, y1.shape])(t0, torch.cat([y0, y1])),
            misc._ReverseFunc(lambda t, y: t * y, mul=-1.0)(t0, y0),
            misc._flat_to_shape(torch.arange(12.0).view(2, 6), (2,), [torch.Size([2]), torch.Size([2, 2])]),
        ]  # fmt: skip

    a, b = values(ours), values(theirs)
    a = [x.to(y.dtype) if isinstance(y, Tensor) else x for x, y in zip(a, b)]
    close(a, b, 1e-7)


def test_the_error_of_a_polynomial_outside_its_step() -> None:
    zero, one, two = (torch.tensor(float(x)) for x in range(3))
    for lib in both:
        with pytest.raises(AssertionError, match="invalid interpolation, fails `t0 <= t <= t1`"):
            private(lib, "interp")._interp_evaluate([one] * 5, zero, one, two)


PROGRAM = """
import torchivp.compat
torchivp.compat.install()
torchivp.compat.install()
import torchdiffeq
import torchdiffeq._impl.misc
from torchdiffeq import odeint, odeint_adjoint, odeint_event, odeint_dense, __version__
from torchdiffeq._impl.odeint import SOLVERS
from torchdiffeq._impl import rk_common
from torchdiffeq._impl.misc import Perturb
import torch, torchivp
assert odeint is torchivp.odeint
assert torchdiffeq.odeint_adjoint is torchivp.odeint_adjoint
assert SOLVERS["dopri5"].__module__.startswith("torchivp.")
assert torchdiffeq._impl.misc.Perturb is Perturb
torchivp.compat.uninstall()
import sys
assert not [name for name in sys.modules if name.split(".")[0] == "torchdiffeq"]
import torchdiffeq
assert torchdiffeq.odeint is not torchivp.odeint
assert torchdiffeq.odeint(lambda t, y: -y, torch.ones(1), torch.tensor([0.0, 1.0])).shape == (2, 1)
print("done")
"""


def test_install_and_uninstall_in_a_fresh_process() -> None:
    done = subprocess.run([sys.executable, "-W", "error", "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "done", done.stderr


def test_install_gives_back_what_was_there() -> None:
    import torchdiffeq

    import torchivp.compat

    torchivp.compat.install()
    try:
        assert importlib.import_module("torchdiffeq") is ours
        assert importlib.import_module("torchdiffeq._impl.odeint").SOLVERS is private(ours, "odeint").SOLVERS
    finally:
        torchivp.compat.uninstall()
    assert importlib.import_module("torchdiffeq") is torchdiffeq
    assert importlib.import_module("torchdiffeq._impl.odeint").SOLVERS is private(theirs, "odeint").SOLVERS
    torchivp.compat.uninstall()
