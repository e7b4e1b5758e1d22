"""The contract of a step-size controller."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

Memory = tuple[float, ...]
"""Error ratios of the accepted steps before, newest first."""


class Verdict(NamedTuple):
    """What a controller says about an attempted step.

    Attributes:
        accepted: go on from the end of the step, or try again from its start.
        dt: size of the next attempt, in the units of ``t``.
        memory: what the controller wants to remember.
    """

    accepted: bool
    dt: float
    memory: Memory


RowMemory = tuple[Tensor, ...]
"""The same for every row of a batch, each ``[B]``."""


class RowVerdict(NamedTuple):
    """A verdict for every row of a batch, ``[B]``."""

    accepted: Tensor
    dt: Tensor
    memory: RowMemory


class Controller(ABC):
    """Judges steps.

    Attributes:
        adaptive: it needs the method's error estimate.
        min_step, max_step: no step is shorter or longer, in the units of ``t`` (but for those cut at a limit).
    """

    adaptive: bool
    min_step: float = 0.0
    max_step: float = math.inf

    def first_step(self, end: float) -> float:
        """The first proposal of a controller that is not adaptive (the others start with Hairer's)."""
        return math.inf

    @abstractmethod
    def judge(self, ratio: float, dt: float, memory: Memory, error_order: int) -> Verdict:
        """
        Args:
            ratio: error over tolerance of the attempted step (may be nan or inf); 0 without an estimate.
            dt: its size.
            memory: of the last accepted step.
            error_order: ``ratio`` scales like ``dt ** error_order``.
        """

    def judge_rows(self, ratio: Tensor, dt: Tensor, memory: RowMemory, error_order: int) -> RowVerdict:
        """``judge`` for the rows of a batch, all arguments ``[B]`` (float64). A faster one may stand beside ``judge``."""
        past = list(zip(*(m.tolist() for m in memory))) or [()] * len(ratio)
        verdicts = [self.judge(r, h, m, error_order) for r, h, m in zip(ratio.tolist(), dt.tolist(), past)]
        return RowVerdict(
            accepted=torch.tensor([v.accepted for v in verdicts], device=dt.device),
            dt=dt.new_tensor([v.dt for v in verdicts]),
            memory=tuple(dt.new_tensor(column) for column in zip(*(v.memory for v in verdicts))),
        )

    @abstractmethod
    def grid(self, t: list[float]) -> list[float]:
        """Times every solve with this controller lands on, between ``t[0]`` and ``t[-1]`` (none for adaptive steps)."""
