"""One of two processes that train together; `test_two_processes.py` starts them.

python process.py RANK FOLDER

Runs every case of ``CASES`` in order, and prints its name when it is done. It stops at the first that fails: the processes
would be out of step from there on.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard, register_fsdp_forward_method
from torch.nn.parallel import DistributedDataParallel

from torchivp import FixedSteps, InputError, SolveError, solve
from torchivp.nn import ODEBlock

F64 = torch.float64
CPU = torch.device("cpu")
FIXED: dict[str, Any] = {"method": "rk4", "dt": 0.25}
ADAPTIVE: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-11}
GRADIENTS = ["discrete", "direct", "adjoint"]


def net(gradient: str = "discrete", **options: Any) -> nn.Sequential:
    """The same numbers every time."""
    torch.manual_seed(0)
    func = nn.Sequential(nn.Linear(3, 8, dtype=F64), nn.Tanh(), nn.Linear(8, 3, dtype=F64))
    block = ODEBlock(func, gradient=gradient, **options)
    return nn.Sequential(nn.Linear(4, 3, dtype=F64), block, nn.Linear(3, 2, dtype=F64))


def whole_batch() -> tuple[Tensor, Tensor]:
    """Eight samples; the second half is larger, and asks for steps of another size."""
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(8, 4, dtype=F64, generator=generator), torch.randn(8, 2, dtype=F64, generator=generator)
    x[4:] *= 4
    return x, y


def my_part() -> tuple[Tensor, Tensor]:
    x, y = whole_batch()
    mine = slice(4 * dist.get_rank(), 4 * dist.get_rank() + 4)
    return x[mine], y[mine]


def train(model: nn.Module, x: Tensor, y: Tensor, steps: int = 3) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        ((model(x) - y) ** 2).mean().backward()
        optimizer.step()


# ---- ways of wrapping the model


def ddp(model: nn.Sequential) -> nn.Module:
    return DistributedDataParallel(model)


def ddp_around_each(model: nn.Sequential) -> nn.Module:
    model[1].func = DistributedDataParallel(model[1].func)
    return nn.Sequential(DistributedDataParallel(model[0]), model[1], DistributedDataParallel(model[2]))


def fsdp(model: nn.Sequential) -> nn.Module:
    for module in (model[1], model):
        fully_shard(module, reshard_after_forward=True)
    return model


def fsdp_kept(model: nn.Sequential) -> nn.Module:
    for module in (model[1], model):
        fully_shard(module, reshard_after_forward=False)
    return model


def fsdp_root_alone(model: nn.Sequential) -> nn.Module:
    return fully_shard(model)


def fsdp1(model: nn.Sequential) -> nn.Module:
    model[1] = FullyShardedDataParallel(model[1], device_id=CPU, use_orig_params=True)
    return FullyShardedDataParallel(model, device_id=CPU, use_orig_params=True)


def fsdp_layers(model: nn.Sequential) -> nn.Module:
    for layer in (model[1].func[0], model[1].func[2], model):
        fully_shard(layer)
    return model


def fsdp1_layers(model: nn.Sequential) -> nn.Module:
    model[1].func = FullyShardedDataParallel(model[1].func, device_id=CPU, use_orig_params=True)
    return model


def parameters(model: nn.Module) -> list[Tensor]:
    """Whole ones, wherever their parts lie."""
    if isinstance(model, FullyShardedDataParallel):
        with FullyShardedDataParallel.summon_full_params(model):
            return [p.detach().clone() for p in model.parameters()]
    return [(p.full_tensor() if hasattr(p, "full_tensor") else p).detach().clone() for p in model.parameters()]


def assert_like_one_process(wrap: Callable, tolerance: float, gradient: str, **options: Any) -> tuple[int, ...]:
    """Train in both processes, and once more alone with the whole batch. The steps that each process took last."""
    expected, model = net(gradient, **options), net(gradient, **options)
    start = parameters(expected)
    train(expected, *whole_batch())
    block = model[1]
    model = wrap(model)
    train(model, *my_part())
    for a, b, c in zip(parameters(expected), parameters(model), start, strict=True):
        torch.testing.assert_close(b, a, rtol=0, atol=tolerance)
        assert not torch.allclose(a, c, rtol=0, atol=1e-3)  # it did learn something
    taken = [torch.zeros((), dtype=torch.int64) for _ in range(2)]
    dist.all_gather(taken, torch.tensor(block.stats.accepted))
    return tuple(int(n) for n in taken)


def assert_refused(call: Callable[[], object], *words: str) -> None:
    with pytest.raises(InputError) as refused:
        call()
    missing = [word for word in words if word not in str(refused.value)]
    assert not missing, f"{missing} not in: {refused.value}"


# ---- the cases


def same_parameters_with_fixed_steps(gradient: str) -> None:
    for wrap in (ddp, ddp_around_each, fsdp, fsdp_kept, fsdp_root_alone, fsdp1):
        assert assert_like_one_process(wrap, 1e-12, gradient, **FIXED) == (4, 4), wrap
    assert_like_one_process(fsdp, 1e-12, gradient, controller=FixedSteps(dt=0.2))


def same_parameters_with_steps_of_their_own(gradient: str) -> None:
    for wrap in (ddp, ddp_around_each, fsdp, fsdp_kept, fsdp1):
        steps = assert_like_one_process(wrap, 1e-7, gradient, **ADAPTIVE)
        assert steps[0] != steps[1], wrap


def layers_that_gather_by_themselves() -> None:
    """With fixed steps both processes meet at every layer, and autograd through the loop is all that works."""
    x, y = my_part()
    assert_like_one_process(fsdp_layers, 1e-12, "direct", **FIXED)
    for wrap, name in ((fsdp_layers, "FSDPLinear"), (fsdp1_layers, "FullyShardedDataParallel")):
        for gradient in GRADIENTS:
            model = wrap(net(gradient))
            assert_refused(lambda: train(model, x, y), name, "fully_shard(block)", "dt=")  # noqa: B023
            with torch.no_grad():
                assert_refused(lambda: model(x), name, "fully_shard(block)", "dt=")  # noqa: B023
        for gradient in ("discrete", "adjoint"):
            model = wrap(net(gradient, **FIXED))
            assert_refused(lambda: train(model, x, y), name, "fully_shard(block)", "gradient='direct'")  # noqa: B023


def other_modules_that_wait() -> None:
    x = torch.randn(4, 3, dtype=F64)
    assert_refused(lambda: solve(fully_shard(nn.Linear(3, 3, dtype=F64)), x, 1.0), "FSDPLinear")
    batch_norm = nn.SyncBatchNorm(3, dtype=F64)
    assert_refused(lambda: ODEBlock(batch_norm)(x), "SyncBatchNorm")
    ODEBlock(batch_norm.eval())(x)
    buffers = DistributedDataParallel(nn.Sequential(nn.Linear(3, 3, dtype=F64), nn.BatchNorm1d(3, dtype=F64)))
    assert_refused(lambda: ODEBlock(buffers)(x), "DistributedDataParallel")


def trajectory_of_a_sharded_block() -> None:
    block = net(**FIXED)[1]
    x = torch.ones(2, 3, dtype=F64)
    expected = block.trajectory(x, (0.5, 1.0)).detach()
    fully_shard(block)
    register_fsdp_forward_method(block, "trajectory")
    assert torch.equal(block.trajectory(x, (0.5, 1.0)), expected)


def output_changed_in_place() -> None:
    """FSDP hangs its hooks on what a module returns; on a view they would get lost."""
    block = fully_shard(net(**FIXED)[1])
    y = block(torch.ones(2, 3, dtype=F64))
    y += 1
    (y**2).sum().backward()
    assert all(p.grad is not None for p in block.parameters())


def a_batch_left_out_by_all() -> None:
    """The recipe of docs/odeblock.md: one process cannot solve its part, and all go on to the next batch."""
    expected, model = net(**FIXED), DistributedDataParallel(net(**FIXED))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    x, y = my_part()
    left_out = 0
    for bad_rank in (None, 1, 0, None):
        batch = x * float("nan") if bad_rank == dist.get_rank() else x
        try:
            loss = ((model(batch) - y) ** 2).mean()
            failed = torch.zeros(())
        except SolveError:
            failed = torch.ones(())
        dist.all_reduce(failed)
        if failed:
            left_out += 1
            continue
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert left_out == 2
    train(expected, *whole_batch(), steps=2)
    for a, b in zip(parameters(expected), parameters(model)):
        torch.testing.assert_close(b, a, rtol=0, atol=1e-12)


CASES: dict[str, Callable[[], None]] = {
    **{f"fixed steps, {g}": lambda g=g: same_parameters_with_fixed_steps(g) for g in GRADIENTS},
    **{f"adaptive steps, {g}": lambda g=g: same_parameters_with_steps_of_their_own(g) for g in GRADIENTS},
    **{
        case.__name__: case
        for case in (
            layers_that_gather_by_themselves,
            other_modules_that_wait,
            trajectory_of_a_sharded_block,
            output_changed_in_place,
            a_batch_left_out_by_all,
        )
    },
}


def main(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    store = f"file://{folder / 'meet'}"  # no port that another test could take
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2, timeout=timedelta(seconds=20))
    for name, case in CASES.items():
        case()
        print(name, flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
