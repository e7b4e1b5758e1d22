"""``runner="cuda_graph"``: its masks and replays on the CPU, without a capture; the graphs themselves where there is a GPU."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import torchivp
from torchivp import InputError
from torchivp.runners import ROW_RUNNERS, RUNNERS, Runner
from torchivp.runners.compiled import march, repeated, rows, setup, single
from torchivp.runners.compiled.march import Kind
from torchivp.runners.cuda_graph import kind_of

Y0 = torch.tensor([1.0, 0.0], dtype=torch.float64)
ROWS = torch.tensor([[1.0, 0.0], [2.5, 0.5], [0.1, 0.1]], dtype=torch.float64)
TIMES = torch.linspace(0.0, 5.0, 7, dtype=torch.float64)
BOTH = pytest.mark.parametrize("batch_dims", [0, 1], ids=["one problem", "rows"])


def pendulum(t: Tensor, y: Tensor) -> Tensor:
    return torch.stack([y[..., 1], -torch.sin(y[..., 0]) + 0.1 * torch.cos(t)], dim=-1)


def exploding(t: Tensor, y: Tensor) -> Tensor:
    return y * y


def sinking(t: Tensor, y: Tensor) -> Tensor:
    """Not a number below 0."""
    return -torch.sqrt(y) - 0.1


class Shrinking(nn.Module):
    """A small network."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(2, 16).double(), nn.Linear(16, 2).double()

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.b(torch.tanh(self.a(y))) - y


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[[Kind], None]:
    """``use(kind)``: ``runner="cuda_graph"`` runs loops of this kind, on any device."""

    def use(kind: Kind) -> None:
        monkeypatch.setitem(RUNNERS, "cuda_graph", Runner(partial(single.run, kind=kind)))
        monkeypatch.setitem(ROW_RUNNERS, "cuda_graph", Runner(partial(rows.run, kind=kind)))

    return use


def start_of(batch_dims: int) -> Tensor:
    return ROWS if batch_dims else Y0


def both(*given: Any, **settings: Any) -> tuple[Any, Any]:
    """The eager solution, and that of the runner under test."""
    return tuple(torchivp.solve(*given, runner=runner, **settings) for runner in ("eager", "cuda_graph"))  # type: ignore[return-value]


def same(eager: Any, other: Any, rtol: float = 1e-9, nfe: bool = True) -> None:
    """The same outputs, meshes, statuses and statistics.

    Args:
        nfe: of evaluations, too (rows with jump times wait for each other, and are asked less often).
    """
    assert other.status == eager.status
    for name in ("attempted", "accepted", "rejected"):
        assert torch.equal(*(torch.as_tensor(getattr(sol.stats, name)).cpu() for sol in (eager, other))), name
    assert other.stats.nfe == eager.stats.nfe or not nfe
    for there, here in zip(parts(other), parts(eager), strict=True):
        torch.testing.assert_close(there, here, rtol=rtol, atol=rtol)


def parts(sol: Any) -> list[Tensor]:
    found = [sol.t, sol.y, sol.t_events or [], sol.y_events or []]
    return torch.utils._pytree.tree_leaves(found)


@BOTH
@pytest.mark.parametrize("save", ["t", "steps", "end"])
@pytest.mark.parametrize("k", [1, 3, 8])
def test_outputs_equal_the_eager_ones(use: Callable[[Kind], None], k: int, save: str, batch_dims: int) -> None:
    use(kind_of(k, captured=False))
    same(*both(pendulum, start_of(batch_dims), TIMES, save=save, batch_dims=batch_dims))


@BOTH
@pytest.mark.parametrize("save", ["t", "steps", "end"])
@pytest.mark.parametrize("k", [1, 3, 8])
def test_records_that_fill_up(
    use: Callable[[Kind], None], monkeypatch: pytest.MonkeyPatch, k: int, save: str, batch_dims: int
) -> None:
    """Eight steps are written down at once: what comes after the last slot, in the same graph, has to wait."""
    monkeypatch.setattr(setup, "_SLOTS", 8)
    use(kind_of(k, captured=False))
    eager, other = both(pendulum, start_of(batch_dims), TIMES, save=save, batch_dims=batch_dims, rtol=1e-9, atol=1e-9)
    same(eager, other, rtol=1e-7)  # sizes of steps depend on rounding at such tolerances
    assert torch.as_tensor(eager.stats.accepted).max() > 24


@BOTH
@pytest.mark.parametrize("k", [1, 3, 8])
def test_calls_that_end_between_two_steps(
    use: Callable[[Kind], None], monkeypatch: pytest.MonkeyPatch, k: int, batch_dims: int
) -> None:
    monkeypatch.setattr(march, "_FIRST", 5)
    monkeypatch.setattr(march, "_SECONDS", 1e-3)
    use(kind_of(k, captured=False))
    same(*both(pendulum, start_of(batch_dims), TIMES, save="steps", batch_dims=batch_dims))


@BOTH
@pytest.mark.parametrize("max_steps", [1, 4, 8, 9])
@pytest.mark.parametrize("k", [1, 3, 8])
def test_max_steps_within_a_graph(use: Callable[[Kind], None], k: int, max_steps: int, batch_dims: int) -> None:
    use(kind_of(k, captured=False))
    eager, other = both(
        pendulum, start_of(batch_dims), TIMES, max_steps=max_steps, batch_dims=batch_dims, throw=False, save="steps"
    )
    same(eager, other)
    assert not other.success


@BOTH
@pytest.mark.parametrize("f", [exploding, sinking])
@pytest.mark.parametrize("k", [1, 3, 8])
def test_failures(use: Callable[[Kind], None], k: int, f: Callable[[Tensor, Tensor], Tensor], batch_dims: int) -> None:
    """A row that failed keeps its state while the others go on, whatever its slope is there."""
    use(kind_of(k, captured=False))
    y0 = torch.tensor([[1.0], [0.1], [50.0]], dtype=torch.float64) if batch_dims else Y0[:1]
    eager, other = both(f, y0, (0.0, 5.0), batch_dims=batch_dims, throw=False)
    assert not eager.success
    assert other.status == eager.status
    for there, here in zip(parts(other), parts(eager), strict=True):
        assert torch.isfinite(there).all()
        torch.testing.assert_close(there, here, rtol=1e-6, atol=1e-6)


SETTINGS: dict[str, dict[str, Any]] = {
    "backwards in time": {"t": TIMES.flip(0)},
    "fixed steps": {"method": "rk4", "dt": 0.13},
    "not FSAL": {"method": "fehlberg2"},
    "a controller with memory": {"controller": torchivp.controllers.PID(p=0.3, i=0.4, d=0.1)},
    "stop and jump times": {"stop_times": [0.3, 2.2], "jump_times": [1.7]},
    "the largest error": {"norm": "max"},
}


@BOTH
@pytest.mark.parametrize("name", SETTINGS)
def test_settings(use: Callable[[Kind], None], name: str, batch_dims: int) -> None:
    use(kind_of(3, captured=False))
    settings, waits = dict(SETTINGS[name]), name == "stop and jump times"
    pair = both(pendulum, start_of(batch_dims), settings.pop("t", TIMES), batch_dims=batch_dims, **settings)
    same(*pair, nfe=not waits)


@BOTH
def test_events(use: Callable[[Kind], None], batch_dims: int) -> None:
    use(kind_of(3, captured=False))
    event = torchivp.Event(lambda t, y: y[..., 0], terminal=True)
    eager, other = both(pendulum, start_of(batch_dims), TIMES, batch_dims=batch_dims, events=event)
    assert other.status == eager.status
    for there, here in zip(parts(other), parts(eager), strict=True):
        torch.testing.assert_close(there, here, rtol=1e-9, atol=1e-9)


def test_rows_with_the_same_steps(use: Callable[[Kind], None]) -> None:
    use(kind_of(3, captured=False))
    same(*both(pendulum, ROWS, TIMES, batch_dims=1, couple=True))


def test_states_in_single_precision_and_in_parts(use: Callable[[Kind], None]) -> None:
    use(kind_of(3, captured=False))
    y0 = {"x": torch.ones(3), "v": torch.zeros(3, 2)}

    def f(t: Tensor, y: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"x": y["v"].sum(-1), "v": -y["v"] + y["x"].unsqueeze(-1)}

    eager, other = both(f, y0, (0.0, 1.0))
    assert other.y["v"].dtype == torch.float32
    for name in y0:
        torch.testing.assert_close(other.y[name], eager.y[name], rtol=1e-4, atol=1e-5)


@BOTH
def test_dense_output(use: Callable[[Kind], None], batch_dims: int) -> None:
    use(kind_of(3, captured=False))
    eager, other = both(pendulum, start_of(batch_dims), (0.0, 5.0), batch_dims=batch_dims, dense=True)
    torch.testing.assert_close(other(TIMES), eager(TIMES), rtol=1e-9, atol=1e-9)


@BOTH
@pytest.mark.parametrize("gradient", ["discrete", "adjoint"])
def test_gradients_equal_the_eager_ones(use: Callable[[Kind], None], gradient: str, batch_dims: int) -> None:
    use(kind_of(3, captured=False))
    f, found = Shrinking(), []
    for runner in ("eager", "cuda_graph"):
        y0 = start_of(batch_dims).clone().requires_grad_()
        sol = torchivp.solve(f, y0, TIMES, batch_dims=batch_dims, gradient=gradient, runner=runner, args=None)
        found.append(torch.autograd.grad(sol.y.square().sum(), [y0, *f.parameters()]))
    for eager, other in zip(*found):
        torch.testing.assert_close(other, eager, rtol=1e-7, atol=1e-9)


def test_weights_that_change_are_seen(use: Callable[[Kind], None]) -> None:
    use(kind_of(3, captured=False))
    f = Shrinking()
    for _ in range(2):
        with torch.no_grad():
            same(*both(f, Y0, TIMES))
            for p in f.parameters():
                p.mul_(1.5)
    with torch.no_grad():
        f.a.weight = nn.Parameter(torch.ones_like(f.a.weight))  # another tensor, elsewhere
        same(*both(f, Y0, TIMES))


def test_a_graph_may_be_used_within_and_without_inference_mode(use: Callable[[Kind], None]) -> None:
    use(kind_of(3, captured=False))
    with torch.inference_mode():
        same(*both(lambda t, y: -2 * y, Y0, TIMES))
    same(*both(lambda t, y: -2 * y, Y0, TIMES))


class Watched:
    """A kind of loop that tells what its programs did."""

    def __init__(self, k: int, monkeypatch: pytest.MonkeyPatch):
        kind, self.calls, self.works, self.made = kind_of(k, captured=False), [], 0, 0
        self.record: Any = None
        attempts, init = repeated.Repeated.attempts, repeated.Repeated.__init__

        def counted(of: Any) -> None:
            self.works += 1
            attempts(of)

        def counted_init(of: Any, *given: Any) -> None:
            self.made += 1
            init(of, *given)
            self.works -= 1  # the one that warms up
            self.record = of.record

        monkeypatch.setattr(repeated.Repeated, "attempts", counted)
        monkeypatch.setattr(repeated.Repeated, "__init__", counted_init)

        def program_for(form: Any, pure: Any) -> Any:
            program = kind.program_for(form, pure)

            def call(*given: Any, **more: Any) -> Any:
                self.calls.append((program, given))
                return program(*given, **more)

            return call

        self.kind = Kind("cuda_graph", program_for, fuses=False)


@pytest.mark.parametrize("k", [1, 3, 8])
def test_one_piece_of_work_is_superfluous(use: Callable[[Kind], None], monkeypatch: pytest.MonkeyPatch, k: int) -> None:
    """The flag is read when the next piece is queued already, and not later."""
    watched = Watched(k, monkeypatch)
    use(watched.kind)
    attempted = torchivp.solve(lambda t, y: -3 * y, Y0, (0.0, 5.0), save="end", runner="cuda_graph").stats.attempted
    assert len(watched.calls) == 1
    assert watched.works == math.ceil(attempted / k) + 1


def test_what_is_captured_is_kept(use: Callable[[Kind], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """One for each shape; of many shapes the last ones."""
    watched = Watched(3, monkeypatch)
    use(watched.kind)

    def f(t: Tensor, y: Tensor) -> Tensor:
        return -4 * y

    def solve(n: int) -> None:
        torchivp.solve(f, torch.ones(n, 2), (0.0, 1.0), save="end", runner="cuda_graph", batch_dims=1)

    for n in (3, 4):  # from now on f is traced for any size
        solve(n)
    watched.made = 0
    for n in (5, 5, 6, 6, 5):
        solve(n)
    assert watched.made == 2
    for n in (7, 8, 9, 5):
        solve(n)
    assert watched.made == 5
    solve(6)
    assert watched.made == 6


@pytest.mark.parametrize("k", [1, 3])
def test_nothing_changes_where_the_flag_is_false(
    use: Callable[[Kind], None], monkeypatch: pytest.MonkeyPatch, k: int
) -> None:
    watched = Watched(k, monkeypatch)
    use(watched.kind)
    torchivp.solve(lambda t, y: -y * t.unsqueeze(-1), ROWS, TIMES, save="steps", runner="cuda_graph", batch_dims=1)
    program, (start, fixed, held, record) = watched.calls[0]
    slots, slopes = setup._SLOTS, tuple(torch.full_like(x, torch.nan) for x in start.ks)
    totals = start.totals.clone()
    totals[0], totals[2] = 0, slots  # go, slot
    start = start._replace(totals=totals, ks=slopes)
    before = copy.deepcopy(watched.record.first(slots))
    after = program(start, fixed, held, record)
    leaves = torch.utils._pytree.tree_leaves
    for now, then in zip(leaves((after, record.first(slots))), leaves((start, before)), strict=True):
        torch.testing.assert_close(now, then, rtol=0, atol=0, equal_nan=True)


def test_on_the_cpu_it_says_what_to_write_instead() -> None:
    for batch_dims in (0, 1):
        with pytest.raises(InputError, match=r"CUDA device, but y0 is on cpu.*runner='compiled' or runner='eager'"):
            torchivp.solve(pendulum, start_of(batch_dims), TIMES, runner="cuda_graph", batch_dims=batch_dims)


def test_refusals_name_the_runner(use: Callable[[Kind], None]) -> None:
    use(kind_of(3, captured=False))
    with pytest.raises(InputError, match="runner='cuda_graph' does not go with on_step"):
        torchivp.solve(pendulum, Y0, TIMES, runner="cuda_graph", on_step=lambda t, y: False)
    with pytest.raises(InputError, match="runner='cuda_graph' cannot record"):
        torchivp.solve(pendulum, Y0.clone().requires_grad_(), TIMES, runner="cuda_graph", gradient="direct")


def test_f_must_not_write_to_what_it_holds(use: Callable[[Kind], None]) -> None:
    use(kind_of(3, captured=False))
    calls = torch.zeros(())

    def f(t: Tensor, y: Tensor) -> Tensor:
        calls.add_(1)
        return -y

    with pytest.raises(InputError, match=r"writes (to|into)"):
        torchivp.solve(f, Y0, TIMES, runner="cuda_graph")


def test_f_may_write_to_what_it_makes(use: Callable[[Kind], None]) -> None:
    use(kind_of(3, captured=False))

    def f(t: Tensor, y: Tensor) -> Tensor:
        slope = torch.zeros_like(y)
        slope.sub_(y)
        return slope

    same(*both(f, Y0, TIMES))


# On a GPU


def on_gpu(batch_dims: int) -> Tensor:
    return start_of(batch_dims).to("cuda")


@pytest.mark.cuda
@BOTH
@pytest.mark.parametrize("save", ["t", "steps", "end"])
def test_graphs_give_the_eager_outputs(save: str, batch_dims: int) -> None:
    for _ in range(2):  # captured, and used again
        same(*both(pendulum, on_gpu(batch_dims), TIMES.to("cuda"), save=save, batch_dims=batch_dims))


@pytest.mark.cuda
@BOTH
@pytest.mark.parametrize("name", SETTINGS)
def test_settings_on_a_gpu(name: str, batch_dims: int) -> None:
    settings = dict(SETTINGS[name])
    times = settings.pop("t", TIMES).to("cuda")
    same(*both(pendulum, on_gpu(batch_dims), times, batch_dims=batch_dims, **settings), nfe=False)


@pytest.mark.cuda
@BOTH
def test_records_that_fill_up_on_a_gpu(monkeypatch: pytest.MonkeyPatch, batch_dims: int) -> None:
    monkeypatch.setattr(setup, "_SLOTS", 8)
    same(
        *both(
            pendulum, on_gpu(batch_dims), TIMES.to("cuda"), batch_dims=batch_dims, rtol=1e-9, atol=1e-9, save="steps"
        ),
        rtol=1e-7,
    )


@pytest.mark.cuda
@BOTH
def test_failures_on_a_gpu(batch_dims: int) -> None:
    y0 = torch.tensor([[1.0], [0.1], [50.0]], dtype=torch.float64, device="cuda")
    eager, other = both(exploding, y0 if batch_dims else y0[0], (0.0, 5.0), batch_dims=batch_dims, throw=False)
    assert other.status == eager.status


@pytest.mark.cuda
@BOTH
def test_dense_output_on_a_gpu(batch_dims: int) -> None:
    eager, other = both(pendulum, on_gpu(batch_dims), (0.0, 5.0), batch_dims=batch_dims, dense=True)
    torch.testing.assert_close(other(TIMES), eager(TIMES), rtol=1e-9, atol=1e-9)


@pytest.mark.cuda
@BOTH
def test_training_on_a_gpu(batch_dims: int) -> None:
    """Weights that an optimiser changes are seen, and gradients are those of the eager runner."""
    torch.manual_seed(0)
    f, found = Shrinking().to("cuda"), []
    for runner in ("eager", "cuda_graph"):
        g, losses = copy.deepcopy(f), []
        optimizer = torch.optim.SGD(g.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            loss = (
                torchivp.solve(g, on_gpu(batch_dims), TIMES.to("cuda"), batch_dims=batch_dims, runner=runner)
                .y.square()
                .mean()
            )
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        found.append(torch.stack([*losses, *(p.grad.norm() for p in g.parameters())]))
    torch.testing.assert_close(found[1], found[0], rtol=1e-6, atol=1e-9)


@pytest.mark.cuda
def test_no_step_waits_for_the_host() -> None:
    """CUDA's own count of synchronisations is that of a solve of one step."""
    y0 = on_gpu(0)

    def count(dt: float) -> int:
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as caught, torch.no_grad():
                warnings.simplefilter("always")
                sol = torchivp.solve(pendulum, y0, (0.0, 1.0), method="rk4", dt=dt, save="end", runner="cuda_graph")
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert sol.stats.attempted == round(1 / dt)
        return sum("synchroniz" in str(w.message) for w in caught)

    for dt in (1.0, 0.01):  # captured
        count(dt)
    assert count(0.01) == count(1.0)


@pytest.mark.cuda
def test_f_that_copies_to_the_device_is_refused_and_nothing_is_broken() -> None:
    def f(t: Tensor, y: Tensor) -> Tensor:
        return -y * torch.tensor([1.0, 2.0], dtype=y.dtype, device=y.device)

    with pytest.raises(InputError, match="neither wait for the device nor copy to it"):
        torchivp.solve(f, on_gpu(0), TIMES.to("cuda"), runner="cuda_graph")
    same(*both(pendulum, on_gpu(0), TIMES.to("cuda")))
