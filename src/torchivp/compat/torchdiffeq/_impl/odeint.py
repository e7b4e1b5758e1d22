"""Names of ``torchdiffeq._impl.odeint``. Put a class of your own into ``SOLVERS`` to use it by name."""

from ..events import odeint_event
from ..forward import odeint, odeint_dense
from ..solvers import SOLVERS

__all__ = ["SOLVERS", "odeint", "odeint_dense", "odeint_event"]
