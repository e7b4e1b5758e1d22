"""Ensembles: many small problems in bounded memory, in one process or several."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch

from ._types import PyTree, VectorField
from .errors import GradientError, InputError, SolveError
from .exchange import Lost, Peers
from .members import Members, check_count, make_members
from .per_sample.joining import joined, not_solved
from .per_sample.loop import CODES
from .per_sample.solution import BatchSolution
from .progress import tqdm_bar
from .solution import Status
from .solve import solve
from .state import Layout

_CHUNK_BYTES = {"cpu": 2**18}
_CHUNK_BYTES_ELSEWHERE = 2**24
_INTERRUPTED = "not solved: interrupted from the keyboard."


def ensemble(
    f: VectorField,
    y0: PyTree,
    t: Any,
    args: PyTree = None,
    *,
    members: int | None = None,
    shared: Any = (),
    chunk_size: int | None = None,
    device: torch.device | str | None = None,
    group: Any = None,
    progress: bool = False,
    save: str | Callable[..., PyTree] = "t",
    rtol: PyTree = 1e-5,
    atol: PyTree = 1e-7,
    throw: bool = True,
    **settings: Any,
) -> BatchSolution:
    """Solve many small problems, chunk by chunk: the result of ``solve(f, y0, t, args, batch_dims=1)`` in bounded memory.

    Every member of the ensemble has its own steps, error control, times and fate, and none depends on the others: the chunks
    change nothing but the memory needed (and the rounding in the last digit), and the order is kept. The memory is that of the
    result, twice while it is put together, and of one chunk.

    Args:
        f: ``f(t, y)`` or ``f(t, y, args)`` of the members of a chunk: ``t`` is ``[b]``, ``y`` ``[b, ...]``; returns their slopes
            ``[b, ...]``.
        y0: the states at the start, ``[N, ...]``: a tensor, or a pytree of tensors with the same leading axis. With ``members``
            a tensor whose leading axis is not N is the state in which all of them start.
        t: times at which to save, for all members or for each: ``(t0, t1)``, either of which may be ``[N]``; ``[T]``; ``[N, T]``.
        args: a pytree handed to ``f``. Its tensors and arrays with a leading axis of length N hold one entry for each member,
            of which ``f`` gets those of the chunk, ``[b, ...]``; everything else is shared and handed on as it is.
        members: the number N; the length of y0's leading axis by default.
        shared: entries of ``args`` that are shared although their leading axis happens to have length N: a key or an index
            or a list of them, or True for all of ``args``.
        chunk_size: how many members are solved at a time. By default as many as keep the processor busy and their states in its
            cache (256 KiB of states; 16 MiB on an accelerator), and equally many for each process.
        device: where to solve: chunks and shared tensors go there, results come back to where ``y0`` is. Default: there.
        group: a ``torch.distributed`` group (gloo, or one with gloo for the CPU). All its processes call ``ensemble`` with the
            same arguments (``device`` may differ), the chunks are dealt out in turns, and all get the whole result, bit for bit
            that of one process with the same ``chunk_size``. A process that raises or dies ends the call in all of them; one
            that takes longer for its chunk than the group's timeout counts as dead.
        progress: show a bar on stderr over the members (needs tqdm; with ``group`` in its first process).
        save: ``'t'``, ``'steps'``, ``'end'`` (the least memory), or a function ``save(t, y)``, as in ``solve``.
        rtol, atol: as in ``solve``; a tensor with as many axes as y0 ``[N, ...]`` may have an entry for each member.
        throw: raise SolveError if any member fails, after all have been solved; otherwise return all, marked by their
            ``status``. With ``throw=False``, Ctrl-C returns the part done (without ``group``).
        settings: ``method``, ``controller``, ``max_steps``, ``events``, ``gradient``, ... of ``solve``.

    Returns:
        BatchSolution: of all members; ``sol.y`` is ``[N, T, ...]``, ``sol[i]`` the solution of member ``i``. Gradients flow
        through it, but then the memory grows with the number of chunks: wrap the call in ``torch.no_grad()`` if there are
        parameters and no gradients are wanted.

    Raises:
        InputError, InputTypeError: for arguments that make no sense.
        SolveError: if members fail and ``throw``; if another process of the group raised or died (it names the members that
            this one was to solve). Its ``.solution`` holds everything that was computed.
        GradientError: with ``group``, if the result wants gradients: those of other processes cannot be had.

    Example:
        >>> import torch, torchivp
        >>> decay = lambda t, y, args: -args["rate"].unsqueeze(-1) * y
        >>> rates = torch.linspace(0.1, 2.0, 10_000)
        >>> sol = torchivp.ensemble(decay, torch.ones(1), (0.0, 1.0), {"rate": rates}, members=10_000)
        >>> sol.y[:, -1, 0]  # [10000]
    """
    settings = without_fixed(settings)
    everyone = make_members(y0, t, args, members, shared, rtol, atol)
    peers = None if group is None else Peers(group)
    size = chunk_size_for(everyone.layout, device, chunk_size, 1 if peers is None else peers.size)
    chunks = [slice(a, min(a + size, len(everyone))) for a in range(0, len(everyone), size)]
    settings["save"] = "t" if callable(save) else save
    solve_chunk = partial(solved, f, everyone, device=device, settings=settings)
    turns = alone(solve_chunk, chunks) if peers is None else together(solve_chunk, chunks, peers)
    parts: dict[int, BatchSolution] = {}
    trouble = ""
    with bar_for(len(everyone), progress and (peers is None or peers.rank == 0)) as bar:
        for turn in turns:
            parts |= turn.parts
            trouble = turn.trouble
            bar.update(sum(map(len, turn.parts.values())))
    solution = whole(everyone, chunks, parts, trouble or _INTERRUPTED, save if callable(save) else None)
    if trouble:
        raise SolveError(trouble, solution)
    if throw and interrupted(solution):
        raise KeyboardInterrupt
    return solution.raise_for_status() if throw else solution


_FIXED: dict[str, tuple[Any, str]] = {
    "batch_dims": (1, "An ensemble has one axis of members: reshape y0 to [N, ...]."),
    "start": (None, "To go on, give `y0=solution.y[:, -1]`."),
    "dense": (False, "Dense output of an ensemble has no bounded memory: save at the times you want, or solve a few members."),
    "couple": (False, "Members that take the same steps would depend on their chunk: `solve(..., batch_dims=1, couple=True)`."),
}  # fmt: skip


def without_fixed(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings but for those that an ensemble has no choice in."""
    for name, (value, instead) in _FIXED.items():
        if settings.get(name, value) != value:
            raise InputError(f"ensemble cannot take {name}={settings[name]!r}. {instead}")
    return {name: value for name, value in settings.items() if name not in _FIXED}


def chunk_size_for(layout: Layout, device: torch.device | str | None, wanted: Any, processes: int = 1) -> int:
    """How many members to solve at a time: the user's number, or what suits the device, in equal parts for all processes."""
    check_count("chunk_size", wanted)
    if wanted is not None:
        return int(wanted)
    where = torch.device(layout.device if device is None else device).type
    most = max(1, _CHUNK_BYTES.get(where, _CHUNK_BYTES_ELSEWHERE) // layout.dtype.itemsize // max(1, layout.width))
    turns = math.ceil(layout.rows / (most * processes))
    return math.ceil(layout.rows / (turns * processes))


def bar_for(members: int, wanted: bool) -> Any:
    """A bar over the members, shown or not."""
    if not wanted:
        return nullcontext(_NoBar())
    return tqdm_bar(total=members, desc="ensemble", unit=" members", unit_scale=True)


class _NoBar:
    def update(self, n: int) -> None: ...


def solved(
    f: VectorField, everyone: Members, chunk: slice, *, device: torch.device | str | None, settings: dict[str, Any]
) -> BatchSolution:
    """The solution of some members, where their states were."""
    try:
        solution = solve(f, **everyone.part(chunk, device), batch_dims=1, throw=False, **settings)
    except Exception as error:
        if hasattr(error, "add_note"):  # Python 3.11
            error.add_note(f"({named(chunk)} of {len(everyone)} in an ensemble; {everyone.describe()})")
        raise
    return solution if device is None else solution.to(everyone.layout.device)


class Turn(NamedTuple):
    """What has been solved now: solutions of chunks by their numbers, and what went wrong with others."""

    parts: dict[int, BatchSolution]
    trouble: str = ""


def alone(solve_chunk: Callable[[slice], BatchSolution], chunks: list[slice]) -> Iterator[Turn]:
    """Chunk by chunk, until one is interrupted."""
    for i, chunk in enumerate(chunks):
        part = solve_chunk(chunk)
        yield Turn({i: part})
        if interrupted(part):
            return


def together(solve_chunk: Callable[[slice], BatchSolution], chunks: list[slice], peers: Peers) -> Iterator[Turn]:
    """In every turn one chunk for each process, until something goes wrong; everybody gets all solutions.

    The chunks of a turn are neighbours, which in a sweep take about as long as each other.
    """
    asked = (chunks[-1].stop, len(chunks))
    for first in range(0, len(chunks), peers.size):
        turn = chunks[first : first + peers.size]
        mine, failure = my_part(solve_chunk, turn, peers.rank)
        answers = peers.exchange(Answer(asked, mine, "" if failure is None else f"{type(failure).__name__}: {failure}"))
        if failure is not None:
            raise failure
        check_agreement(asked, answers)
        trouble = [text for rank, answer in enumerate(answers) if (text := trouble_with(rank, answer, turn))]
        parts = {first + rank: a.part for rank, a in enumerate(answers) if isinstance(a, Answer) and a.part is not None}
        yield Turn(parts, "\n".join(trouble))
        if trouble:
            return


class Answer(NamedTuple):
    """What a process hands to the others: its part, or how it failed; and how many members and chunks it was asked for."""

    asked: tuple[int, int]
    part: BatchSolution | None
    failure: str


def my_part(
    solve_chunk: Callable[[slice], BatchSolution], turn: list[slice], rank: int
) -> tuple[BatchSolution | None, BaseException | None]:
    """The solution of this process's chunk, if there is one for it, or the exception: the others are told of it first."""
    if rank >= len(turn):
        return None, None
    try:
        part = solve_chunk(turn[rank])
        if interrupted(part):
            raise KeyboardInterrupt
        if part.outputs.y.requires_grad or part.outputs.t.requires_grad:
            raise GradientError(
                "The result of this ensemble wants gradients, but the parts that come from other processes have none. Wrap "
                "the call in `torch.no_grad()`; or leave group= out, give every process its share of the members, and "
                "average the gradients (as DistributedDataParallel does)."
            )
        return part, None
    except BaseException as failure:
        return None, failure


def check_agreement(asked: tuple[int, int], answers: list[Any]) -> None:
    """Raise unless all processes solve the same ensemble."""
    for rank, answer in enumerate(answers):
        if isinstance(answer, Answer) and answer.asked != asked:
            theirs, ours = (f"{members} members in {chunks} chunks" for members, chunks in (answer.asked, asked))
            raise InputError(
                f"Process {rank} of the group solves {theirs}, this one {ours}. Call `ensemble` with the same arguments in all."
            )


def trouble_with(rank: int, answer: Any, turn: list[slice]) -> str:
    """What happened to a process that did not do its part; empty, if it did."""
    work = f"solving {named(turn[rank])}" if rank < len(turn) else "waiting for the others"
    if isinstance(answer, Lost):
        return (
            f"Process {rank} of the group died, or took longer than the group's timeout, while {work} ({answer.why})."
        )
    return f"Process {rank} of the group failed while {work}: {answer.failure}" if answer.failure else ""


def whole(
    everyone: Members, chunks: list[slice], parts: dict[int, BatchSolution], why: str, through: Any
) -> BatchSolution:
    """The solution of all members.

    Args:
        why: some of the chunks were not solved.
        through: a function of the saved values.
    """
    events = next((len(part.t_events) for part in parts.values() if part.t_events is not None), None)
    for i, chunk in enumerate(chunks):
        if i not in parts:
            parts[i] = not_solved(Layout(everyone.part(chunk, None)["y0"], 1), why, events)
    return joined([parts[i] for i in range(len(chunks))], everyone.layout, through)


def named(chunk: slice) -> str:
    return f"members {chunk.start} to {chunk.stop - 1}"


def interrupted(solution: BatchSolution) -> bool:
    """Ctrl-C was pressed while it was computed."""
    return bool((solution.codes == CODES.index(Status.INTERRUPTED)).any())
