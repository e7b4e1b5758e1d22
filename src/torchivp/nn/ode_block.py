"""The ODE Block: an initial value problem as a layer."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from torch.utils._pytree import tree_leaves

from .._types import PyTree
from ..errors import InputError, InputTypeError, SolveError
from ..gradients import GRADIENTS, Discrete, Gradient
from ..methods import Method
from ..methods.table import choose_method
from ..names import choose
from ..problem import as_times, check_monotone
from ..runners import INLINE
from ..solution import Solution, Stats
from ..solve import solve
from ..state import as_state, from_numpy, tree_map
from .signature import explain, required, takes_two


class ODEBlock(nn.Module):
    """``y(t1)`` of dy/dt = func(t, y), y(t0) = x: a layer whose output has the shape of its input.

    Args:
        func: ``f(t, x)`` or ``f(x)``, told apart by the arguments it requires: a module (its parameters are trained) or
            any callable.
        t: the interval (t0, t1), or more times: the block ends at the last one; a number T for (0, T).
        method: as in ``torchivp.solve``.
        rtol, atol: tolerances; 1e-3 is often enough to train.
        gradient: as in ``torchivp.solve``.
        time_channel: give the time as an additional channel of ``x`` (dimension 1; the last one of a vector or ``[B, D]``),
            and call ``func(x_with_time)``: the first layer of ``func`` then takes one channel more.
        takes_time: whether ``func`` is ``f(t, x)`` (True) or ``f(x)`` (False), where it cannot be told from its signature.
        options: any other keyword of ``solve`` that concerns the steps (``dt=``, ``controller=``, ``max_steps=``, ...). With
            ``runner="compiled"`` a model that contains the block can be compiled as one graph, or exported; a solve that fails in
            there returns nan.

    Attributes:
        nfe: evaluations of ``func`` in forward passes (failed ones too) since ``reset_nfe``; may be set, ``block.nfe = 0``.
        nfe_backward: the same in backward passes.

    Raises:
        InputError, InputTypeError: for times, names or options that make no sense.
        SolveError: if the solve fails: in ``forward``, before any gradient; with ``gradient="adjoint"`` the backward pass
            solves too, and may fail in ``backward()``.

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
        gradient: str | Gradient | type[Gradient] = "discrete",
        time_channel: bool = False,
        takes_time: bool | None = None,
        **options: Any,
    ):
        super().__init__()
        check_function(func, time_channel, takes_time)
        choose_method(method)
        choose("gradient", gradient, Gradient, GRADIENTS)
        self.func = func
        self.t = tuple(checked_times(t))
        self._precision = precision(t)
        self.method = method
        self.rtol = rtol
        self.atol = atol
        self.gradient = gradient
        self.time_channel = time_channel
        self.options = checked_options(options)
        self._takes_time = not time_channel and (takes_two(func) if takes_time is None else takes_time)
        self._count = {"forward": 0, "backward": 0}
        self._last: dict[str, int] | None = None
        self._settled = SimpleNamespace()

    def forward(self, x: PyTree) -> PyTree:
        """The state at the end, shaped like ``x``."""
        inline = INLINE.get(self.options.get("runner", ""))
        if inline is not None and torch.compiler.is_compiling():
            return self._inline(inline, x)
        return tree_map(lambda y: no_view(y[-1]), self._over_time(self._solve(x, self.t, save="end")))

    def trajectory(self, x: PyTree, t: Any) -> PyTree:
        """The states at the times ``t``, the "layers" in between.

        Args:
            x: the input, the state at the block's own start.
            t: times from the block's start onwards, in the block's direction, beyond its end too; one number for the state
                at that time. A time that equals the start in the precision of ``t`` is the start.

        Returns:
            ``[T, *x.shape]``; ``[1, *x.shape]`` for one number.

        Raises:
            InputError: for times in no order or before the block's start.
        """
        times = self._times_from_start(t)
        if float(times[0].detach()) == self.t[0]:
            return tree_map(no_view, self._over_time(self._solve(x, times)))
        full = self._solve(x, torch.cat([times.new_tensor(self.t[:1]), times]))
        return tree_map(lambda y: no_view(y[1:]), self._over_time(full))

    @property
    def nfe(self) -> int:
        return self._count["forward"]

    @nfe.setter
    def nfe(self, value: int) -> None:
        self._count["forward"] = value

    @property
    def nfe_backward(self) -> int:
        return self._count["backward"]

    @nfe_backward.setter
    def nfe_backward(self, value: int) -> None:
        self._count["backward"] = value

    @property
    def stats(self) -> Stats | None:
        """Counters of the last solve (its backward pass included, once it ran)."""
        return None if self._last is None else Stats(**self._last)

    def reset_nfe(self) -> None:
        """Count evaluations afresh from here."""
        self.nfe = self.nfe_backward = 0

    def extra_repr(self) -> str:
        return f"t={self.t}, method={self.method!r}, rtol={self.rtol}, atol={self.atol}, gradient={self.gradient!r}"

    def _over_time(self, solution: Any) -> PyTree:
        """The values with time as the first axis, also where rows have steps of their own."""
        rows = self.options.get("batch_dims", 0)
        return tree_map(lambda y: y.movedim(rows, 0), solution.y) if rows else solution.y

    def _solve(self, x: PyTree, t: Any, save: str = "t") -> Solution:
        if self.time_channel:
            check_has_channels(x)
        field = CountedField(self._field, self._count, self.func)
        try:
            solution = solve(
                field, x, t,
                method=self.method, rtol=self.rtol, atol=self.atol, gradient=self.gradient, save=save, **self.options,
            )  # fmt: skip
        except SolveError as error:
            self._last = None if error.solution is None else error.solution.counters
            raise
        finally:
            field.phase = "backward"
        self._last = solution.counters
        return solution

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name in _SETTINGS:  # a graph is traced again where this text has changed
            self.__dict__["_settings"] = repr([self.__dict__.get(setting) for setting in _SETTINGS])

    def _inline(self, inline: Any, x: PyTree) -> PyTree:
        """The same solve as part of the graph that is being traced."""
        recorded = torch.is_grad_enabled() and not torch.compiler.is_exporting()
        dtypes = tuple(leaf.dtype for leaf in tree_leaves(x))
        name = self._settle(dtypes, recorded, self._settings)
        return inline.end(self.func, self._ask, getattr(self._settled, name), x)

    @torch._dynamo.assume_constant_result  # type: ignore[untyped-decorator]
    def _settle(self, dtypes: tuple[torch.dtype, ...], recorded: bool, settings: str) -> str:
        """Write down what a solve in a graph goes by, while the graph is traced.

        Returns:
            The name under which it is written down: a constant that a graph can hold.
        """
        if not isinstance(choose("gradient", self.gradient, Gradient, GRADIENTS), Discrete):
            raise InputError(
                f"A block inside a compiled or exported model has the gradient 'discrete', not {self.gradient!r}. Write "
                f"gradient='discrete', or call the model as it is."
            )
        if recorded and any(isinstance(x, _DropoutNd) and x.training and x.p > 0 for x in submodules(self.func)):
            raise InputError(
                "Dropout in func draws other numbers when the backward pass of a compiled model takes the steps again. Leave "
                "it out of func, or call the model as it is."
            )
        terms = INLINE[self.options["runner"]].terms(
            dtypes, self.t, choose_method(self.method), self.rtol, self.atol, self.options, recorded
        )
        name = "_".join(["recorded" if recorded else "unrecorded", *(str(x).removeprefix("torch.") for x in dtypes)])
        if getattr(self._settled, name, None) != terms:
            setattr(self._settled, name, terms)
        return name

    def _ask(self, func: Callable[..., Any], t: Tensor, x: PyTree) -> PyTree:
        if self.time_channel:
            return func(with_time_channel(t, x))
        return func(t, x) if self._takes_time else func(x)

    def _field(self, t: Tensor, x: PyTree) -> PyTree:
        try:
            return self._ask(self.func, t, x)
        except (TypeError, RuntimeError) as error:
            explain(error, "func(t, x)" if self._takes_time else "func(x)")
            raise

    def _times_from_start(self, t: Any) -> Tensor:
        """The times of a trajectory, the first one exactly the block's start where that is meant."""
        if isinstance(t, np.ndarray | np.generic):
            t = from_numpy(t, "t")
        single = isinstance(t, int | float) or (isinstance(t, Tensor) and t.dim() == 0)
        times = as_times([t] if single else t, torch.device("cpu"))
        start, floats = self.t[0], times.detach().tolist()
        way = self.t[-1] - start or floats[-1] - start
        direction = -1 if way < 0 else 1
        if direction * (floats[-1] - floats[0]) < 0:
            raise InputError(
                f"t runs from {floats[0]:g} to {floats[-1]:g}, but the block runs from t={start:g} to t={self.t[-1]:g}. Give "
                f"times in the block's direction, from its start on."
            )
        check_monotone([direction * x for x in floats], direction)
        at = times.new_tensor([floats[0], start])
        if any(at[0].to(dtype) == at[1].to(dtype) for dtype in (precision(t), self._precision)):
            return torch.cat([times[:1] + (start - floats[0]), times[1:]]) if floats[0] != start else times
        if direction * floats[0] < direction * start:
            raise InputError(
                f"t[0]={floats[0]:g} is before the block's start t={start:g}, where its input is given. Ask for times from "
                f"{start:g} on, towards {self.t[-1]:g}, or make a block that starts earlier."
            )
        return times


class CountedField:
    """The field of one solve: what is asked while the solve runs is forward, what is asked later, backward.

    An object for each solve, not an attribute of the module, whose numbers ``torch.compile`` takes for constants.

    Args:
        func: of the block; in two parts (``partitioned``), if geometric methods are to solve it.
    """

    def __init__(self, f: Callable[[Tensor, PyTree], PyTree], count: dict[str, int], func: Any):
        self.f = f
        self.count = count
        self.func = func
        self.forms = getattr(func, "forms", ())
        self.phase = "forward"

    def __call__(self, t: Tensor, x: PyTree) -> PyTree:
        self.count[self.phase] += 1
        return self.f(t, x)

    def drift(self, t: Tensor, x: PyTree) -> PyTree:
        return self.func.drift(t, x)

    def kick(self, t: Tensor, x: PyTree) -> PyTree:
        self.count[self.phase] += 1
        return self.func.kick(t, x)

    @property
    def uncounted(self) -> Callable[[Tensor, PyTree], PyTree]:
        """What compiled loops are made of: they count by themselves, and tell afterwards."""
        return self.f

    def count_more(self, evaluations: int) -> None:
        self.count[self.phase] += evaluations


_FIXED = ("f", "y0", "t", "args", "method", "rtol", "atol", "gradient", "save", "dense", "throw", "start")
_OPTIONS = inspect.signature(solve).parameters.keys() - set(_FIXED)


_SETTINGS = ("t", "method", "rtol", "atol", "gradient", "options")


def submodules(func: object) -> list[nn.Module]:
    """The modules in ``func``, itself included."""
    return list(func.modules()) if isinstance(func, nn.Module) else []


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


def check_function(func: object, time_channel: bool, takes_time: bool | None) -> None:
    """Something to call, and called in one way only."""
    if not callable(func):
        raise InputTypeError(
            f"func is a {type(func).__name__}, which cannot be called. Give a module or a function, f(x) or f(t, x)."
        )
    if time_channel and (takes_time or (takes_time is None and (required(func) or 0) >= 2)):
        raise InputError(
            "time_channel=True gives the time as a channel of x and calls func(x_with_time), but func is an f(t, x). Leave "
            "time_channel out, or give an f(x) whose first layer takes one channel more."
        )


def check_has_channels(x: PyTree) -> None:
    """A time channel needs one tensor with at least one dimension."""
    state = as_state(x)
    if not isinstance(state, Tensor) or state.dim() == 0:
        got = "a 0-d tensor" if isinstance(state, Tensor) else f"a {type(x).__name__}"
        raise InputError(
            f"time_channel=True adds a channel to one tensor, but x is {got}. Give a tensor [B, C, ...], [B, D] or [D], or "
            f"leave time_channel out and write f(t, x)."
        )


def precision(t: Any) -> torch.dtype:
    """The dtype in which times were given: that of a tensor or array of floats, float64 for numbers."""
    first = t[0] if isinstance(t, list | tuple) and len(t) else t
    if isinstance(first, np.ndarray | np.generic):
        first = from_numpy(first, "t")
    return first.dtype if isinstance(first, Tensor) and first.is_floating_point() else torch.float64


def with_time_channel(t: Tensor, x: Tensor) -> Tensor:
    """``x`` with the time as one more channel: ``[B, C, ...] -> [B, C + 1, ...]`` (``[D] -> [D + 1]``)."""
    dim = 1 if x.dim() > 1 else 0
    shape = list(x.shape)
    shape[dim] = 1
    return torch.cat([x, t.to(x.dtype).expand(shape)], dim=dim)


def no_view(y: Tensor) -> Tensor:
    """A tensor of its own: FSDP hangs its hooks on what a module returns, and a view changed in place loses them."""
    return y.clone()
