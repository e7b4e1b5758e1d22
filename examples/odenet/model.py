"""The ODENet, and the same network with its block removed."""

from __future__ import annotations

from torch import nn

from torchivp.nn import ODEBlock


def build_func(d: int, hidden: int = 124) -> nn.Sequential:
    """The right-hand side ``f(x)`` of the block: it maps ``[B, d]`` to ``[B, d]``, each entry in (-1, 1)."""
    return nn.Sequential(
        nn.Linear(d, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, d), nn.Tanh()
    )


def build_model(
    pixels: int,
    d: int = 32,
    *,
    method: str = "tsit5",
    tol: float = 1e-3,
    gradient: str = "discrete",
    runner: str = "eager",
) -> nn.Sequential:
    """The ODENet: images ``[B, pixels]`` to the scores of the ten digits ``[B, 10]``.

    Args:
        pixels: numbers per image.
        d: width of the state that the block carries from time 0 to time 1.
        method: solver of the block, such as ``"tsit5"`` or ``"dopri5"``.
        tol: its relative and absolute tolerance.
        gradient: how the block is differentiated: ``"discrete"``, ``"direct"`` or ``"adjoint"``.
        runner: how it is solved: ``"eager"`` or ``"compiled"``.
    """
    settings = {"method": method, "rtol": tol, "atol": tol, "gradient": gradient, "runner": runner}
    block = ODEBlock(build_func(d), t=(0.0, 1.0), **settings)
    return nn.Sequential(nn.Linear(pixels, d), nn.ReLU(), nn.BatchNorm1d(d), block, nn.BatchNorm1d(d), nn.Linear(d, 10))


def build_model_without_block(pixels: int, d: int = 32) -> nn.Sequential:
    """The same network with the block removed, for comparison."""
    return nn.Sequential(nn.Linear(pixels, d), nn.ReLU(), nn.BatchNorm1d(d), nn.BatchNorm1d(d), nn.Linear(d, 10))


def find_block(model: nn.Module) -> ODEBlock | None:
    """The first ODEBlock inside ``model``, or None."""
    return next((module for module in model.modules() if isinstance(module, ODEBlock)), None)
