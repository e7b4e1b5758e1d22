"""torchdiffeq's implicit solvers with fixed steps, under its names."""

from __future__ import annotations

import warnings
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...methods import Method, dirk, irk
from ...tolerance import Tolerance
from . import engine
from .fixed import FixedGridODESolver
from .norms import rms_norm

NEWTON = 10  # iterations, after which a stage has no solution (torchivp.linalg.newton)


class ImplicitSolver(FixedGridODESolver):
    """A built-in implicit method.

    Its stages are found by Newton's iteration to a hundredth of ``rtol`` and ``atol`` (torchdiffeq's Broyden iteration stops at
    1e-8, whatever is asked for), and their gradient by the implicit function theorem.

    Args:
        rtol, atol: of the stages.
        max_iters: for torchdiffeq, up to 100. Newton's iteration takes 10 at most: a stage that is not found then is an error.
    """

    method: ClassVar[Method]

    def __init_subclass__(cls) -> None:
        if "method" in vars(cls):
            cls.order = cls.method.order

    def __init__(
        self, func: Any, y0: Tensor, rtol: Any = 1e-7, atol: Any = 1e-9, max_iters: int = 100, norm: Any = rms_norm, **kwargs: Any
    ):  # fmt: skip
        super().__init__(func, y0, **kwargs)
        if max_iters < NEWTON:
            warnings.warn(
                f"max_iters={max_iters} is not needed: Newton's iteration ends after {NEWTON} at most.", stacklevel=2
            )
        self.tolerance = engine.tolerance_of(rtol, atol, y0, norm)

    def _refuse_abstract(self) -> None:
        """These methods need no step function."""

    def engine_method(self, times: torch.dtype) -> Method:
        return self.method

    def tolerance_of_stages(self) -> Tolerance:
        return self.tolerance


class ImplicitEuler(ImplicitSolver):
    method = dirk.ImplicitEuler()


class ImplicitMidpoint(ImplicitSolver):
    method = dirk.ImplicitMidpoint()


class Trapezoid(ImplicitSolver):
    method = dirk.Trapezoid()


class RadauIIA3(ImplicitSolver):
    method = irk.Radau3()


class GaussLegendre4(ImplicitSolver):
    """Of order 4 also where ``func`` depends on the time: torchdiffeq's nodes make it one of order 1 there."""

    method = irk.Gauss4()


class RadauIIA5(ImplicitSolver):
    method = irk.Radau5()


class GaussLegendre6(ImplicitSolver):
    method = irk.Gauss6()


class SDIRK2(ImplicitSolver):
    method = dirk.SDIRK2()


class TRBDF2(ImplicitSolver):
    method = dirk.TRBDF2()
