"""The one class of errors that a user can mend; every other error is a fault of the program."""


class UserError(ValueError):
    """Bad input: the message says in one line what, where (argument, file, line) and the remedy.

    Commands tell it in that line, with exit code 2. It is a `ValueError`, so callers of the library
    catch it as one. Errors that are not of this class keep their traceback.
    """
