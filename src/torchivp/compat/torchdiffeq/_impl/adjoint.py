"""Names of ``torchdiffeq._impl.adjoint``."""

from ..adjoint import OdeintAdjointMethod, find_parameters, handle_adjoint_norm_, odeint_adjoint

__all__ = ["OdeintAdjointMethod", "find_parameters", "handle_adjoint_norm_", "odeint_adjoint"]
