"""Names of ``torchdiffeq._impl.misc``."""

from ..fixed import handle_unused_kwargs as _handle_unused_kwargs
from ..functions import ADJOINT_CALLBACKS, CALLBACKS, Perturb
from ..functions import PerturbFunc as _PerturbFunc
from ..functions import ReverseFunc as _ReverseFunc
from ..functions import TupleFunc as _TupleFunc
from ..functions import TupleInputOnlyFunc as _TupleInputOnlyFunc
from ..functions import flat_to_shape as _flat_to_shape
from ..functions import nextafter as _nextafter
from ..functions import null_callback as _null_callback
from ..inputs import check_inputs as _check_inputs
from ..inputs import flat_tolerance as _tuple_tol
from ..norms import linf_norm as _linf_norm
from ..norms import mixed_norm as _mixed_norm
from ..norms import rms_norm as _rms_norm
from ..norms import zero_norm as _zero_norm
from ..stepping import compute_error_ratio as _compute_error_ratio
from ..stepping import optimal_step_size as _optimal_step_size
from ..stepping import select_initial_step as _select_initial_step

_all_callback_names = list(CALLBACKS)
_all_adjoint_callback_names = list(ADJOINT_CALLBACKS)

__all__ = [
    "Perturb", "_PerturbFunc", "_ReverseFunc", "_TupleFunc", "_TupleInputOnlyFunc", "_all_adjoint_callback_names",
    "_all_callback_names", "_check_inputs", "_compute_error_ratio", "_flat_to_shape", "_handle_unused_kwargs",
    "_linf_norm", "_mixed_norm", "_nextafter", "_null_callback", "_optimal_step_size", "_rms_norm", "_select_initial_step",
    "_tuple_tol", "_zero_norm",
]  # fmt: skip
