"""Training does not gather memory, and a graph goes when its outputs go."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

import torchivp
from torchivp.nn import ODEBlock

GRADIENTS = ["discrete", "direct", "adjoint"]


def test_a_thousand_steps_leave_nothing_behind() -> None:
    """One state (8 kB) or graph kept per step would show, be it Python's or C++'s."""
    script = Path(__file__).with_name("thousand_steps.py")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, str(script), *GRADIENTS], env=env, capture_output=True, text=True, timeout=200
    )
    assert run.returncode == 0, run.stderr
    for gradient, (tensors, blocks, size) in json.loads(run.stdout).items():
        assert tensors == 0, gradient
        assert blocks < 1000, gradient
        assert size < 4 * 2**20, gradient


class NoCollector:
    """What goes here goes without the garbage collector: nothing holds itself in a circle."""

    def __enter__(self) -> None:
        gc.collect()
        gc.disable()

    def __exit__(self, *_: object) -> None:
        gc.enable()


def nodes(y: Tensor) -> Iterator[Node]:
    todo, seen = [y.grad_fn], set()
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            todo.extend(next_node for next_node, _ in node.next_functions)
            yield node


class Mark(nn.Module):
    """Remembers weakly what passed through it, and what backward still needs of it: the saved input of the sine."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[weakref.ref[Tensor]] = []

    def forward(self, y: Tensor) -> Tensor:
        z = torch.sin(y)
        self.seen.append(weakref.ref(z))
        return z * z


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("gradient", GRADIENTS)
def test_the_graph_goes_with_the_output(gradient: str, backward: bool) -> None:
    """The layer before the block, the tape, and what f made: all gone as soon as nobody holds the output."""
    before, inside = Mark(), Mark()
    block = ODEBlock(nn.Sequential(nn.Linear(2, 2), inside), method="rk4", dt=0.5, gradient=gradient)
    block(before(torch.randn(3, 2, requires_grad=True))).sum().backward()  # whatever is made once is made now
    before.seen.clear()
    with NoCollector():
        y = block(before(torch.randn(3, 2, requires_grad=True)))
        holders = [
            weakref.ref(x) for n in nodes(y) for x in (getattr(n, "replay", None), getattr(n, "pass_back", None)) if x
        ]
        assert bool(holders) == (gradient != "direct")
        if backward:
            y.sum().backward()
        del y
        assert not [ref for ref in [*before.seen, *inside.seen, *holders] if ref() is not None]


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_a_solution_goes(gradient: str) -> None:
    """With everything it keeps, and one that failed with its error."""
    w = torch.tensor(0.7, requires_grad=True)
    dense = gradient != "adjoint"
    events = torchivp.Event(lambda t, y: y[0] - 1.05) if dense else ()
    with NoCollector():
        y0 = torch.ones(2, requires_grad=True)
        sol = torchivp.solve(lambda t, y: w * y, y0 * 1, (0.0, 0.5, 1.0), gradient=gradient, dense=dense, events=events)
        sol.y.sum().backward()
        gone = [weakref.ref(sol), weakref.ref(sol.y)]
        del sol
        try:
            torchivp.solve(lambda t, y: w * y * y, y0 * 1, 2.0, gradient=gradient)
        except torchivp.SolveError as error:
            gone += [weakref.ref(error), weakref.ref(error.solution)]
        assert len(gone) == 4
        assert not [ref for ref in gone if ref() is not None]
