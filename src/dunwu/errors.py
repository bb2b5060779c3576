"""Errors."""

from __future__ import annotations

__all__ = ["NonFiniteError"]


class NonFiniteError(ValueError):
    """A step's loss or gradient is NaN or infinite; the step was not taken."""
