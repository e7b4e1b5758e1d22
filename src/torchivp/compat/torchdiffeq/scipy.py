"""SciPy's solvers under the name ``scipy_solver``: values only, no gradients through them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import GradientError
from .errors import NotSupportedError, ScipyError
from .fixed import handle_unused_kwargs

_WITH_MIN_STEP = {"LSODA"}


class ScipyWrapperODESolver:
    """``scipy.integrate.solve_ivp`` on the flattened state.

    Args:
        func, y0, rtol, atol: as for the other solvers.
        min_step, max_step: limits of the step size, for SciPy's methods that have them.
        solver: SciPy's method: "RK45", "RK23", "DOP853", "Radau", "BDF" or "LSODA".
    """

    def __init__(
        self, func: Callable[..., Any], y0: Tensor, rtol: Any, atol: Any, min_step: float = 0,
        max_step: float = float("inf"), solver: str = "LSODA", **unused_kwargs: Any,
    ):  # fmt: skip
        for name in ("norm", "grid_points", "eps"):
            unused_kwargs.pop(name, None)
        handle_unused_kwargs(self, unused_kwargs)
        self.func = func
        self.y0 = y0
        self.rtol = _numpy(rtol)
        self.atol = _numpy(atol)
        self.min_step = min_step
        self.max_step = max_step
        self.solver = solver

    @classmethod
    def valid_callbacks(cls) -> set[str]:
        return set()

    def integrate(self, t: Tensor) -> Tensor:
        """Values ``[T, *y0.shape]``; asking for a gradient through them is an error, never a silent zero."""
        values = self._solve(t) if len(t) > 1 else self.y0.detach().unsqueeze(0)
        wanted = self._wants_gradient(t)
        return _NoGradient.apply(values, *wanted) if wanted else values

    def integrate_until_event(self, t0: Tensor, event_fn: Callable[..., Tensor]) -> tuple[Tensor, Tensor]:
        raise NotSupportedError(
            "'scipy_solver' has no integrate_until_event: it cannot find events. Take another method."
        )

    def _solve(self, t: Tensor) -> Tensor:
        from scipy.integrate import solve_ivp

        times = t.detach().cpu().double().numpy()
        y0 = self.y0.detach().cpu()
        limits = {"min_step": self.min_step} if self.min_step or self.solver in _WITH_MIN_STEP else {}
        sol = solve_ivp(
            self._numpy_func, (times[0], times[-1]), (y0 if y0.is_complex() else y0.double()).reshape(-1).numpy(),
            t_eval=times, method=self.solver, rtol=self.rtol, atol=self.atol, max_step=self.max_step, **limits,
        )  # fmt: skip
        values = torch.from_numpy(np.ascontiguousarray(sol.y.T)).to(self.y0)
        if not sol.success or len(values) != len(t):
            raise ScipyError(
                f"SciPy's {self.solver} stopped at t={sol.t[-1] if len(sol.t) else times[0]:g} after {len(values)} of "
                f"{len(t)} output times: {sol.message} The solution may have a singularity there; try a shorter interval or "
                f"other tolerances."
            )
        return values.view(len(t), *self.y0.shape)

    def _numpy_func(self, t: float, y: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            slope = self.func(torch.tensor(t).to(self.y0.real), torch.from_numpy(y).to(self.y0).view(self.y0.shape))
        return slope.expand(self.y0.shape).detach().cpu().reshape(-1).numpy()

    def _wants_gradient(self, t: Tensor) -> list[Tensor]:
        """The tensors that a differentiable solver would carry gradients to (here: to an error)."""
        if not torch.is_grad_enabled():
            return []
        slope = self.func(t[0], self.y0)
        return [x for x in (self.y0, t, slope) if isinstance(x, Tensor) and x.requires_grad]


def _numpy(tol: Any) -> Any:
    return tol.detach().cpu().numpy() if isinstance(tol, Tensor) else tol


class _NoGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, *wanted: Tensor) -> Tensor:
        return values

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise GradientError(
            "A gradient was asked for through 'scipy_solver', which works outside autograd. Use odeint_adjoint (its backward "
            "solve may use 'scipy_solver', too), or a method such as 'dopri5'; for values only, call .detach()."
        )
