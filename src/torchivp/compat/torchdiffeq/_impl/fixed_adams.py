"""Names of ``torchdiffeq._impl.fixed_adams``."""

from ..fixed import AdamsBashforth, AdamsBashforthMoulton

__all__ = ["AdamsBashforth", "AdamsBashforthMoulton"]
