"""``method="auto"``: an explicit and an implicit method that take turns."""

from __future__ import annotations

from .._types import Rows
from ..errors import InputError
from ..field import Field
from ..span import Span
from .base import History, Method, Step
from .dirk import Kvaerno5
from .erk import Tsit5, Vern7
from .rosenbrock import Rodas5P, Rosenbrock23
from .stability import Twins

TIGHT, CRUDE = 1e-6, 1e-2  # relative tolerances below and from which other methods pay
MANY = 50  # numbers in a state from which the matrices dictate the costs: fewer of them, and they need not be exact


class Auto(Method):
    """An explicit method until the problem becomes stiff, an implicit one until it no longer is, and so on.

    Stiffness is noticed from what the steps know anyway (``stiffness.Switching``): no evaluation is made to look for it, and
    a problem that is never stiff is solved exactly as by the explicit method alone. Every accepted step belongs to one of the
    two; order, error estimate and interpolant are those of the method that took it. Rows of ``batch_dims`` would have
    to switch one by one, for which both methods would have to be evaluated: they are refused. Under ``torch.func.vmap`` all
    rows switch together.

    Args:
        nonstiff: an explicit Runge-Kutta method with two stages at one time: ``tsit5``, ``dopri5``, ``dopri8``, ``vern6`` to
            ``vern9``. By default ``tsit5``, and ``vern7`` for relative tolerances below 1e-6.
        stiff: an adaptive implicit method. By default ``rodas5p``, ``rosenbrock23`` for relative tolerances from 1e-2, and
            ``kvaerno5`` for states of more than 50 numbers.

    Raises:
        InputError: for methods that do not fit.

    Example:
        >>> torchivp.solve(f, y0, (0.0, 100.0), method="auto")
        >>> torchivp.solve(f, y0, (0.0, 100.0), method=torchivp.methods.Auto("dopri5", "radau5"))

    Source of the defaults: C. Rackauckas, Q. Nie, DifferentialEquations.jl (2017), doi:10.5334/jors.151, and measurements
    (docs/stiff.md).
    """

    by_rows = False
    uses_jacobian = True
    k_are_slopes = False

    def __init__(
        self, nonstiff: str | Method | type[Method] | None = None, stiff: str | Method | type[Method] | None = None
    ):
        self.nonstiff = None if nonstiff is None else checked_nonstiff(nonstiff)
        self.stiff = None if stiff is None else checked_stiff(stiff)

    @property
    def members(self) -> tuple[Method, Method]:  # type: ignore[override]
        return self.nonstiff or Tsit5(), self.stiff or Rodas5P()

    def suited(self, rtol: float, width: int) -> Auto:
        explicit = self.nonstiff or (Tsit5() if rtol >= TIGHT else Vern7())
        small = Rosenbrock23() if rtol >= CRUDE else Rodas5P()
        return Auto(explicit, self.stiff or (small if width <= MANY else Kvaerno5()))

    @property
    def order(self) -> int:  # type: ignore[override]
        return max(method.order for method in self.members)

    @property
    def error_order(self) -> int | None:  # type: ignore[override]
        return self.members[0].error_order

    def step(self, field: Field, span: Span, y: Rows, history: History) -> Step:
        """By the explicit method: that of a solve which nobody steers."""
        return self.members[0].step(field, span, y, history)

    def dense(self, field: Field, span: Span, y: Rows, step: Step) -> Step:
        return self.members[0].dense(field, span, y, step)

    def __repr__(self) -> str:
        given = [f"{name}={x!r}" for name, x in (("nonstiff", self.nonstiff), ("stiff", self.stiff)) if x is not None]
        return f"Auto({', '.join(given)})"


def checked_nonstiff(method: str | Method | type[Method]) -> Method:
    from .table import choose_method  # which knows this class, too

    chosen = choose_method(method)
    if not chosen.adaptive:
        raise InputError(
            f"Auto got nonstiff={chosen!r}, which has no error estimate. Give an adaptive method, such as 'tsit5'."
        )
    Twins.required(chosen)
    return chosen


def checked_stiff(method: str | Method | type[Method]) -> Method:
    from .table import choose_method

    chosen = choose_method(method)
    if not (chosen.adaptive and chosen.uses_jacobian and chosen.carries == "slopes") or chosen.members is not None:
        raise InputError(
            f"Auto got stiff={chosen!r}, which is no adaptive implicit method. Give one such as 'rodas5p' or 'kvaerno5'."
        )
    return chosen
