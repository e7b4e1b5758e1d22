"""The loop as a few attempted steps in plain PyTorch, the same ones again and again: what a CUDA graph can hold.

The masks are those of the compiled loop; a superfluous attempt changes nothing. See ``docs/design/cuda-graph.md``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...errors import NotCompilable
from ...state import flatten, unflatten
from .attempt import attempt
from .program import Program, Record
from .pure import Pure
from .starting import started
from .step import SUCCESS, Carry, Fixed, Form, State, in_rows, in_totals

_KEPT = 4  # graphs of one program: each has memory of its own


class Inputs(NamedTuple):
    """What a program is called with, its record excepted."""

    start: Carry
    fixed: Fixed
    held: tuple[Tensor, ...]


def make_repeated(form: Form, pure: Pure, k: int, captured: bool) -> Program:
    """What ``make_program`` makes, without a compiler.

    Args:
        k: attempts in one piece of work.
        captured: the piece is a CUDA graph.
    """
    lock, known = threading.Lock(), dict[Any, Repeated]()

    def call(start: Carry, fixed: Fixed, held: State, record: Record | None) -> Carry:
        with torch.no_grad():
            inputs = Inputs(started(form, pure.as_written(), fixed, held, start), fixed, tuple(held))
        key = tuple((x.shape, x.dtype, x.device) for x in flatten(inputs)[0])
        with lock, torch.no_grad(), on_device_of(start):
            with torch.inference_mode(False):
                if key not in known:
                    while len(known) >= _KEPT:
                        del known[next(iter(known))]
                    known[key] = Repeated(form, pure.as_written(), k, captured, inputs, record)
                known[key] = repeated = known.pop(key)  # the newest is the last
                repeated.run(inputs)
            return repeated.end(record)

    return call


class Repeated:
    """``k`` attempts on tensors of their own, repeated until no row is running, the record is full, or ``until`` is reached.

    Args:
        inputs, record: examples of what is to come.

    Attributes:
        work: makes the attempts.
    """

    def __init__(self, form: Form, pure: Pure, k: int, captured: bool, inputs: Inputs, record: Record | None):
        self.form, self.pure, self.k = form, pure, k
        given, spec = flatten(inputs)
        device = inputs.start.totals.device
        self.own = [torch.empty_like(x, device=device) for x in given]
        self.inputs: Inputs = unflatten(spec, self.own)
        self.record = None if record is None else with_one_more(record)
        self.flag = Flag(self.inputs.start.totals[0])
        self.load(given)
        self.warm_up()
        self.work = graph_of(self.attempts) if captured else self.attempts

    def run(self, inputs: Inputs) -> None:
        self.load(flatten(inputs)[0])
        self.repeat()

    def end(self, record: Record | None) -> Carry:
        """Where the rows are; and what was written down, into this record."""
        end, spec = flatten(self.inputs.start)
        after: Carry = unflatten(spec, [x.clone() for x in end])
        if record is not None and self.record is not None:
            n = int(after.slot)
            for there, here in zip(flatten(record)[0], flatten(self.record)[0]):
                there[:n].copy_(here[:n])
        return after

    def load(self, given: Sequence[Tensor]) -> None:
        for own, x in zip(self.own, given):
            own.copy_(x)

    def repeat(self) -> None:
        """The flag of one piece of work is read while the next one is queued already: the device never waits for the host."""
        self.work()
        while True:
            goes_on = self.flag.ask()
            self.work()
            if not goes_on():
                return

    def attempts(self) -> None:
        start, fixed, held = self.inputs
        at = start
        for _ in range(self.k):
            at = attempt_if(self.form, self.pure, fixed, held, self.record, at)
        for own, x in zip(flatten(start)[0], flatten(at)[0]):
            own.copy_(x)

    def warm_up(self) -> None:
        """Make the attempts once, for the libraries that set themselves up when they are first called.

        Raises:
            NotCompilable: if ``f`` writes to what it holds: it would write to copies, and once more in every superfluous attempt.
        """
        before = [x._version for x in self.inputs.held]
        with another_stream(self.inputs.start):
            self.attempts()
        if before != [x._version for x in self.inputs.held]:
            raise NotCompilable(
                "runner='cuda_graph' needs an f that leaves the tensors it holds as they are, but f writes to one of them in "
                "place (a counter, a running statistic?). Leave that out, or write runner='eager'."
            )


def attempt_if(form: Form, pure: Pure, fixed: Fixed, held: State, record: Record | None, at: Carry) -> Carry:
    """One attempted step, written down; where ``at.go`` is false, nothing changes."""
    t, dt, code, *rest = at.rows.unbind(0)
    still = in_rows(t, dt, torch.where(at.go, code, SUCCESS), *rest)  # rows that are not running stay as they are
    after, taken = attempt(form, pure, fixed, held, at._replace(rows=still))
    t, dt, new_code, *rest = after.rows.unbind(0)
    tries = at.tries + at.go
    room = tries < at.until
    if record is not None:
        record.write(torch.where(at.go, at.slot, form.slots), tries, taken)
        room = room & (after.slot < form.slots)
    totals = in_totals(at.go & after.go & room, tries, after.slot, at.until, at.fresh, after.asked)
    return after._replace(totals=totals, rows=in_rows(t, dt, torch.where(at.go, new_code, code), *rest))


def with_one_more(record: Record) -> Record:
    """A record like this one with another slot, for what nobody reads."""
    leaves, spec = flatten(record)
    more: Record = unflatten(spec, [x.new_empty(len(x) + 1, *x.shape[1:]) for x in leaves])
    return more


class Flag:
    """A flag on its way from the device to the host: asked for in the device's queue, waited for later.

    Args:
        there: the flag, 0-d. On the CPU it is there at once.
    """

    def __init__(self, there: Tensor):
        self.there, self.last = there, 0
        self.here = torch.empty(2, dtype=there.dtype, pin_memory=there.is_cuda)
        self.arrived = [torch.cuda.Event() for _ in self.here] if there.is_cuda else []

    def ask(self) -> Callable[[], bool]:
        """The flag as it will be when the device comes to this point; to be called before ``ask`` is called twice more."""
        self.last = i = 1 - self.last
        self.here[i].copy_(self.there, non_blocking=True)
        if self.arrived:
            self.arrived[i].record()

        def answer() -> bool:
            if self.arrived:
                self.arrived[i].synchronize()
            return bool(self.here[i])

        return answer


def on_device_of(start: Carry) -> Any:
    """A context in which this device is the current one."""
    return torch.cuda.device(start.totals.device) if start.totals.is_cuda else nullcontext()


@contextmanager
def another_stream(start: Carry) -> Iterator[None]:
    """A stream beside the current one, which waits before and is waited for afterwards; on the CPU there are none."""
    if not start.totals.is_cuda:
        yield
        return
    now, beside = torch.cuda.current_stream(), torch.cuda.Stream()
    beside.wait_stream(now)
    with torch.cuda.stream(beside):
        yield
    now.wait_stream(beside)


def graph_of(work: Callable[[], None]) -> Callable[[], None]:
    """The work as a CUDA graph."""
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            work()
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise NotCompilable(
            f"runner='cuda_graph' cannot capture this solve: {first.strip()} f must neither wait for the "
            f"device nor copy to it (.item(), .cpu(), torch.tensor([...], device=...)). Make such tensors beforehand, or write "
            f"runner='eager'."
        ) from error
    return graph.replay
