"""A whole solve as part of a larger graph: of a model that is compiled as one, or exported.

Nothing can be raised inside a graph, so that a solve that fails there ends in nan.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from ..._types import PyTree
from ...controllers import PID, Controller, Limits
from ...errors import InputError
from ...methods import Method
from ...methods.explicit_rk import ExplicitRungeKutta
from ...per_sample.loop import RUNNING
from ...plan import choose_controller
from .backward import Adjoint, make_backward
from .compile import keep_saved_buffers
from .explicit import explicit_stages
from .program import Record, make_program, new_record
from .pure import Pure
from .starting import all_finite, first_step
from .step import NONFINITE, SUCCESS, Carry, Fixed, Form, State, in_rows, in_totals, slopes, wide

ROOM = 256  # accepted adaptive steps that a training pass holds where max_steps was not given
_MAX_STEPS = 100_000
_TAKEN = {"runner", "dt", "controller", "max_steps", "norm", "stop_times", "batch_dims", "couple"}

Ask = Callable[[Callable[..., Any], Tensor, PyTree], PyTree]


@dataclass
class Terms:
    """What a solve in a graph goes by; all of it stands in the graph as constants.

    Attributes:
        form: of the loop.
        working: dtype in which steps are taken.
        t0: start; ``landings``: times to land on, the last one the end (inside the library, so increasing).
        first, last: the times between which ``f`` may be asked.
        sign: -1 where the user's time decreases.
        rtol, atol, max_steps: as in ``solve``.
        dt: the first step; None: as Hairer says.
        batch_dims: so many leading axes count rows with steps of their own.
    """

    form: Form
    working: torch.dtype
    t0: float
    landings: tuple[float, ...]
    first: float
    last: float
    sign: float
    rtol: float
    atol: float
    max_steps: int
    dt: float | None
    batch_dims: int


def terms(
    dtypes: tuple[torch.dtype, ...],
    t: Sequence[float],
    method: Method,
    rtol: Any,
    atol: Any,
    options: Mapping[str, Any],
    recorded: bool,
) -> Terms:
    """The terms of a solve, checked.

    Args:
        dtypes: of the state's tensors.
        t: the block's times; the solve ends at the last one.
        method, rtol, atol, options: as in ``solve``.
        recorded: a gradient may be wanted.

    Raises:
        InputError: for what only a solve outside of graphs can do.
    """
    check(dtypes, method, rtol, atol, options)
    if recorded:
        keep_saved_buffers()
    controller = choose_controller(method, options.get("controller"), options.get("dt"))
    if controller.adaptive and not isinstance(controller, PID):
        raise not_here(f"{controller!r} (PID and FixedSteps are compiled)")
    real = dtypes[0]
    for dtype in dtypes[1:]:
        real = torch.promote_types(real, dtype)
    working = torch.float32 if real in (torch.float16, torch.bfloat16) else real
    sign = -1.0 if t[-1] < t[0] else 1.0
    limits = limits_of([sign * x for x in t], sign, controller, real, options)
    landings = tuple(x for x in limits.stops if x > sign * t[0]) or (limits.end,)
    max_steps = options.get("max_steps", ROOM if controller.adaptive and recorded else _MAX_STEPS)
    first, last = limits._first(limits.start), limits._last(limits.end)
    return Terms(
        form=Form(
            stages=explicit_stages,
            tableau=method.tableau,  # type: ignore[attr-defined]
            controller=controller,
            error_order=method.error_order or method.order,
            dtypes=dtypes,
            time_dtype=real,
            by_rows=options.get("batch_dims", 0) > 0,
            couple=options.get("couple", False),
            norm=options.get("norm", "rms"),
            looks_inside=False,
            slopes=int(recorded),
            slots=0 if not recorded else max_steps if controller.adaptive else min(max_steps, len(landings)),
            unroll=1,
            starts=False,
            turned=sign < 0,
        ),
        working=working,
        t0=limits.start,
        landings=landings,
        first=-math.inf if first is None else first,
        last=math.inf if last is None else last,
        sign=sign,
        rtol=float(rtol),
        atol=max(float(atol), torch.finfo(working).tiny),
        max_steps=max_steps,
        dt=options.get("dt") if controller.adaptive else controller.first_step(limits.end),
        batch_dims=options.get("batch_dims", 0),
    )


def check(dtypes: tuple[torch.dtype, ...], method: Method, rtol: Any, atol: Any, options: Mapping[str, Any]) -> None:
    """Raise for what cannot stand in a graph."""
    reasons = {
        f"{method!r} (explicit Runge-Kutta methods are compiled)": not isinstance(method, ExplicitRungeKutta),
        f"a state of {', '.join(map(str, dtypes))}": not dtypes or not all(x.is_floating_point for x in dtypes),
        "tolerances that are no numbers": not all(isinstance(x, int | float) for x in (rtol, atol)),
        f"norm={options.get('norm')!r} ('rms' and 'max' are compiled)": options.get("norm", "rms")
        not in ("rms", "max"),
        **{f"{name}=": True for name in sorted(options.keys() - _TAKEN)},
    }
    for reason, there in reasons.items():
        if there:
            raise not_here(reason)


def not_here(reason: str) -> InputError:
    return InputError(
        f"A solve inside a compiled or exported model does not go with {reason}. Leave it out, or call the model as it is."
    )


def limits_of(
    times: list[float], sign: float, controller: Controller, dtype: torch.dtype, options: Mapping[str, Any]
) -> Limits:
    """Where steps have to land, as in a solve from the first to the last of the times."""
    stops = torch.as_tensor(options.get("stop_times", ()), dtype=torch.float64).reshape(-1).tolist()
    inside = [sign * x for x in stops if sign * x >= times[0]]
    return Limits(end=times[-1], stops=inside, dtype=dtype, grid=controller.grid(times), start=times[0])


class Function:
    """The user's ``f`` as a pure function of its parameters, for a loop that is traced.

    Args:
        f: a module, or a function that holds no parameters.
        ask: ``ask(f, t, y)`` calls it.
        spec: structure of its state.
    """

    def __init__(self, f: Callable[..., Any], ask: Ask, spec: TreeSpec):
        self.f: Any = f
        self.ask, self.spec = ask, spec
        self.held: list[Tensor] = []
        self.places: dict[str, int] = {}  # a parameter of two layers has two names
        for name, x in named_parameters(f):
            known = [i for i, y in enumerate(self.held) if y is x]
            self.places[name] = known[0] if known else len(self.held)
            self.held += [] if known else [x]

    def __call__(self, t: Tensor, ys: State, held: State) -> tuple[Tensor, ...]:
        given = {name: held[i] for name, i in self.places.items()}

        def f(*arguments: Any) -> PyTree:
            return functional_call(self.f, given, arguments, tie_weights=False) if given else self.f(*arguments)

        out, _ = tree_flatten(self.ask(f, t, tree_unflatten(list(ys), self.spec)))
        if len(out) != len(ys) or any(k.shape != y.shape or k.dtype != y.dtype for k, y in zip(out, ys)):
            raise InputError(
                "A solve inside a compiled or exported model needs slopes of the very structure, shapes and dtypes of the "
                "state. Return such tensors from func."
            )
        return tuple(out)


def named_parameters(f: object) -> list[tuple[str, Tensor]]:
    """The parameters of every layer, once for each layer that has them."""
    layers = f.named_modules() if isinstance(f, nn.Module) else []
    return [
        (f"{prefix}.{name}" if prefix else name, x)
        for prefix, layer in layers
        for name, x in layer.named_parameters(recurse=False)
    ]


def end(f: Callable[..., Any], ask: Ask, terms: Terms, y: PyTree) -> PyTree:
    """The state at the end of a solve from ``y``; nan where the solve failed.

    Args:
        f: the user's function, a module if it has parameters.
        ask: ``ask(f, t, y)`` calls it.
        terms: of the solve.
        y: the state at the start, a pytree of tensors.
    """
    leaves, spec = tree_flatten(y)
    pure: Any = Function(f, ask, spec)
    fixed = fixed_of(terms, leaves)
    ys = [x.to(terms.working) for x in leaves]
    batch = leaves[0].shape[: terms.batch_dims]
    t0 = full(terms.t0, leaves[0], batch)
    if terms.form.slots:
        refuse_lost_gradient(terms, pure, fixed, pure.held, t0, ys)
        ks = slopes(terms.form, pure, fixed, pure.held, t0, ys)
        code, *ends = Solved.apply(terms, pure, len(ys), *ys, *ks, *pure.held)
    else:
        with torch.no_grad():
            ys = [x.detach() for x in ys]
            held = [x.detach() for x in pure.held]
            ks = slopes(terms.form, pure, fixed, held, t0, ys)
            last = make_program(terms.form, pure)(begin(terms, pure, fixed, held, ys, ks), fixed, held, None)
            code, ends = last.code, last.ys
    fate = torch.where(code == SUCCESS, 1.0, torch.nan)
    return tree_unflatten([(wide(fate, x) * x).to(like.dtype) for x, like in zip(ends, leaves)], spec)


class Solved(torch.autograd.Function):
    """The loop forwards, and the same steps backwards."""

    @staticmethod
    def forward(ctx: Any, terms: Terms, pure: Pure, n: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        ys, ks, held = tensors[:n], tensors[n : 2 * n], tensors[2 * n :]
        fixed, record = fixed_of(terms, ys), new_record(terms.form, ys[0].shape[: terms.batch_dims], ys)
        start = begin(terms, pure, fixed, held, ys, ks)
        last = make_program(terms.form, pure)(start, fixed, held, record)
        ctx.terms, ctx.pure, ctx.n = terms, pure, n
        ctx.save_for_backward(last.slot.clone(), *record[:4], *record.ys, *record.ks, *held)
        code = last.code.clone()
        ctx.mark_non_differentiable(code)
        return (code, *last.ys)

    @staticmethod
    def backward(ctx: Any, at_code: Tensor, *at_ys: Tensor) -> tuple[Any, ...]:
        n, (slot, accepted, tries, t, t1, *saved) = ctx.n, ctx.saved_tensors
        record = Record(accepted, tries, t, t1, tuple(saved[:n]), tuple(saved[n : 2 * n]))
        held = saved[2 * n :]
        behind = Adjoint(at_ys, tuple(torch.zeros_like(y) for y in at_ys), tuple(torch.zeros_like(x) for x in held))
        fixed = fixed_of(ctx.terms, at_ys)
        back = make_backward(ctx.terms.form, ctx.pure, tuple(range(len(held))), from_slope=False)
        before = back(slot.reshape(1), behind, None, record, fixed, held)
        return (None, None, None, *before.ys, *before.ks, *before.held)


def refuse_lost_gradient(terms: Terms, pure: Pure, fixed: Fixed, held: State, t0: Tensor, ys: State) -> None:
    """Raise where ``f`` reaches tensors that require grad and that it does not hold: the backward pass would not know them."""
    with torch.enable_grad():
        ks = slopes(terms.form, pure, fixed, [x.detach() for x in held], t0, [y.detach() for y in ys])
    if any(k.requires_grad for k in ks):
        raise InputError(
            "func uses tensors that require grad but are no parameters of func: inside a compiled model they would get no "
            "gradient. Make func a module that holds them as parameters, or wrap an evaluation in torch.no_grad()."
        )


def full(x: float, like: Tensor, batch: Sequence[int] = (), dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.full(tuple(batch), x, dtype=dtype, device=like.device)


def fixed_of(terms: Terms, ys: State) -> Fixed:
    """What does not change in the loop, from what stands in the terms."""
    y, batch = ys[0], ys[0].shape[: terms.batch_dims]
    tolerances = [tuple(full(x, y, dtype=terms.working) for _ in ys) for x in (terms.rtol, terms.atol)]
    landings = torch.tensor(terms.landings[::-1], dtype=torch.float64, device=y.device)
    return Fixed(
        bounds=torch.stack([full(x, y, batch) for x in (terms.first, terms.last, terms.sign, terms.max_steps)]),
        landings=landings.expand(*batch, len(terms.landings)).clone(),
        rtol=tolerances[0],
        atol=tolerances[1],
    )


def begin(terms: Terms, pure: Pure, fixed: Fixed, held: State, ys: State, ks: State) -> Carry:
    """Where the loop starts from."""
    y, batch, controller = ys[0], ys[0].shape[: terms.batch_dims], terms.form.controller
    t0 = full(terms.t0, y, batch)
    finite = all_finite(ys, len(batch)) & all_finite(ks, len(batch))
    code = torch.where(finite, torch.where(fixed.end > t0, RUNNING, SUCCESS), NONFINITE)
    dt = full(terms.dt, y, batch) if terms.dt is not None else first_step(terms.form, pure, fixed, held, t0, ys, ks)
    if controller.adaptive:
        dt = dt.clamp(max=controller.max_step).clamp(min=max(controller.min_step, 4 * math.ulp(terms.t0)))
    remembers = isinstance(controller, PID) and bool(controller.p or controller.d)
    none, one = full(0.0, y, batch), full(1.0, y, batch)
    totals = [(code == RUNNING).any(), *(full(x, y, dtype=torch.int64) for x in (0, 0, 2**62, 0, 0))]
    rows = in_rows(t0, dt, code, none, none, *[one] * (2 if remembers else 0))
    return Carry(in_totals(*totals), rows, tuple(ys), tuple(ks))
