"""Under vmap every row of a solve is a solve of its own: its values, steps, times and derivatives are those of it alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, func, nn

import torchivp
from gradients.transforms import scalar
from torchivp.methods import METHODS

F64 = torch.float64
Row = Callable[[Tensor], Tensor]


def f(t: Tensor, y: Tensor, w: Tensor) -> Tensor:
    return torch.stack([torch.sin(w[0] * t) * y[1] - y[0] ** 2, w[1] * torch.cos(3 * y[0] + 2 * t)])


# Rows that need very different steps: initial state, parameters, first and last time.
ROWS = torch.tensor(
    [[0.7, -0.4, 4.0, 2.5, 0.0, 1.0], [0.1, 0.9, 0.3, 40.0, 0.5, 1.7], [0.4, 0.2, 30.0, -1.0, 1.0, 0.6]], dtype=F64
)
T = torch.tensor([0.0, 0.3, 1.0], dtype=F64)


def from_y0(x: Tensor, **how: Any) -> Tensor:
    return torchivp.solve(f, x[:2], T, ROWS[0, 2:4], **how).y.flatten()


def from_args(x: Tensor, **how: Any) -> Tensor:
    return torchivp.solve(f, ROWS[0, :2], T, x[2:4], **how).y.flatten()


def from_closure(x: Tensor, **how: Any) -> Tensor:
    return torchivp.solve(lambda t, y: f(t, y, x[2:4]), ROWS[0, :2], T, **how).y.flatten()


def from_times(x: Tensor, **how: Any) -> Tensor:
    times = torch.stack([x[4], 0.3 * x[4] + 0.7 * x[5], x[5]])
    return torchivp.solve(f, ROWS[0, :2], times, ROWS[0, 2:4], **how).y.flatten()


def from_everything(x: Tensor, **how: Any) -> Tensor:
    return torchivp.solve(f, x[:2], (x[4], x[5]), x[2:4], **how).y.flatten()


def as_tree(x: Tensor, **how: Any) -> Tensor:
    def slope(t: Tensor, y: dict[str, Tensor], args: dict[str, Tensor]) -> dict[str, Tensor]:
        dy = f(t, torch.stack([y["a"], y["b"][0, 0]]), args["w"])
        return {"a": dy[0], "b": dy[1].view(1, 1)}

    y = torchivp.solve(slope, {"a": x[0], "b": x[1].view(1, 1)}, T, {"w": x[2:4]}, **how).y
    return torch.cat([y["a"], y["b"].flatten()])


def in_between(x: Tensor, **how: Any) -> Tensor:
    sol = torchivp.solve(f, x[:2], (x[4], x[5]), x[2:4], dense=True, **how)
    return sol(torch.stack([0.4 * x[4] + 0.6 * x[5], x[4]])).flatten()


def by_odeint(x: Tensor, **how: Any) -> Tensor:
    times = torch.stack([x[4], x[4] + 0.2, x[4] + 0.5 * x[5]])  # the rows run the same way
    return torchivp.odeint(lambda t, y: f(t, y, x[2:4]), x[:2], times, **how).flatten()


def by_odeint_of_tuples(x: Tensor, **how: Any) -> Tensor:
    def slope(t: Tensor, y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        dy = f(t, torch.cat(y), x[2:4])
        return dy[:1], dy[1:]

    return torch.cat(torchivp.odeint(slope, (x[:1], x[1:2]), T, **how), 1).flatten()


SUBJECTS = [
    from_y0, from_args, from_closure, from_times, from_everything, as_tree, in_between, by_odeint, by_odeint_of_tuples,
]  # fmt: skip


def alone(transform: Row, rows: Tensor) -> Tensor:
    return torch.stack([transform(row) for row in rows])


def loss(solved: Row) -> Row:
    return lambda x: scalar(solved(x))


OF_A_ROW: dict[str, Callable[[Row], Row]] = {
    "values": lambda g: g,
    "grad": lambda g: func.grad(loss(g)),
    "jacrev": func.jacrev,
    "jacfwd": func.jacfwd,
    "hessian": lambda g: func.hessian(loss(g)),
}


def assert_close(found: Tensor, expected: Tensor, tol: float = 1e-11) -> None:
    assert torch.count_nonzero(expected), "nothing is tested"
    assert torch.allclose(found, expected, rtol=tol, atol=tol * float(expected.abs().max()))


@pytest.mark.parametrize("name", OF_A_ROW)
@pytest.mark.parametrize("solved", SUBJECTS)
def test_a_row_is_as_if_it_were_alone(solved: Row, name: str) -> None:
    """At loose tolerances, where other steps would be seen. (There the rounding of error estimates moves the steps by 3e-12, and
    second derivatives, which have not converged, by 30 times as much.)"""
    row = OF_A_ROW[name](lambda x: solved(x, rtol=1e-3, atol=1e-3))
    assert_close(func.vmap(row)(ROWS), alone(row, ROWS), 1e-10 if name == "hessian" else 1e-11)


@pytest.mark.parametrize("solved", [from_y0, from_everything, in_between, by_odeint])
def test_derivatives_of_all_rows_at_once(solved: Row) -> None:
    def row(x: Tensor) -> Tensor:
        return solved(x, rtol=1e-3, atol=1e-3)

    everything = func.vmap(row)
    jacobian = torch.block_diag(*alone(func.jacrev(row), ROWS)).reshape(3, -1, 3, ROWS.shape[1])
    assert_close(func.jacrev(everything)(ROWS), jacobian)
    assert_close(func.jacfwd(everything)(ROWS), jacobian)
    assert_close(
        func.grad(lambda x: everything(x).sin().sum())(ROWS), alone(func.grad(lambda x: row(x).sin().sum()), ROWS)
    )
    direction = torch.cos(ROWS)
    product = func.jvp(func.grad(lambda x: everything(x).sin().sum()), (ROWS,), (direction,))[1]
    expected = torch.stack([func.hessian(lambda x: row(x).sin().sum())(x) @ v for x, v in zip(ROWS, direction)])
    assert_close(product, expected)
    plain = ROWS.clone().requires_grad_()
    (found,) = torch.autograd.grad(everything(plain).sin().sum(), plain)
    assert_close(found, alone(func.grad(lambda x: row(x).sin().sum()), ROWS))


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if method.by_rows])
def test_every_method_that_can(method: str) -> None:
    how: dict[str, Any] = {"rtol": 1e-3, "atol": 1e-3} if METHODS[method]().adaptive else {"dt": 0.07}
    row = OF_A_ROW["grad"](lambda x: in_between(x, method=method, **how))
    assert_close(func.vmap(row)(ROWS), alone(row, ROWS), SENSITIVE.get(method, 1e-11))


# Their estimates have weights that cancel, so that rounding moves the sizes of crude steps (docs/design/verner-dense.md).
SENSITIVE = {"dopri8": 1e-8, "vern6": 1e-9, "vern8": 1e-6, "vern9": 1e-8}


@pytest.mark.parametrize("method", SENSITIVE)
def test_rounding_alone_is_what_moves_them(method: str) -> None:
    """Steps of one size have no estimate to lead them astray."""
    row = OF_A_ROW["grad"](lambda x: in_between(x, method=method, controller=torchivp.FixedSteps(dt=0.07)))
    assert_close(func.vmap(row)(ROWS), alone(row, ROWS), 1e-11)


@pytest.mark.parametrize("method", ["dopri5", "dopri8", "bosh3", "tsit5", "fehlberg2", "adaptive_heun"])
def test_every_adaptive_method_of_the_drop_in(method: str) -> None:
    def row(x: Tensor) -> Tensor:
        options = {"first_step": 0.01, "norm": lambda x: x.abs().max(), "max_num_steps": 5_000}
        return by_odeint(x, method=method, rtol=1e-3, atol=1e-4, options=options)

    assert_close(func.vmap(row)(ROWS), alone(row, ROWS))


def test_nested_vmaps() -> None:
    y0, w = ROWS[:, :2], ROWS[:2, 2:4]

    def row(y0: Tensor, w: Tensor) -> Tensor:
        return torchivp.solve(f, y0, T, w, rtol=1e-3, atol=1e-3).y[-1]

    for transform in (lambda g: g, func.jacrev, func.jacfwd):
        one = transform(row)
        found = func.vmap(func.vmap(one, in_dims=(None, 0)), in_dims=(0, None))(y0, w)
        assert_close(found, torch.stack([torch.stack([one(y, v) for v in w]) for y in y0]))
    outside = func.vmap(func.grad(lambda y: func.vmap(row, in_dims=(None, 0))(y, w).sin().sum()))(y0)
    assert_close(outside, alone(func.grad(lambda y: torch.stack([row(y, v) for v in w]).sin().sum()), y0))


def test_rows_take_the_steps_they_would_take_alone() -> None:
    """Counted: the stiff row does not make the others take more."""
    counts: list[int] = []

    def solved(x: Tensor) -> Tensor:
        sol = torchivp.solve(f, x[:2], T, x[2:4])
        counts.append(sol.stats.attempted)
        return sol.y[-1]

    func.vmap(solved)(ROWS)
    alone(solved, ROWS)
    assert counts[0] == sum(counts[1:])
    assert max(counts[1:]) > 1.5 * min(counts[1:])


def test_the_time_that_f_sees_is_that_of_the_row() -> None:
    def clock(x: Tensor) -> Tensor:
        return torchivp.solve(lambda t, y: t.reshape(1), torch.zeros(1, dtype=F64), (0.0, x), rtol=1e-9).y[-1, 0]

    ends = torch.tensor([0.5, -1.0, 3.0], dtype=F64)
    assert torch.allclose(func.vmap(clock)(ends), 0.5 * ends**2)


def test_jumps_stops_and_saving_through_a_function() -> None:
    def row(x: Tensor) -> Tensor:
        return torchivp.solve(
            lambda t, y: torch.where(t < 0.5, y, -y * y), x[:2], (0.0, 1.0), jump_times=[0.5], stop_times=[0.2],
            save=lambda t, y: t * y.sum(),
        ).y  # fmt: skip

    assert_close(func.vmap(row)(ROWS), alone(row, ROWS))


def test_per_sample_gradients_of_a_block() -> None:
    """Parameters shared, samples not, at loose tolerances: those of the samples alone, to rounding."""
    block = torchivp.nn.ODEBlock(
        nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 3)).double(), rtol=1e-2, atol=1e-2
    )
    params = {name: p.detach() for name, p in block.named_parameters()}
    x = torch.randn(4, 3, dtype=F64) * torch.tensor([[0.1], [1.0], [3.0], [9.0]])

    def of_one(params: dict[str, Tensor], x: Tensor) -> Tensor:
        return scalar(func.functional_call(block, params, (x,)))

    together = func.vmap(func.grad(of_one), in_dims=(None, 0))(params, x)
    for i, sample in enumerate(x):
        for name, expected in func.grad(of_one)(params, sample).items():
            assert torch.allclose(together[name][i], expected, rtol=1e-10, atol=1e-12)


def test_many_networks() -> None:
    """vmap over the parameters, with one state for all."""
    block = torchivp.nn.ODEBlock(nn.Linear(2, 2).double(), rtol=1e-3, atol=1e-3)
    params = {"func.weight": torch.randn(3, 2, 2, dtype=F64), "func.bias": torch.randn(3, 2, dtype=F64)}
    x = torch.ones(2, dtype=F64)

    def row(params: dict[str, Tensor]) -> Tensor:
        return func.functional_call(block, params, (x,))

    expected = torch.stack([row({name: p[i] for name, p in params.items()}) for i in range(3)])
    assert_close(func.vmap(row)(params), expected)


@pytest.mark.parametrize("name", OF_A_ROW)
def test_events(name: str) -> None:
    """Terminal and passed ones: their times and states, with all derivatives."""

    def row(x: Tensor) -> Tensor:
        level = 0.1 + 0.01 * x[1] ** 2
        ends = torchivp.Event(lambda t, y, w: torch.sinh(y[0] - level) * w[0] ** 2, terminal=True)
        passed = torchivp.Event(lambda t, y, w: 2 * level / y[0] - 1)
        sol = torchivp.solve(
            lambda t, y, w: -(w[0] ** 2) * y * (2 + torch.cos(t)), x[:1] + 1, [x[4], 99.0], x[2:4], events=[ends, passed],
            rtol=1e-4, atol=1e-6,
        )  # fmt: skip
        assert sol.status is torchivp.Status.EVENT
        return torch.cat([*sol.t_events, *(y.flatten() for y in sol.y_events), sol.y.flatten(), sol.t])

    transform = OF_A_ROW[name](row)
    assert_close(func.vmap(transform)(ROWS), alone(transform, ROWS), 1e-9)


def test_tolerances_of_the_rows() -> None:
    def row(tol: Tensor) -> Tensor:
        return torchivp.solve(f, ROWS[0, :2], T, ROWS[0, 2:4], rtol=tol[0], atol=tol).y[-1]

    tols = torch.tensor([[1e-3, 1e-2], [1e-8, 1e-9]], dtype=F64)
    assert_close(func.vmap(row)(tols), alone(row, tols))


def test_a_row_that_fails() -> None:
    """It is named; the batch is on the error."""

    def row(y: Tensor, **how: Any) -> Tensor:
        return torchivp.solve(lambda t, y: y**2, y.reshape(1), (0.0, 3.0), save="end", **how).y

    y0 = torch.tensor([0.1, 1.0, 0.2], dtype=F64)
    with pytest.raises(torchivp.SolveError, match=r"1 of 3 rows failed \(1\)") as error:
        func.vmap(row)(y0)
    assert error.value.solution.failed == [1]
    assert torch.allclose(error.value.solution[2].y[-1], y0[2:] / (1 - 3 * y0[2:]), rtol=1e-3)
    statuses: list[torchivp.Status] = []

    def part(y: Tensor) -> Tensor:
        sol = torchivp.solve(lambda t, y: y**2, y.reshape(1), (0.0, 3.0), save="end", throw=False)
        statuses.append(sol.status)
        return sol.t[-1]

    times = func.vmap(part)(y0)
    assert times[0] == times[2] == 3.0 > times[1]
    assert not statuses[0].success
    with pytest.raises(torchivp.SolveError, match=r"max_num_steps exceeded"):
        func.vmap(lambda x: by_odeint(x, options={"max_num_steps": 3}))(ROWS)


REFUSED: dict[str, tuple[Callable[[Tensor], Any], type[Exception], str]] = {
    "steps": (lambda x: from_everything(x, save="steps"), torchivp.InputError, r"batch_dims=1"),
    "events": (
        lambda x: torchivp.solve(lambda t, y: torch.cos(9 * x[0] * t), x[0], T, events=lambda t, y: y - x[0] - 0.01).t,
        torchivp.InputError,
        "to [0-9]+ events",
    ),
    "batch of rows": (lambda x: torchivp.solve(lambda t, y: -y, x[:2], T, batch_dims=1).y, torchivp.InputError, "batch_dims=2"),
    "couple": (lambda x: from_y0(x, couple=True), torchivp.InputError, "batch_dims=1"),
    "start": (
        lambda x: torchivp.solve(f, None, 2.0, x[2:4], start=torchivp.solve(f, x[:2], T, x[2:4])).y,
        torchivp.InputError,
        r"start\.y\[-1\]",
    ),
    "times of a multistep method": (
        lambda x: from_times(x, method="explicit_adams", dt=0.1), torchivp.InputError, "Take a Runge-Kutta method",
    ),
    "times of fixed steps in odeint": (lambda x: by_odeint(x, method="rk4"), AssertionError, "loop over the rows"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_said(case: str) -> None:
    solved, error, advice = REFUSED[case]
    with pytest.raises(error, match=advice):
        func.vmap(solved)(ROWS)


def test_what_steps_together_still_works() -> None:
    """Multistep methods, and methods of the drop-in whose steps somebody looks at."""
    multistep = next(name for name, method in METHODS.items() if not method.by_rows)
    for row in (
        lambda x: from_y0(x, method=multistep, dt=0.1),
        lambda x: torchivp.odeint(lambda t, y: -x[2] * y, x[:2], T, method="rk4"),
        lambda x: torchivp.odeint(lambda t, y: -x[2] * y, x[:2], T, rtol=1e-9, options={"step_t": [0.5]}),
    ):
        assert_close(func.vmap(row)(ROWS), alone(row, ROWS), 1e-6)


def test_transforms_without_rows_do_not_make_any() -> None:
    """vmap over tangents (jacfwd), and over what the solve does not look at."""
    sol = torchivp.solve(f, ROWS[0, :2], T, ROWS[0, 2:4], dense=True)
    seen: list[str] = []

    def row(x: Tensor) -> Tensor:
        inner = torchivp.solve(f, ROWS[0, :2], T, ROWS[0, 2:4])
        seen.append(repr(inner))
        return inner.y[-1] + x.sum() * 0

    assert torch.equal(func.vmap(row)(ROWS)[1], sol.y[-1])
    assert seen == [repr(torchivp.solve(f, ROWS[0, :2], T, ROWS[0, 2:4]))]


def test_the_solution_under_vmap_can_be_printed_and_moved() -> None:
    seen: list[str] = []

    def row(x: Tensor) -> Tensor:
        sol = torchivp.solve(f, x[:2], T, x[2:4], dense=True)
        seen.append(repr(sol))
        moved = sol.detach().cpu().to(torch.float32)
        assert moved.y.dtype == moved(0.5).dtype == torch.float32
        return func.vmap(sol)(T)

    assert_close(func.vmap(row)(ROWS)[:, 0], ROWS[:, :2])
    assert "success: t=0..1" in seen[0]
