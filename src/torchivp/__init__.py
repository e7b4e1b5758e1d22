"""torchivp: initial value problems in PyTorch, solved fast, correctly and differentiably."""

from . import compat, gradients, manifolds, methods, nn
from ._version import __version__
from .compat.torchdiffeq import odeint, odeint_adjoint, odeint_dense, odeint_event
from .controllers import PI, PID, FixedSteps, I
from .ensemble import ensemble
from .errors import (
    GradientError,
    InputError,
    InputTypeError,
    NotCompilable,
    NotCompiledWarning,
    OutputError,
    PrecisionWarning,
    SolveError,
    StiffnessWarning,
    TorchIVPError,
)
from .events import Event, SteadyState
from .forcing import Interpolation
from .partitioned import Hamiltonian, Partitioned, SecondOrder
from .per_sample.solution import BatchSolution
from .runners import Compilation, compilations
from .solution import Solution, Stats, Status
from .solve import solve
from .split import Split

__all__ = [
    "BatchSolution",
    "Compilation",
    "Event",
    "FixedSteps",
    "GradientError",
    "Hamiltonian",
    "I",
    "InputError",
    "InputTypeError",
    "NotCompilable",
    "NotCompiledWarning",
    "Interpolation",
    "OutputError",
    "PI",
    "PID",
    "Partitioned",
    "PrecisionWarning",
    "SecondOrder",
    "Solution",
    "SolveError",
    "Split",
    "Stats",
    "Status",
    "SteadyState",
    "StiffnessWarning",
    "TorchIVPError",
    "__version__",
    "compat",
    "compilations",
    "ensemble",
    "gradients",
    "manifolds",
    "methods",
    "nn",
    "odeint",
    "odeint_adjoint",
    "odeint_dense",
    "odeint_event",
    "solve",
]
