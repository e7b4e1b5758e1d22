"""Geometric methods, for systems in two parts (see ``partitioned``), one file each."""

from .leapfrog import Leapfrog
from .mclachlan4 import McLachlan4
from .rkn4 import RKN4
from .splitting import Splitting, SplittingMethod
from .yoshida4 import Yoshida4
from .yoshida6 import Yoshida6

__all__ = ["RKN4", "Leapfrog", "McLachlan4", "Splitting", "SplittingMethod", "Yoshida4", "Yoshida6"]
