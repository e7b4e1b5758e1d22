"""Robertson's three reaction rates from noisy measurements of a stiff solve: Gauss-Newton on their logarithms.

python examples/recover_rates.py --output-dir examples-output
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from picture import plt, read_output_dir, save
from torch import Tensor

import torchivp

RATES = torch.tensor([0.04, 1e4, 3e7], dtype=torch.float64)
GUESS = RATES * torch.tensor([3.0, 0.2, 4.0], dtype=torch.float64)
START = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
TIMES = torch.cat([torch.zeros(1, dtype=torch.float64), torch.logspace(-5, 4, 40, dtype=torch.float64)])
NOISE = 0.01  # of every measurement, relative
ITERATIONS = 12


def reactions(t: Tensor, y: Tensor, rates: Tensor) -> Tensor:
    """A -> B slowly, B + C -> A + C fast, 2 B -> B + C very fast."""
    a, b, c = y.unbind(-1)
    slow, back, fast = rates[0] * a, rates[1] * b * c, rates[2] * b * b
    return torch.stack([back - slow, slow - back - fast, fast], -1)


def concentrations(logs: Tensor) -> Tensor:
    """At ``TIMES``, ``[41, 3]``; a rate is positive, and known by its logarithm."""
    how = {"method": "rodas5p", "rtol": 1e-6, "atol": 1e-12, "gradient": "forward"}
    return torchivp.solve(reactions, START, TIMES, logs.exp(), **how).y


def misfit(logs: Tensor, data: Tensor) -> Tensor:
    """Logarithms of the first two concentrations against the measured ones, in units of the noise."""
    return ((concentrations(logs)[1:, :2].log() - data.log()) / NOISE).flatten()


def recover(data: Tensor) -> tuple[Tensor, Tensor, list[float]]:
    """The logarithms of the rates, their standard errors, and the root mean square misfit before every iteration."""
    logs, history = GUESS.log(), []
    for _ in range(ITERATIONS):
        jacobian = torch.func.jacfwd(misfit)(logs, data)
        off = misfit(logs, data)
        history.append(float(off.square().mean().sqrt()))
        step = torch.linalg.lstsq(jacobian, off[:, None]).solution[:, 0]
        logs = logs - step.clamp(-1, 1)  # at most a factor e in an iteration
        if float(step.abs().max()) < 1e-6:
            break
    return logs, torch.linalg.inv(jacobian.T @ jacobian).diagonal().sqrt(), history


def run(output_dir: Path) -> tuple[Path, Tensor, Tensor]:
    """Measures, recovers, draws, and returns the picture's path, the rates found over the true ones, and their errors."""
    generator = torch.Generator().manual_seed(0)
    exact = concentrations(RATES.log())
    scatter = torch.randn(len(TIMES) - 1, 2, dtype=torch.float64, generator=generator)
    data = exact[1:, :2] * (NOISE * scatter).exp()
    logs, errors, history = recover(data)
    first, last = concentrations(GUESS.log()), concentrations(logs)

    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    for axes, i, name in ((left, 0, "A"), (middle, 1, "B")):
        axes.plot(TIMES[1:], data[:, i], "k.", ms=5, label="measured")
        axes.plot(TIMES[1:], first[1:, i], "C1--", lw=1, label="with the first guess")
        axes.plot(TIMES[1:], last[1:, i], "C0", lw=1.5, label="with the rates found")
        axes.set(title=f"Concentration of {name}", xlabel="t", xscale="log")
        axes.legend(fontsize="small")
    middle.set(yscale="log")
    right.semilogy(range(len(history)), history, "o-")
    right.axhline(1, color="0.7", lw=1)
    right.set(title="Misfit in units of the noise", xlabel="iteration of Gauss-Newton")
    for axes in (left, middle, right):
        axes.grid(alpha=0.3)
    return save(figure, output_dir / "recover_rates.png"), logs.exp() / RATES, errors


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    path, ratios, errors = run(read_output_dir(arguments, __doc__))
    found = ", ".join(f"{float(r * k):.4g} (true {float(k):.4g})" for r, k in zip(ratios, RATES))
    print(f"Robertson's rates from data with {NOISE:.0%} noise: {found}. Wrote {path}")
    return 0 if bool(((ratios - 1).abs() < 5 * errors).all()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
