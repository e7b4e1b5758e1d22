"""Names of ``torchdiffeq._impl.fehlberg2``."""

from ..adaptive import Fehlberg2

_FEHLBERG2_TABLEAU = Fehlberg2.tableau
_FE_C_MID = Fehlberg2.mid

__all__ = ["_FE_C_MID", "_FEHLBERG2_TABLEAU", "Fehlberg2"]
