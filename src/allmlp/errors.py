"""What the package raises when the person, not the program, can mend it."""


class InputError(ValueError):
    """Bad input. The message says what was wanted, what came, and what to type instead.

    The command line prints it as one plain paragraph and exits with status 2; from Python it is a `ValueError`.
    """
