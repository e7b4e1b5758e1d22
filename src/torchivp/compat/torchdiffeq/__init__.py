"""torchdiffeq's functions on torchivp's engine; also as ``from torchivp import odeint, ...``.

Change one import. What is different, on purpose:

- ``func`` is never asked past ``t[-1]`` (nor before ``t[0]``); only an event has no end, as in torchdiffeq.
- Values between the steps are as accurate as the steps. Fixed steps interpolate with a cubic unless ``interp="linear"``.
- ``odeint_adjoint`` is one backward solve that lands on every output. Its default norm leaves the gradients of the
  parameters out ("seminorm"); a function given as norm sees them. Gradients of times need no integral.
- Adams methods are correct on uneven grids, and by default of order 4 (explicit) and 8 (implicit), which are stable.
- nan and inf are called by name instead of "underflow in dt 0.0", except that fixed steps return them, as in torchdiffeq.
- ``scipy_solver`` raises where SciPy failed, and where a gradient is asked through it.
- ``odeint_dense`` takes any method, tuples, many times and both directions, and is differentiable in its ends.
- ``odeint_event`` also gives the parameters of ``event_fn`` their gradients.
- ``step_t`` and ``jump_t`` may be lists; none is lost, in either direction, forwards and backwards.
- Tolerances for each entry work with ``odeint_adjoint``.
- Constant steps that miss the tolerance are shortened instead of tried for ever; steps of no length are not taken.
- A subclass that overrides ``_adaptive_step`` or its kin takes torchdiffeq's steps itself, past the end (see ``stepping``).
- Exceptions are of the types torchdiffeq raises and of ``torchivp.TorchIVPError`` as well.
"""

from .adjoint import odeint_adjoint
from .events import odeint_event
from .forward import odeint, odeint_dense

__version__ = "0.2.5"
"""The version of torchdiffeq whose interface this is; programs compare it."""

__all__ = ["__version__", "odeint", "odeint_adjoint", "odeint_dense", "odeint_event"]
