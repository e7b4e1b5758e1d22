"""Names of ``torchdiffeq._impl.adjoint``."""

from ..adjoint import find_parameters, handle_adjoint_norm_, odeint_adjoint
from ..backward import OdeintAdjointMethod

__all__ = ["OdeintAdjointMethod", "find_parameters", "handle_adjoint_norm_", "odeint_adjoint"]
