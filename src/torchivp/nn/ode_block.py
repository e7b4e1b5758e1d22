"""The ODE Block: an initial value problem as a layer."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .._types import PyTree
from ..errors import InputError, InputTypeError
from ..methods import Method
from ..problem import as_times, check_monotone
from ..solution import Solution, Stats
from ..solve import solve
from ..state import tree_map


class ODEBlock(nn.Module):
    """``y(t1)`` of dy/dt = func(t, y), y(t0) = x: a layer whose output has the shape of its input.

    Args:
        func: ``f(t, x)`` or ``f(x)``: a module (its parameters are trained) or any callable.
        t: the interval (t0, t1), or more times: the block ends at the last one; a number T for (0, T).
        method: as in ``torchivp.solve``.
        rtol, atol: tolerances; 1e-3 is often enough to train.
        gradient: as in ``torchivp.solve``.
        time_channel: give the time as an additional channel of ``x`` (dimension 1; the last one of a vector or ``[B, D]``),
            and call ``func(x_with_time)``: the first layer of ``func`` then takes one channel more.
        options: any other keyword of ``solve`` that concerns the steps (``dt=``, ``controller=``, ``max_steps=``, ...).

    Attributes:
        nfe: evaluations of ``func`` in forward passes since ``reset_nfe``.
        nfe_backward: the same in backward passes.

    Raises:
        InputError, InputTypeError: for times or options that make no sense.
        SolveError: in ``forward``, if the solve fails: a training run stops where it went wrong, with its weights and
            gradients as they were before the step.

    Example:
        >>> block = torchivp.nn.ODEBlock(nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 8)))
        >>> net = nn.Sequential(nn.Linear(64, 8), block, nn.Linear(8, 10))
        >>> net(torch.randn(5, 64)).shape
        torch.Size([5, 10])

    Source: R. T. Q. Chen et al., Neural Ordinary Differential Equations (2018), doi:10.48550/arXiv.1806.07366.
    """

    def __init__(
        self,
        func: Callable[..., Any],
        t: Any = (0.0, 1.0),
        *,
        method: str | Method | type[Method] = "tsit5",
        rtol: PyTree = 1e-5,
        atol: PyTree = 1e-7,
        gradient: str = "discrete",
        time_channel: bool = False,
        **options: Any,
    ):
        super().__init__()
        self.func = func
        self.t = tuple(checked_times(t))
        self.method = method
        self.rtol = rtol
        self.atol = atol
        self.gradient = gradient
        self.time_channel = time_channel
        self.options = checked_options(options)
        self._takes_time = not time_channel and takes_two(func)
        self.reset_nfe()

    def forward(self, x: PyTree) -> PyTree:
        """The state at the end, shaped like ``x``."""
        return tree_map(lambda y: no_view(y[-1]), self._solve(x, self.t, save="end").y)

    def trajectory(self, x: PyTree, t: Any) -> PyTree:
        """The states at the times ``t``, the "layers" in between.

        Args:
            x: the input, the state at the block's own start.
            t: a sequence of times, from the block's start onwards (which is added in front if it is missing, and then not
                returned).

        Returns:
            ``[T, *x.shape]``.
        """
        times = as_times(t, torch.device("cpu"))
        if float(times[0].detach()) == self.t[0]:
            return tree_map(no_view, self._solve(x, times).y)
        full = self._solve(x, torch.cat([times.new_tensor(self.t[:1]), times])).y
        return tree_map(lambda y: no_view(y[1:]), full)

    @property
    def nfe(self) -> int:
        return self._tally("nfe")

    @property
    def nfe_backward(self) -> int:
        return self._tally("replayed")

    @property
    def stats(self) -> Stats | None:
        """Counters of the last solve (its backward pass included, once it ran)."""
        return Stats(**self._counters[-1]) if self._counters else None

    def reset_nfe(self) -> None:
        """Count evaluations afresh from here."""
        self._counters: list[dict[str, int]] = []
        self._past = {"nfe": 0, "replayed": 0}

    def extra_repr(self) -> str:
        return f"t={self.t}, method={self.method!r}, rtol={self.rtol}, atol={self.atol}, gradient={self.gradient!r}"

    def _solve(self, x: PyTree, t: Any, save: str = "t") -> Solution:
        solution = solve(
            self._field, x, t,
            method=self.method, rtol=self.rtol, atol=self.atol, gradient=self.gradient, save=save, **self.options,
        )  # fmt: skip
        self._counters.append(solution.counters)
        if len(self._counters) > _OPEN:  # long past: its backward pass has run, or never will
            done = self._counters.pop(0)
            self._past = {name: self._past[name] + done[name] for name in self._past}
        return solution

    def _tally(self, name: str) -> int:
        return self._past[name] + sum(c[name] for c in self._counters)

    def _field(self, t: Tensor, x: PyTree) -> PyTree:
        if self.time_channel:
            return self.func(with_time_channel(t, x))
        return self.func(t, x) if self._takes_time else self.func(x)


_OPEN = 32  # solves whose counters may still change


_FIXED = ("f", "y0", "t", "args", "method", "rtol", "atol", "gradient", "save", "dense", "throw", "start")
_OPTIONS = inspect.signature(solve).parameters.keys() - set(_FIXED)


def checked_times(t: Any) -> list[float]:
    """The block's times as numbers; they are settings, not parameters."""
    times = as_times(t, torch.device("cpu"))
    if times.requires_grad:
        raise InputError(
            "The times of an ODEBlock require grad, but they are settings of the block and get no gradient. Give numbers, or "
            "call torchivp.solve with a tensor of times."
        )
    floats: list[float] = times.tolist()
    check_monotone(floats, 1) if floats[-1] >= floats[0] else check_monotone([-x for x in floats], -1)
    return floats


def checked_options(options: dict[str, Any]) -> dict[str, Any]:
    """Keywords of ``solve`` that a layer can take."""
    unknown = sorted(options.keys() - _OPTIONS)
    if unknown:
        raise InputTypeError(
            f"ODEBlock got {', '.join(f'{name}=' for name in unknown)}, which it does not take: it returns the end state of a "
            f"solve that worked, and nothing else. Besides its own, it takes {', '.join(sorted(_OPTIONS))}."
        )
    return options


def with_time_channel(t: Tensor, x: Tensor) -> Tensor:
    """``x`` with the time as one more channel: ``[B, C, ...] -> [B, C + 1, ...]`` (``[D] -> [D + 1]``)."""
    dim = 1 if x.dim() > 1 else 0
    shape = list(x.shape)
    shape[dim] = 1
    return torch.cat([x, t.to(x.dtype).expand(shape)], dim=dim)


def no_view(y: Tensor) -> Tensor:
    """A tensor of its own: FSDP hangs its hooks on what a module returns, and a view changed in place loses them."""
    return y.clone()


def takes_two(func: Callable[..., Any]) -> bool:
    """Whether ``func`` is an ``f(t, x)`` rather than an ``f(x)``."""
    called = func.forward if isinstance(func, nn.Module) else func
    try:
        signature = inspect.signature(called)
    except ValueError:  # a built-in such as torch.tanh
        return False
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = list(signature.parameters.values())
    if any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters):
        return True
    return sum(p.kind in kinds and p.default is inspect.Parameter.empty for p in parameters) >= 2
