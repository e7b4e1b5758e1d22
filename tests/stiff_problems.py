"""Stiff problems with published solutions.

Sources: Test Set for IVP Solvers (F. Mazzia, C. Magherini, University of Bari, release 2.4); E. Hairer, G. Wanner, Solving
Ordinary Differential Equations II, doi:10.1007/978-3-642-05221-7. Rates of the pollution problem: J. G. Verwer, Gauss-Seidel
iteration for stiff ODEs from chemical kinetics (1994), doi:10.1137/0915076.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Stiff:
    """A problem on (0, t1).

    Attributes:
        f: of a state ``[D]``, or of rows ``[B, D]`` (times are not looked at).
        y1: the solution at ``t1``, to about 13 digits.
        atol: absolute tolerance that goes with a relative one: how small the numbers become that matter.
        counted: which numbers of the solution to compare (those that have not decayed to nothing).
    """

    f: Callable[[Tensor, Tensor], Tensor]
    y0: tuple[float, ...]
    t1: float
    y1: tuple[float, ...]
    atol: Callable[[float], float]
    counted: list[int] | None = None

    @property
    def start(self) -> Tensor:
        return torch.tensor(self.y0, dtype=torch.float64)

    def error(self, y: Tensor, rtol: float) -> float:
        """The largest error at ``t1`` in units of the tolerance."""
        end = torch.tensor(self.y1, dtype=torch.float64)
        relative = (y - end).abs() / (self.atol(rtol) + rtol * end.abs())
        return float(relative[..., self.counted or slice(None)].max())


def van_der_pol_fast(t: Tensor, y: Tensor) -> Tensor:
    a, b = y.unbind(-1)
    return torch.stack([b, ((1 - a**2) * b - a) / 1e-6], -1)


def van_der_pol(t: Tensor, y: Tensor) -> Tensor:
    a, b = y.unbind(-1)
    return torch.stack([b, 1000 * (1 - a**2) * b - a], -1)


def robertson(t: Tensor, y: Tensor) -> Tensor:
    a, b, c = y.unbind(-1)
    slow, middle, fast = 0.04 * a, 1e4 * b * c, 3e7 * b * b
    return torch.stack([middle - slow, slow - middle - fast, fast], -1)


def hires(t: Tensor, y: Tensor) -> Tensor:
    y1, y2, y3, y4, y5, y6, y7, y8 = y.unbind(-1)
    bound = 280 * y6 * y8
    return torch.stack(
        [
            -1.71 * y1 + 0.43 * y2 + 8.32 * y3 + 0.0007,
            1.71 * y1 - 8.75 * y2,
            -10.03 * y3 + 0.43 * y4 + 0.035 * y5,
            8.32 * y2 + 1.71 * y3 - 1.12 * y4,
            -1.745 * y5 + 0.43 * (y6 + y7),
            -bound + 0.69 * y4 + 1.71 * y5 - 0.43 * y6 + 0.69 * y7,
            bound - 1.81 * y7,
            -bound + 1.81 * y7,
        ],
        -1,
    )


_RATES = (
    0.35, 26.6, 12300, 0.86e-3, 0.82e-3, 15000, 0.13e-3, 24000, 16500, 9000, 0.022, 12000, 1.88, 16300, 4.8e6, 0.35e-3, 0.0175,
    1e8, 4.44e11, 1240, 2.1, 5.78, 0.0474, 1780, 3.12,
)  # fmt: skip
# Reactions as (species that react), (species that come of it); numbers from 1.
_REACTIONS = (
    ((1,), (2, 3)), ((2, 4), (1,)), ((5, 2), (1, 6)), ((7,), (5, 5, 8)), ((7,), (8,)), ((7, 6), (5, 8)), ((9,), (10, 5, 8)),
    ((9, 6), (11,)), ((11, 2), (1, 10, 12)), ((11, 1), (13,)), ((13,), (11, 1)), ((10, 2), (14, 1)), ((14,), (7, 5)),
    ((1, 6), (15,)), ((3,), (4,)), ((4,), (16,)), ((4,), (3,)), ((16,), (6, 6)), ((16,), (3,)), ((17, 6), (18, 5)),
    ((19,), (2,)), ((19,), (1, 3)), ((1, 4), (19,)), ((19, 1), (20,)), ((20,), (19, 1)),
)  # fmt: skip


def _pollution() -> Callable[[Tensor, Tensor], Tensor]:
    change = torch.zeros(25, 20, dtype=torch.float64)
    for i, (before, after) in enumerate(_REACTIONS):
        for s in before:
            change[i, s - 1] -= 1
        for s in after:
            change[i, s - 1] += 1
    rates = torch.tensor(_RATES, dtype=torch.float64)
    first = torch.tensor([before[0] - 1 for before, _ in _REACTIONS])
    second = torch.tensor([before[1] - 1 if len(before) > 1 else 20 for before, _ in _REACTIONS])

    def pollution(t: Tensor, y: Tensor) -> Tensor:
        with_one = torch.cat([y, torch.ones_like(y[..., :1])], -1)
        return (rates * with_one[..., first] * with_one[..., second]) @ change

    return pollution


_HIRES_END = (
    0.7371312573325668e-3, 0.1442485726316185e-3, 0.5888729740967575e-4, 0.1175651343283149e-2, 0.2386356198831331e-2,
    0.6238968252742796e-2, 0.2849998395185769e-2, 0.2850001604814231e-2,
)  # fmt: skip
_POLLUTION_START = (0, 0.2, 0, 0.04, 0, 0, 0.1, 0.3, 0.01, 0, 0, 0, 0, 0, 0, 0, 0.007, 0, 0, 0)
_POLLUTION_END = (
    0.5646255480022769e-01, 0.1342484130422339e00, 0.4139734331099427e-08, 0.5523140207484359e-02, 0.2018977262302196e-06,
    0.1464541863493966e-06, 0.7784249118997964e-01, 0.3245075353396018e00, 0.7494013383880406e-02, 0.1622293157301561e-07,
    0.1135863833257075e-07, 0.2230505975721359e-02, 0.2087162882798630e-03, 0.1396921016840158e-04, 0.8964884856898295e-02,
    0.4352846369330103e-17, 0.6899219696263405e-02, 0.1007803037365946e-03, 0.1772146513969984e-05, 0.5682943292316392e-04,
)  # fmt: skip

STIFF = {
    "van der Pol, 1e-6": Stiff(
        van_der_pol_fast, (2, 0), 2, (1.706167732170483, -0.8928097010247975), lambda rtol: rtol
    ),
    "van der Pol, 1000": Stiff(
        van_der_pol, (2, 0), 2000, (1.706167732170469, -0.8928097010248125e-3), lambda rtol: 1e-3 * rtol
    ),
    "Robertson": Stiff(
        robertson,
        (1, 0, 0),
        1e11,
        (0.2083340149701255e-7, 0.8333360770334713e-13, 0.9999999791665050),
        lambda rtol: 1e-6 * rtol,
    ),
    "HIRES": Stiff(hires, (1, 0, 0, 0, 0, 0, 0, 0.0057), 321.8122, _HIRES_END, lambda rtol: 1e-4 * rtol),
    "pollution": Stiff(
        _pollution(),
        _POLLUTION_START,
        60,
        _POLLUTION_END,
        lambda rtol: 1e-2 * rtol,
        [i for i in range(20) if i != 15],  # 4e-18
    ),
}
