"""Processes that hand each other Python objects, and notice who is gone."""

from __future__ import annotations

import pickle
from typing import Any, NamedTuple

import torch
import torch.distributed as distributed
from torch import Tensor

from .errors import InputError, InputTypeError


class Lost(NamedTuple):
    """In place of what a process did not hand over."""

    why: str


class Peers:
    """The processes of a group; all of them call ``exchange`` equally often.

    Args:
        group: a ``torch.distributed`` group that can send tensors on the CPU (gloo). Its timeout is the longest that
            anybody waits for anybody.

    Attributes:
        rank, size: the number of this process in the group, and how many there are.
    """

    def __init__(self, group: Any):
        check_group(group)
        self.group = group
        self.rank, self.size = distributed.get_rank(group), distributed.get_world_size(group)

    def exchange(self, mine: object) -> list[Any]:
        """What each process gave, in the order of the ranks; ``Lost`` where one died or took too long."""
        data = torch.frombuffer(bytearray(pickle.dumps(mine)), dtype=torch.uint8)
        others = [rank for rank in range(self.size) if rank != self.rank]
        sizes = {rank: torch.zeros(1, dtype=torch.int64) for rank in others}
        lost = self._swap(torch.tensor([len(data)]), sizes)
        parcels = {rank: torch.empty(int(n), dtype=torch.uint8) for rank, n in sizes.items() if rank not in lost}
        lost |= self._swap(data, parcels)
        given = {rank: pickle.loads(x.numpy().tobytes()) for rank, x in parcels.items() if rank not in lost}
        return [mine if rank == self.rank else given.get(rank, lost.get(rank)) for rank in range(self.size)]

    def _swap(self, mine: Tensor, theirs: dict[int, Tensor]) -> dict[int, Lost]:
        """Send a tensor to these processes and receive theirs; the processes with which that failed."""
        works, lost = {}, {}
        for rank, buffer in theirs.items():
            peer = distributed.get_global_rank(self.group, rank)
            try:
                works[rank] = (
                    distributed.isend(mine, peer, self.group), distributed.irecv(buffer, peer, self.group),
                )  # fmt: skip
            except RuntimeError as error:
                lost[rank] = Lost(first_line(error))
        for rank, pair in works.items():
            try:
                for work in pair:
                    work.wait()  # type: ignore[union-attr]
            except RuntimeError as error:
                lost[rank] = Lost(first_line(error))
        return lost


def check_group(group: Any) -> None:
    """Raise unless this is a group of processes that can talk about what is on the CPU."""
    if not (distributed.is_available() and distributed.is_initialized()):
        raise InputError(
            "group= is given, but this process belongs to no group. Start the script with torchrun, call "
            "`torch.distributed.init_process_group('gloo')`, and give `group=torch.distributed.group.WORLD`."
        )
    if group == distributed.GroupMember.NON_GROUP_MEMBER:
        raise InputError("This process is not in the group=. Call `ensemble` in the processes of the group only.")
    if not isinstance(group, distributed.ProcessGroup):
        raise InputTypeError(
            f"group={group!r} is no group of processes. Give `torch.distributed.group.WORLD`, or what "
            f"`torch.distributed.new_group(...)` returned."
        )
    backends = distributed.get_backend_config(group)
    if "cpu:" not in backends:
        raise InputError(
            f"The processes of group= talk through {backends}, which sends nothing that is on the CPU. Give "
            f"`group=torch.distributed.new_group(backend='gloo')` (made in all processes)."
        )


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
