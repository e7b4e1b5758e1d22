"""Trains an ODENet on scikit-learn's handwritten digits in several processes, each with its share of every batch.

    torchrun --standalone --nproc-per-node 2 examples/train_distributed.py
    python examples/train_distributed.py                                         # the same training in one process

The processes talk through gloo, so a laptop will do. Every process chooses the steps of its own solves; they meet once in a
training step, when DistributedDataParallel averages their gradients.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence

import torch
import torch.distributed as dist
from odenet.data import load_digits_data
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from torchivp.nn import ODEBlock


def build_model() -> nn.Sequential:
    """Images ``[B, 64]`` to scores ``[B, 10]``. No BatchNorm: its statistics would be those of each process's share."""
    func = nn.Sequential(nn.Linear(32, 64), nn.Tanh(), nn.Linear(64, 32), nn.Tanh())
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), ODEBlock(func, rtol=1e-3, atol=1e-3), nn.Linear(32, 10))


def run(epochs: int, batch_size: int) -> float:
    """Train, and return the accuracy on the test images."""
    rank, size = dist.get_rank(), dist.get_world_size()
    data = load_digits_data(seed=0)
    torch.manual_seed(0)  # the same weights and the same shuffling in every process
    model = DistributedDataParallel(build_model())
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    share = batch_size // size
    for epoch in range(1, epochs + 1):
        started, total = time.perf_counter(), 0.0
        batches = torch.randperm(len(data.x_train)).split(batch_size)[:-1]  # the last one is smaller: left out
        for batch in batches:
            mine = batch[rank * share : (rank + 1) * share]
            loss = nn.functional.cross_entropy(model(data.x_train[mine]), data.y_train[mine])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
        if rank == 0:
            print(f"epoch {epoch:2d}: loss {total / len(batches):.4f}, {time.perf_counter() - started:.1f} s")
    with torch.no_grad():
        accuracy = (model.module(data.x_test).argmax(dim=1) == data.y_test).double().mean().item()
    if rank == 0:
        print(f"Test accuracy after {epochs} epochs in {size} process(es): {accuracy:.2%}")
    return accuracy


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=128, help="of all processes together")
    flags = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if "RANK" in os.environ:  # started by torchrun
        dist.init_process_group("gloo")
    else:
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        run(flags.epochs, flags.batch_size)
    finally:
        dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
