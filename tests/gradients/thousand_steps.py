"""What a thousand training steps leave behind; `test_leaks.py` runs it, in a process without its run-time type checks.

python thousand_steps.py        # one JSON line: by gradient, growth in live tensors, Python's blocks, and bytes of the process
"""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from torchivp.nn import ODEBlock

STATM = Path("/proc/self/statm")


def net(gradient: str) -> nn.Sequential:
    func = nn.Sequential(nn.Linear(8, 8), nn.Tanh())
    return nn.Sequential(nn.Linear(8, 8), ODEBlock(func, method="euler", dt=0.5, gradient=gradient), nn.Linear(8, 1))


def train(model: nn.Module, steps: int) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    x = torch.randn(256, 8)
    for _ in range(steps):
        optimizer.zero_grad()
        (model(x) ** 2).mean().backward()
        optimizer.step()


def held() -> tuple[int, int, int]:
    """Live tensors, blocks of Python's memory, and bytes of the process (0 where /proc is not)."""
    gc.collect()
    tensors = sum(issubclass(type(x), Tensor) for x in gc.get_objects())
    pages = int(STATM.read_text().split()[1]) if STATM.exists() else 0
    return tensors, sys.getallocatedblocks(), 4096 * pages


def growth(gradient: str) -> list[int]:
    model = net(gradient)
    train(model, 300)
    before = held()
    train(model, 1000)
    return [b - a for a, b in zip(before, held())]


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps({gradient: growth(gradient) for gradient in sys.argv[1:]}))
