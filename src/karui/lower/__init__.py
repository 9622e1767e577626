"""Network → Program, one rule per op."""

from karui.lower.lower import lower

__all__ = ["lower"]
