"""The exception for bad input, and the warning for input to be checked."""


class InputError(ValueError):
    """Bad input, in one line: what was found where, what was expected, and a way out."""


class InputWarning(UserWarning):
    """Input that can be used but may be wrong, in one line: what was found where, and what to check."""
