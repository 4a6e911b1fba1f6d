"""The one exception that users see."""

from __future__ import annotations


class InputError(ValueError):
    """Bad input, said in one sentence: what was found where, what was wanted, and the way out."""
