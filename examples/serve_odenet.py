"""Trains an ODENet as one compiled graph, writes it into a file, and serves it from there without its source.

    python examples/serve_odenet.py --output-dir examples-output

The file holds machine code: another process loads it with PyTorch alone (a C++ program can, too). Needs a C++ compiler.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from odenet.data import Data, load_digits_data
from odenet.model import build_model
from picture import read_output_dir
from torch import Tensor, nn

SERVER = """
import sys, torch
model = torch._inductor.aoti_load_package(sys.argv[1])
torch.save(model(torch.load(sys.argv[2])), sys.argv[3])
print("torchivp" in sys.modules)
"""


def train(model: nn.Module, data: Data, epochs: int, batch_size: int = 128) -> None:
    """Trains the model through one graph, forwards and backwards."""
    graph = torch.compile(model, fullgraph=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(epochs):
        for batch in torch.randperm(len(data.x_train)).split(batch_size)[:-1]:  # whole batches: one size, one graph
            loss = nn.functional.cross_entropy(graph(data.x_train[batch]), data.y_train[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def write(model: nn.Module, example: Tensor, path: Path) -> Path:
    """Exports the model for batches of any size, and compiles it into a file."""
    batch = torch.export.Dim("batch", min=1, max=4096)
    program = torch.export.export(model.eval(), (example,), dynamic_shapes=({0: batch},))
    return Path(torch._inductor.aoti_compile_and_package(program, package_path=str(path)))


def serve(path: Path, x: Tensor) -> tuple[Tensor, bool]:
    """What a new process computes from the file alone, and whether it knew torchivp."""
    images, scores = path.with_name("images.pt"), path.with_name("scores.pt")
    torch.save(x, images)
    command = [sys.executable, "-c", SERVER, str(path), str(images), str(scores)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return torch.load(scores), done.stdout.strip() == "True"


def run(output_dir: Path, epochs: int = 3) -> tuple[Path, float, float, bool]:
    """Trains, writes and serves; returns the file, its accuracy, its distance from the eager model, and if torchivp was there."""
    output_dir.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    data = load_digits_data(seed=0)
    model = build_model(pixels=64, d=16, runner="compiled")
    train(model, data, epochs)
    path = write(model, data.x_train[:8], output_dir / "odenet.pt2")
    served, knew = serve(path, data.x_test)
    eager = build_model(pixels=64, d=16).eval()
    eager.load_state_dict(model.state_dict())
    with torch.no_grad():
        difference = float((served - eager(data.x_test)).abs().max())
    return path, float((served.argmax(1) == data.y_test).float().mean()), difference, knew


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    torch.set_num_threads(1)  # such small matrices gain nothing from more
    path, accuracy, difference, knew = run(read_output_dir(arguments, __doc__))
    print(f"Wrote {path} ({path.stat().st_size / 1e6:.1f} MB)")
    print(f"Served by a process {'with' if knew else 'without'} torchivp: test accuracy {accuracy:.2%}")
    print(f"Largest difference from the eager model: {difference:.1e}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
