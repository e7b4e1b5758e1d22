"""From the arguments ``jac`` and ``jac_sparsity`` to a piece."""

from __future__ import annotations

from typing import Any

from ..errors import InputError
from ..state import Layout
from .jacobian import Autograd, Given, Jacobian
from .krylov import MatrixFree
from .structured import Banded, Sparse

LARGE = 2_000  # numbers in a row from which the entries of its matrix are too many to be found and factorised


def choose_jacobian(jac: Any, jac_sparsity: Any, layout: Layout, used: bool, method: object) -> Jacobian | None:
    """How to come by Jacobians; None if nobody asks for them.

    Args:
        used: the method does.
    """
    given = [name for name, x in (("jac", jac), ("jac_sparsity", jac_sparsity)) if x is not None]
    if given and not used:
        raise InputError(
            f"{given[0]} is about the Jacobian of f, and {method!r} asks for none. Leave it out, or take an implicit method such "
            f"as 'rodas5p'."
        )
    if len(given) == 2:
        raise InputError(
            "jac says what the Jacobian is, and jac_sparsity how to find it. Give one of them; a band is also "
            "jac=torchivp.linalg.Banded(lower, upper)."
        )
    if not used:
        return None
    if jac_sparsity is not None:
        return from_sparsity(jac_sparsity)
    if jac is None:
        return Autograd() if layout.width <= LARGE else MatrixFree()
    return jac if isinstance(jac, Jacobian) else Given(jac)


def from_sparsity(pattern: Any) -> Jacobian:
    """A band for a pair ``(lower, upper)``, and for a pattern that is a narrow one."""
    if isinstance(pattern, tuple) and len(pattern) == 2 and all(isinstance(x, int) for x in pattern):
        return Banded(*pattern)
    sparse = Sparse(pattern)
    n = len(sparse.pattern)
    off = [i - j for i, j in zip(*(x.tolist() for x in sparse.pattern.nonzero()))]
    lower, upper = max([0, *off]), -min([0, *off])
    narrow = lower == upper == 0 or 4 * (lower + upper + 1) <= n
    return Banded(lower, upper) if narrow else sparse
