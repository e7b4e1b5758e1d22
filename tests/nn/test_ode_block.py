"""The ODE Block as a module like any other."""

from __future__ import annotations

import copy
import functools
import io
import math
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import torchivp
from torchivp import InputError, InputTypeError, SolveError, Status
from torchivp.nn import ODEBlock
from torchivp.nn.ode_block import check_function

GRADIENTS = ["discrete", "direct", "adjoint"]


class Linear(nn.Module):
    """f(x) = A x, whose block is the matrix exponential."""

    def __init__(self, d: int = 3, dtype: torch.dtype = torch.float64):
        super().__init__()
        self.A = nn.Parameter(torch.randn(d, d, dtype=dtype) / 2)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.A.T


class Timed(nn.Module):
    """f(t, x) = w cos(t) x, whose block is exp(w (sin t1 - sin t0))."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(1.5, dtype=dtype))
        self.seen: list[tuple[torch.Size, torch.dtype]] = []

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        self.seen.append((t.shape, t.dtype))
        return self.w * torch.cos(t) * x


def mlp(d: int = 4, **kind: Any) -> nn.Sequential:
    return nn.Sequential(nn.Linear(d, 16, **kind), nn.Tanh(), nn.Linear(16, d, **kind))


# ---- what it computes


def test_a_linear_block_is_a_matrix_exponential() -> None:
    func = Linear()
    x = torch.randn(5, 3, dtype=torch.float64)
    y = ODEBlock(func, t=(0.0, 2.0), rtol=1e-9, atol=1e-11)(x)
    assert y.shape == x.shape
    torch.testing.assert_close(y, x @ torch.linalg.matrix_exp(2 * func.A).T, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(
    "t", [(0.0, 1.0), (1.0, 0.0), (0.5, 2.0), [0.0, 0.3, 1.0], torch.tensor([0.0, 1.0]), 1.0, (0.7, 0.7)], ids=str
)
def test_time_goes_where_it_is_told(t: Any) -> None:
    func = Timed()
    ends = (0.0, 1.0) if isinstance(t, float) else (float(t[0]), float(t[-1]))
    block = ODEBlock(func, t=t, rtol=1e-9, atol=1e-11)
    y = block(torch.ones(2, 3, dtype=torch.float64))
    assert y[0, 0].item() == pytest.approx(math.exp(1.5 * (math.sin(ends[1]) - math.sin(ends[0]))), rel=1e-7)
    assert set(func.seen) <= {(torch.Size(()), torch.float64)}


def one_of_x(x: Tensor) -> Tensor:
    return -x


def one_of_t_and_x(t: Tensor, x: Tensor) -> Tensor:
    return -x


class WithDefault(nn.Module):
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return -x


class WithStar(nn.Module):
    def forward(self, *inputs: Tensor) -> Tensor:
        assert len(inputs) == 2
        return -inputs[1]


class KeywordOnly:
    def __call__(self, x: Tensor, *, scale: float = 1.0) -> Tensor:
        return -scale * x


@pytest.mark.parametrize(
    "func",
    [
        one_of_x,
        one_of_t_and_x,
        lambda x: -x,
        lambda t, x: -x,
        torch.neg,
        functools.partial(lambda a, x: -x, 3),
        functools.partial(one_of_t_and_x),
        WithDefault(),
        WithStar(),
        KeywordOnly(),
        KeywordOnly().__call__,
        nn.Sequential(nn.Identity(), WithDefault()),
    ],
    ids=lambda f: getattr(f, "__name__", type(f).__name__),
)
def test_f_of_x_or_f_of_t_and_x(func: Any) -> None:
    y = ODEBlock(func)(torch.ones(2, 3))
    torch.testing.assert_close(y, torch.full((2, 3), math.exp(-1)), rtol=1e-4, atol=0)


def through_star(f: Any) -> Any:
    """A decorator that hides the signature but for ``__wrapped__``."""

    @functools.wraps(f)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return f(*args, **kwargs)

    return wrapper


@functools.wraps(one_of_t_and_x)
def without_time(x: Tensor) -> Tensor:
    """Takes something else than what it wraps."""
    return one_of_t_and_x(torch.zeros(()), x)


class WithRest(nn.Module):
    def forward(self, x: Tensor, *rest: Tensor) -> Tensor:
        assert not rest
        return -x


class Decorated(nn.Module):
    @through_star
    def forward(self, x: Tensor) -> Tensor:
        return -x


@torch.no_grad()
def negative(d: int = 3) -> nn.Sequential:
    linear = nn.Linear(d, d, bias=False)
    linear.weight.copy_(-torch.eye(d))
    return nn.Sequential(linear)


class TimedNegative(nn.Module):
    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        return -x + 0 * t


def compiled(f: Any) -> Any:
    return torch.compile(f, backend="eager")


@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore:The .grad attribute:UserWarning"
)  # TorchScript, dynamo
@pytest.mark.parametrize(
    ("make", "takes_time"),
    [
        (lambda: through_star(one_of_x), False),
        (lambda: through_star(one_of_t_and_x), True),
        (lambda: functools.partial(through_star(one_of_x)), False),
        (lambda: without_time, False),
        (WithRest, False),
        (Decorated, False),
        (lambda: Decorated().forward, False),
        (lambda: nn.DataParallel(negative()), False),
        (lambda: nn.DataParallel(TimedNegative()), True),
        (lambda: compiled(negative()), False),
        (lambda: compiled(TimedNegative()), True),
        (lambda: compiled(nn.DataParallel(negative())), False),
        (lambda: compiled(one_of_t_and_x), True),
        (lambda: compiled(one_of_x), False),
        (lambda: torch.jit.script(negative()), False),
        (lambda: torch.jit.trace(negative(), torch.ones(2, 3)), False),
        (lambda: torch.jit.script(TimedNegative()), True),
        (lambda: torch.jit.script(one_of_t_and_x), True),
        (lambda: torch.jit.script(one_of_x), False),
    ],
)
def test_signatures_behind_a_wrapper(make: Any, takes_time: bool) -> None:
    block = ODEBlock(make())
    assert block._takes_time == takes_time
    torch.testing.assert_close(block(torch.ones(2, 3)), torch.full((2, 3), math.exp(-1)), rtol=1e-4, atol=0)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("make", "takes_time", "call"),
    [
        (lambda: lambda *a: one_of_x(*a), None, r"func\(t, x\)"),
        (lambda: one_of_x, True, r"func\(t, x\)"),
        (lambda: one_of_t_and_x, False, r"func\(x\)"),
        (lambda: torch.mul, None, r"func\(x\)"),
        (nn.Identity, True, r"func\(t, x\)"),
        (lambda: torch.jit.script(one_of_x), True, r"func\(t, x\)"),
        (lambda: torch.jit.script(one_of_t_and_x), False, r"func\(x\)"),
    ],
)
def test_a_wrong_guess_names_the_flag(make: Any, takes_time: bool | None, call: str) -> None:
    with pytest.raises(InputTypeError, match=call + r", and it failed: .*takes_time=True.*takes_time=False"):
        ODEBlock(make(), takes_time=takes_time)(torch.ones(2, 3))


def test_the_flag_decides() -> None:
    for func, takes_time in ((lambda *a: one_of_x(*a), False), (lambda t, x=None: -x, True)):
        y = ODEBlock(func, takes_time=takes_time)(torch.ones(2))
        torch.testing.assert_close(y, torch.full((2,), math.exp(-1)), rtol=1e-4, atol=0)


def test_other_errors_of_the_function_stay_what_they_are() -> None:
    def broken(x: Tensor) -> Tensor:
        raise TypeError("unsupported")

    with pytest.raises(TypeError, match=r"^unsupported$"):
        ODEBlock(broken)(torch.ones(2))


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_convolutional_on_images(gradient: str) -> None:
    func = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.Softplus(), nn.Conv2d(8, 3, 3, padding=1)
    )
    block = ODEBlock(func, rtol=1e-3, atol=1e-3, gradient=gradient)
    x = torch.randn(2, 3, 8, 8).to(memory_format=torch.channels_last).requires_grad_()
    y = block(x)
    assert y.shape == x.shape
    y.square().mean().backward()
    assert x.grad.shape == x.shape
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in func.parameters())


@pytest.mark.parametrize(("shape", "func"), [
    ((2, 3, 4, 4), lambda: nn.Conv2d(4, 3, 3, padding=1)),
    ((2, 3, 7), lambda: nn.Conv1d(4, 3, 3, padding=1)),
    ((5, 3), lambda: nn.Linear(4, 3)),
    ((3,), lambda: nn.Linear(4, 3)),
])  # fmt: skip
def test_time_as_a_channel(shape: tuple[int, ...], func: Any) -> None:
    """The channel holds the time, everywhere."""
    layer = func()
    seen = []

    class Spy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: Tensor) -> Tensor:
            seen.append(x.detach())
            return self.layer(x)

    block = ODEBlock(Spy(), t=(0.25, 1.0), time_channel=True, rtol=1e-3, atol=1e-3)
    x = torch.randn(shape)
    assert block(x).shape == shape
    dim = 1 if len(shape) > 1 else 0
    times = torch.stack([s.select(dim, s.shape[dim] - 1).flatten() for s in seen])
    assert all(s.shape[dim] == shape[dim] + 1 for s in seen)
    assert (times == times[:, :1]).all()
    assert times[0, 0] == 0.25
    assert times.max() <= 1.0
    assert torch.equal(seen[0].narrow(dim, 0, shape[dim]), x)


def test_a_time_channel_makes_a_difference() -> None:
    """x' = t: the channel alone."""
    func = nn.Linear(2, 1, bias=False, dtype=torch.float64)
    func.weight.data = torch.tensor([[0.0, 1.0]], dtype=torch.float64)
    y = ODEBlock(func, t=(0.0, 2.0), time_channel=True)(torch.zeros(4, 1, dtype=torch.float64))
    torch.testing.assert_close(y, torch.full((4, 1), 2.0, dtype=torch.float64))


@pytest.mark.parametrize(("x", "got"), [
    ((torch.ones(2, 3),), "a tuple"),
    ({"x": torch.ones(2, 3)}, "a dict"),
    (torch.tensor(1.0), "a 0-d tensor"),
])  # fmt: skip
def test_a_time_channel_needs_one_tensor(x: Any, got: str) -> None:
    block = ODEBlock(nn.Linear(4, 3), time_channel=True)
    for solve in (block, lambda x: block.trajectory(x, [0.5])):
        with pytest.raises(InputError, match=rf"time_channel=True adds a channel to one tensor, but x is {got}"):
            solve(x)


def test_a_time_channel_for_a_function_of_time() -> None:
    for func, takes_time in ((one_of_t_and_x, None), (Timed(), None), (one_of_x, True)):
        with pytest.raises(InputError, match=r"func\(x_with_time\), but func is an f\(t, x\)"):
            ODEBlock(func, time_channel=True, takes_time=takes_time)
    ODEBlock(one_of_t_and_x, time_channel=True, takes_time=False)  # its second argument is not the state, it says
    ODEBlock(WithStar(), time_channel=True)


def test_pytrees_as_states() -> None:
    """An augmented state, or a log-density beside it."""

    class Flow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.tensor(-0.5))

        def forward(self, t: Tensor, state: dict[str, Tensor]) -> dict[str, Tensor]:
            return {"x": self.w * state["x"], "logp": -self.w * torch.ones_like(state["logp"])}

    out = ODEBlock(Flow())({"x": torch.ones(3, 1), "logp": torch.zeros(3)})
    assert out["x"].shape == (3, 1)
    torch.testing.assert_close(out["logp"], torch.full((3,), 0.5))


@pytest.mark.parametrize("method", sorted(torchivp.methods.METHODS))
def test_every_method(method: str) -> None:
    adaptive = torchivp.methods.METHODS[method]().adaptive
    block = ODEBlock(Timed(), method=method, rtol=1e-4, atol=1e-4, **({} if adaptive else {"dt": 0.05}))
    y = block(torch.ones(2, dtype=torch.float64))
    y.sum().backward()
    exact = math.exp(1.5 * math.sin(1))
    assert y[0].item() == pytest.approx(exact, rel=0.05 if "euler" in method else 5e-3)
    assert block.func.w.grad.item() == pytest.approx(2 * math.sin(1) * exact, rel=0.1 if "euler" in method else 2e-2)


# ---- the layers in between


def test_a_trajectory() -> None:
    block = ODEBlock(Timed(), t=(0.5, 2.0), rtol=1e-9, atol=1e-11)
    x = torch.ones(4, 3, dtype=torch.float64)
    times = torch.linspace(0.5, 2, 5, dtype=torch.float64)
    exact = torch.exp(1.5 * (torch.sin(times) - math.sin(0.5)))
    for t in (times, times.tolist(), tuple(times.tolist()), times.numpy(), times.float()):
        y = block.trajectory(x, t)
        assert y.shape == (5, 4, 3)
        torch.testing.assert_close(y[:, 0, 0], exact, rtol=1e-6, atol=0)
    torch.testing.assert_close(block.trajectory(x, times[2:])[:, 0, 0], exact[2:], rtol=1e-6, atol=0)
    assert torch.equal(block.trajectory(x, [0.5]), x.unsqueeze(0))
    torch.testing.assert_close(block.trajectory(x, [2.0])[0], block(x), rtol=1e-8, atol=0)


@pytest.mark.parametrize("ends", [(0.7, 1.0), (0.1, 0.7), (1.0, 0.7), (0.7, 0.1)])
def test_a_trajectory_over_the_block_s_own_interval_in_any_precision(ends: tuple[float, float]) -> None:
    x = torch.ones(1)
    func = Timed(torch.float32)
    block = ODEBlock(func, t=ends)
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        t = torch.linspace(*ends, 4, dtype=dtype)
        for times in (t, [t[0], t[-1]], *([t.numpy()] if dtype != torch.bfloat16 else [])):
            y = block.trajectory(x, times)
            assert len(y) == len(times)
            assert torch.equal(y[0], x)
    rounded = ODEBlock(func, t=torch.tensor(ends))  # in float32
    assert torch.equal(rounded.trajectory(x, [ends[0], 0.5 * sum(ends)])[0], x)


def test_a_trajectory_at_one_time() -> None:
    block = ODEBlock(Timed(), t=(0.5, 2.0), rtol=1e-9, atol=1e-11)
    x = torch.ones(4, 3, dtype=torch.float64)
    for t in (1.5, torch.tensor(1.5), np.float32(1.5), np.array(1.5)):
        assert torch.equal(block.trajectory(x, t), block.trajectory(x, [1.5]))
    assert torch.equal(block.trajectory(x, 0.5), x.unsqueeze(0))


@pytest.mark.parametrize(
    ("ends", "t", "text"),
    [
        ((0.5, 2.0), [0.25, 1.0], r"t\[0\]=0.25 is before the block's start t=0.5"),
        ((0.5, 2.0), [0.25], r"t\[0\]=0.25 is before the block's start t=0.5"),
        ((0.5, 2.0), 0.25, r"t\[0\]=0.25 is before the block's start t=0.5"),
        ((2.0, 0.5), [2.5, 1.0], r"t\[0\]=2.5 is before the block's start t=2"),
        ((0.5, 2.0), [1.0, 2.0, 1.5], r"t\[1\]=2 is followed by t\[2\]=1.5"),
        ((0.5, 2.0), [2.0, 1.0], r"t runs from 2 to 1, but the block runs from t=0.5 to t=2"),
    ],
)
def test_times_that_make_no_trajectory(ends: tuple[float, float], t: Any, text: str) -> None:
    with pytest.raises(InputError, match=text):
        ODEBlock(Timed(), t=ends).trajectory(torch.ones(1, dtype=torch.float64), t)


def test_a_trajectory_backwards_and_beyond() -> None:
    block = ODEBlock(Timed(), t=(1.0, 0.0), rtol=1e-9, atol=1e-11)
    y = block.trajectory(torch.ones(1, dtype=torch.float64), [0.5, 0.0, -1.0])
    exact = [math.exp(1.5 * (math.sin(t) - math.sin(1))) for t in (0.5, 0.0, -1.0)]
    assert y[:, 0].tolist() == pytest.approx(exact, rel=1e-7)


def test_a_trajectory_of_a_tree_and_its_gradient() -> None:
    class Flow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.tensor(0.5, dtype=torch.float64))

        def forward(self, t: Tensor, xs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            return self.w * xs[0], -self.w * xs[1]

    block = ODEBlock(Flow(), rtol=1e-9, atol=1e-11)
    one = torch.ones(2, dtype=torch.float64)
    y = block.trajectory((one, one), [0.5, 1.0])
    assert [p.shape for p in y] == [(2, 2), (2, 2)]
    (grad,) = torch.autograd.grad(y[0].sum(), block.func.w)
    assert grad.item() == pytest.approx(2 * (0.5 * math.exp(0.25) + math.exp(0.5)), rel=1e-7)


# ---- a module like any other


def test_what_a_module_has() -> None:
    func = mlp()
    block = ODEBlock(func)
    assert isinstance(block, nn.Module)
    assert dict(block.named_parameters()).keys() == {f"func.{n}" for n, _ in func.named_parameters()}
    assert block.state_dict().keys() == {f"func.{n}" for n in func.state_dict()}
    text = repr(block)
    for part in ("ODEBlock(", "t=(0.0, 1.0)", "method='tsit5'", "gradient='discrete'", "(func): Sequential("):
        assert part in text
    assert list(ODEBlock(lambda x: -x).parameters()) == []


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_it_moves_to_another_dtype(dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(6, 4), ODEBlock(mlp(), rtol=1e-2, atol=1e-2), nn.Linear(4, 2))
    x = torch.randn(5, 6)
    before = net(x)
    after = net.to(dtype)(x.to(dtype))
    assert after.dtype == dtype
    torch.testing.assert_close(after.float(), before, rtol=0.05, atol=0.05)
    after.sum().backward()
    assert {p.grad.dtype for p in net.parameters()} == {dtype}


def test_it_moves_to_another_device() -> None:
    """meta stands for any other one."""
    block = ODEBlock(mlp(), atol=torch.tensor(1e-5)).to("meta")
    assert {p.device.type for p in block.parameters()} == {"meta"}
    assert {p.device.type for p in ODEBlock(mlp()).to("meta").to_empty(device="cpu").parameters()} == {"cpu"}


@pytest.mark.parametrize("how", ["state_dict", "torch.save", "deepcopy", "pickle", "whole"])
def test_saved_and_loaded_it_computes_the_same(how: str) -> None:
    block = ODEBlock(mlp(), t=(0.0, 0.5), method="dopri5", rtol=1e-4, atol=1e-6, max_steps=500)
    x = torch.randn(3, 4)
    y = block(x)
    y.sum().backward()
    if how == "state_dict":
        other = ODEBlock(mlp(), t=(0.0, 0.5), method="dopri5", rtol=1e-4, atol=1e-6, max_steps=500)
        assert not torch.equal(other(x), y)
        other.load_state_dict(block.state_dict())
    elif how == "torch.save":
        file = io.BytesIO()
        torch.save(block.state_dict(), file)
        file.seek(0)
        other = copy.deepcopy(block)
        for p in other.parameters():
            p.data.zero_()
        other.load_state_dict(torch.load(file, weights_only=True))
    elif how == "whole":
        file = io.BytesIO()
        torch.save(block, file)
        file.seek(0)
        other = torch.load(file, weights_only=False)
    else:
        other = copy.deepcopy(block) if how == "deepcopy" else pickle.loads(pickle.dumps(block))
    other.reset_nfe()
    assert torch.equal(other(x), y)
    assert not set(map(id, other.parameters())) & set(map(id, block.parameters()))
    assert other.nfe == block.nfe
    assert repr(other) == repr(block)


def test_a_copy_trains_alone() -> None:
    block = ODEBlock(mlp())
    other = copy.deepcopy(block)
    other(torch.ones(2, 4)).sum().backward()
    assert all(p.grad is None for p in block.parameters())
    assert all(p.grad is not None for p in other.parameters())
    assert block.nfe == 0 < other.nfe


def test_train_and_eval_reach_the_function() -> None:
    func = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Tanh())
    block = ODEBlock(func, rtol=1e-3, atol=1e-3)
    x = torch.randn(16, 4)
    block(x)
    moved = func[1].running_mean.clone()
    assert moved.abs().sum() > 0
    block.eval()
    assert not func.training
    a, b = block(x), block(x[:3])
    assert torch.equal(func[1].running_mean, moved)
    torch.testing.assert_close(a[:3], b, rtol=1e-3, atol=1e-3)


def test_hooks_and_parametrizations_work() -> None:
    func = nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4))
    block = ODEBlock(func, rtol=1e-3, atol=1e-3).eval()
    seen = []
    block.register_forward_hook(lambda m, i, o: seen.append(o.shape))
    block(torch.randn(2, 4)).sum().backward()
    assert seen == [(2, 4)]
    assert func.parametrizations.weight.original.grad is not None


def test_in_no_grad_nothing_is_kept() -> None:
    block = ODEBlock(mlp())
    with torch.no_grad():
        y = block(torch.randn(2, 4))
    assert not y.requires_grad
    with torch.inference_mode():
        assert block(torch.randn(2, 4)).shape == (2, 4)


def test_frozen_parameters_get_no_gradient() -> None:
    func = mlp()
    func[0].requires_grad_(False)
    ODEBlock(func)(torch.randn(2, 4)).sum().backward()
    assert func[0].weight.grad is None
    assert func[2].weight.grad is not None


# ---- gradients


@pytest.mark.parametrize("method", ["tsit5", "dopri8", "rk4"])
def test_all_gradients_agree(method: str) -> None:
    """discrete and direct to rounding, the continuous adjoint to the tolerance; x, parameters and buffers alike."""
    torch.manual_seed(3)
    net = nn.Sequential(nn.Linear(5, 4), ODEBlock(mlp()), nn.Linear(4, 1)).double()
    x = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    grads = {}
    for gradient in GRADIENTS:
        options = {"dt": 0.05} if method == "rk4" else {}
        net[1] = ODEBlock(net[1].func, method=method, gradient=gradient, rtol=1e-9, atol=1e-11, **options)
        loss = net(x).square().sum()
        grads[gradient] = torch.autograd.grad(loss, (x, *net.parameters()))
    for a, b, c in zip(*(grads[g] for g in GRADIENTS)):
        scale = b.abs().max()
        assert (a - b).abs().max() < 1e-12 * scale
        assert (c - b).abs().max() < 1e-5 * scale


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_the_gradient_is_the_exact_one(gradient: str) -> None:
    """d/dw exp(w sin 1) = sin 1 exp(w sin 1)."""
    func = Timed()
    ODEBlock(func, gradient=gradient, rtol=1e-9, atol=1e-11)(torch.ones(3, dtype=torch.float64)).sum().backward()
    assert func.w.grad.item() == pytest.approx(3 * math.sin(1) * math.exp(1.5 * math.sin(1)), rel=1e-6)


def test_gradients_accumulate_and_blocks_share() -> None:
    """Two blocks with one function; two backward passes."""
    func = Timed()
    a, b = ODEBlock(func, rtol=1e-9, atol=1e-11), ODEBlock(func, t=(1.0, 2.0), rtol=1e-9, atol=1e-11)
    x = torch.ones(1, dtype=torch.float64)
    for _ in range(2):
        b(a(x)).sum().backward()
    assert func.w.grad.item() == pytest.approx(2 * math.sin(2) * math.exp(1.5 * math.sin(2)), rel=1e-6)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("how", ["script", "trace"])
def test_gradients_of_torchscript_modules(how: str) -> None:
    net = mlp().double()
    x = torch.randn(3, 4, dtype=torch.float64)
    scripted = torch.jit.script(net) if how == "script" else torch.jit.trace(net, x)
    grads = []
    for func in (net, scripted):
        block = ODEBlock(func)
        grads.append(torch.autograd.grad(block(x).square().sum(), list(block.parameters())))
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


# ---- counters


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_evaluations_are_counted(gradient: str) -> None:
    func = Timed()
    block = ODEBlock(func, gradient=gradient)
    x = torch.ones(2, dtype=torch.float64)
    assert (block.nfe, block.nfe_backward, block.stats) == (0, 0, None)
    y = block(x)
    forward = len(func.seen)
    assert (block.nfe, block.nfe_backward) == (forward, 0)
    y.sum().backward()
    assert block.nfe == forward
    assert block.nfe_backward == len(func.seen) - forward
    assert (block.nfe_backward == 0) == (gradient == "direct")
    block(x)
    assert block.nfe == 2 * forward
    assert block.stats.nfe == forward
    block.reset_nfe()
    assert (block.nfe, block.nfe_backward) == (0, 0)
    block.trajectory(x, [0.5, 1.0])
    assert block.nfe > 0


def test_counters_over_many_solves() -> None:
    func = Timed()
    block = ODEBlock(func, method="bosh3", rtol=1e-1, atol=1e-1)
    for _ in range(40):
        block(torch.ones(1, dtype=torch.float64)).sum().backward()
    assert block.nfe + block.nfe_backward == len(func.seen)


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_counters_of_many_forward_passes_before_one_backward(gradient: str) -> None:
    func = Timed()
    block = ODEBlock(func, method="rk4", dt=0.5, gradient=gradient)
    total = sum(block(torch.ones(1, dtype=torch.float64)) for _ in range(50))
    forward = len(func.seen)
    total.sum().backward()
    assert (block.nfe, block.nfe_backward) == (forward, len(func.seen) - forward)


@pytest.mark.parametrize("how", ["reset_nfe", "setters"])
def test_counters_set_between_forward_and_backward(how: str) -> None:
    func = Timed()
    block = ODEBlock(func)
    y = block(torch.ones(1, dtype=torch.float64))
    forward = len(func.seen)
    if how == "setters":
        block.nfe = 0  # as one writes for torchdiffeq's examples
        block.nfe_backward = 7
    else:
        block.reset_nfe()
    y.sum().backward()
    start = 7 if how == "setters" else 0
    assert (block.nfe, block.nfe_backward - start) == (0, len(func.seen) - forward)
    assert block.nfe_backward > start


def test_a_failed_forward_is_counted() -> None:
    func = Timed()
    block = ODEBlock(func, max_steps=1, rtol=1e-9, atol=1e-9)
    with pytest.raises(SolveError):
        block(torch.ones(1, dtype=torch.float64))
    assert block.nfe == len(func.seen) > 0
    assert (block.stats.nfe, block.stats.attempted) == (block.nfe, 1)


def test_counters_of_copies_are_their_own() -> None:
    block = ODEBlock(mlp())
    y = block(torch.ones(2, 4))
    for other in (copy.deepcopy(block), pickle.loads(pickle.dumps(block))):
        assert (other.nfe, other.nfe_backward) == (block.nfe, 0)
        other(torch.ones(2, 4)).sum().backward()
        assert other.nfe == 2 * block.nfe
        assert block.nfe_backward == 0 < other.nfe_backward
    y.sum().backward()
    assert block.nfe_backward > 0


# ---- training


def test_it_trains() -> None:
    """Two rings, which no linear map separates, in a net with BatchNorm around the block."""
    torch.manual_seed(0)
    n = 64
    angle = torch.rand(2 * n) * 2 * math.pi
    radius = torch.cat([torch.full((n,), 0.5), torch.full((n,), 1.5)])
    x = torch.stack([radius * torch.cos(angle), radius * torch.sin(angle)], dim=1)
    label = torch.cat([torch.zeros(n), torch.ones(n)]).long()
    net = nn.Sequential(
        nn.Linear(2, 4),
        nn.BatchNorm1d(4),
        ODEBlock(mlp(), method="bosh3", rtol=1e-2, atol=1e-2),
        nn.BatchNorm1d(4),
        nn.Linear(4, 2),
    )
    optimizer = torch.optim.Adam(net.parameters(), lr=0.03)
    start = [p.detach().clone() for p in net[2].parameters()]
    losses = []
    for _ in range(50):
        loss = nn.functional.cross_entropy(net(x), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.25 * losses[0]
    net.eval()
    assert (net(x).argmax(1) == label).float().mean() > 0.95
    assert all((p - q).abs().max() > 1e-2 for p, q in zip(net[2].parameters(), start))


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_training_fits_a_known_rate(gradient: str) -> None:
    block = ODEBlock(Timed(), gradient=gradient, rtol=1e-5, atol=1e-5)
    optimizer = torch.optim.LBFGS(block.parameters(), lr=0.5, max_iter=12)
    target = torch.full((3,), math.exp(0.7 * math.sin(1)), dtype=torch.float64)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (block(torch.ones(3, dtype=torch.float64)) - target).square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert block.func.w.item() == pytest.approx(0.7, abs=1e-3)


# ---- when a solve fails


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_a_failed_solve_leaves_weights_and_gradients_alone(gradient: str) -> None:
    """It raises in forward; what an optimizer step would use is as it was; the next batch works."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 4), ODEBlock(mlp(), gradient=gradient, rtol=1e-3, atol=1e-3), nn.Linear(4, 1))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    net(torch.randn(5, 4)).sum().backward()
    weights = [p.detach().clone() for p in net.parameters()]
    grads = [p.grad.clone() for p in net.parameters()]
    bad = torch.randn(5, 4)
    bad[2, 1] = math.nan
    with pytest.raises(SolveError) as caught:
        net(bad).sum().backward()
    assert caught.value.solution.status is Status.NONFINITE_STATE
    assert "y0[2, 0], y0[2, 1], y0[2, 2], y0[2, 3] (4 of 20 entries)" in str(caught.value)
    assert all(torch.equal(p, w) for p, w in zip(net.parameters(), weights))
    assert all(torch.equal(p.grad, g) for p, g in zip(net.parameters(), grads))
    loss = net(torch.randn(5, 4)).sum()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    assert all(torch.isfinite(p).all() for p in net.parameters())


def test_the_adjoint_may_fail_in_the_backward_pass() -> None:
    """As docs/odeblock.md says: its own solve runs there."""
    x = torch.ones(2, requires_grad=True)
    block = ODEBlock(lambda x: -x * 30.0, t=(0.0, 4.0), gradient="adjoint")
    y = block(x)
    with pytest.raises(SolveError):
        y.sum().backward()
    assert x.grad is None


@pytest.mark.parametrize(
    ("options", "status"), [({"max_steps": 3}, Status.MAX_STEPS), ({"t": (0.0, 100.0)}, Status.STEP_TOO_SMALL)]
)
def test_other_failures(options: dict[str, Any], status: Status) -> None:
    block = ODEBlock(lambda x: x * x * 3, **options)
    with pytest.raises(SolveError) as caught:
        block(torch.ones(2, dtype=torch.float64))
    assert caught.value.solution.status is status


# ---- input that makes no sense


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ({"tol": 1e-3}, InputTypeError, r"ODEBlock got tol=, which it does not take.*it takes .*max_steps"),
        ({"throw": False}, InputTypeError, r"throw="),
        ({"save": "t"}, InputTypeError, r"save="),
        ({"start": None}, InputTypeError, r"start="),
        ({"t": (0.0, 1.0, 0.5)}, InputError, r"t\[1\]=1 is followed by t\[2\]=0.5"),
        ({"t": torch.tensor([0.0, 1.0], requires_grad=True)}, InputError, r"require grad.*Give numbers"),
        ({"method": "tsit"}, InputError, r"Did you mean 'tsit5'"),
        ({"gradient": "discreet"}, InputError, r"Did you mean 'discrete'"),
    ],
)
def test_nonsense_is_refused_when_the_block_is_made(options: dict[str, Any], kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        ODEBlock(mlp(), **options)


def test_what_cannot_be_called_is_no_function() -> None:
    with pytest.raises(InputTypeError, match="func is a float, which cannot be called"):
        check_function(3.0, time_channel=False, takes_time=None)


def test_nonsense_that_only_the_solve_knows() -> None:
    with pytest.raises(InputTypeError, match=r"y0 has dtype torch.int64"):
        ODEBlock(mlp())(torch.ones(1, 4).long())
    with pytest.raises(SolveError, match=r"slope of shape \(1, 3\), but the state has shape \(1, 4\)"):
        ODEBlock(nn.Linear(4, 3))(torch.ones(1, 4))


@pytest.mark.parametrize("couple", [False, True])
def test_rows_with_steps_of_their_own(couple: bool) -> None:
    """The output is that of each row alone, in the shape of the input."""
    torch.manual_seed(0)
    func = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 3))
    x = torch.randn(5, 3)
    block = ODEBlock(func, batch_dims=1, couple=couple)
    alone = ODEBlock(func)
    assert block(x).shape == x.shape
    assert torch.allclose(block(x), torch.stack([alone(row) for row in x]), rtol=1e-4, atol=1e-5)
    times = torch.tensor([0.3, 1.0])
    assert block.trajectory(x, times).shape == (2, 5, 3)
    assert torch.allclose(block.trajectory(x, times)[1], block(x), rtol=1e-4, atol=1e-5)
