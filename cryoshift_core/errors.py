"""The exception for bad input."""


class InputError(ValueError):
    """Bad input, in one line: what was found where, what was expected, and a way out."""
