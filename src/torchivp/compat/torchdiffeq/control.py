"""torchdiffeq's settings of the step-size control, also those that ``PID`` refuses."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...controllers import PID, FixedSteps, Verdict
from ...controllers.base import Memory, RowMemory, RowVerdict
from ...errors import InputError
from .errors import StepCountError


class AsAsked(PID):
    """Step-size control with any settings that torchdiffeq takes, such as constant steps (both factors 1), and with its rule that
    a step which was good enough is not followed by a shorter one."""

    def __post_init__(self) -> None:
        if not (0 <= self.min_factor <= 1 <= self.max_factor and self.max_step > 0):
            raise InputError(
                f"dfactor={self.min_factor}, ifactor={self.max_factor}, max_step={self.max_step}: the steps could not get "
                f"anywhere. Choose 0 <= dfactor <= 1 <= ifactor, for example 0.2 and 10, and a positive max_step."
            )

    def judge(self, ratio: float, dt: float, memory: Memory, error_order: int) -> Verdict:
        verdict = super().judge(ratio, dt, memory, error_order)
        again = not verdict.accepted and verdict.dt >= dt  # the same step would be rejected for ever
        if again:
            return verdict._replace(dt=0.2 * dt)
        return verdict._replace(dt=max(verdict.dt, min(dt, self.max_step))) if ratio < 1 else verdict

    def judge_rows(self, ratio: Tensor, dt: Tensor, memory: RowMemory, error_order: int) -> RowVerdict:
        verdict = super().judge_rows(ratio, dt, memory, error_order)
        again = ~verdict.accepted & (verdict.dt >= dt)
        longer = torch.where(ratio < 1, torch.maximum(verdict.dt, dt.clamp(max=self.max_step)), verdict.dt)
        return verdict._replace(dt=torch.where(again, 0.2 * dt, longer))


class AnyState(FixedSteps):
    """Fixed steps that go on from any state, be it nan."""

    def judge_rows(self, ratio: Tensor, dt: Tensor, memory: RowMemory, error_order: int) -> RowVerdict:
        return RowVerdict(torch.ones_like(ratio, dtype=torch.bool), dt, memory)


def whole(max_num_steps: Any) -> int:
    """A number of steps as an integer."""
    try:
        return int(max_num_steps)
    except (OverflowError, ValueError):
        raise StepCountError(
            f"max_num_steps={max_num_steps} is no number of steps. Give an integer, or leave it out for no limit."
        ) from None
