"""The errors that a user can mend."""

LONGEST = 300


class UserError(Exception):
    """A fault of the configuration, the data or the surroundings, told in one short message.

    The message names the value, what is allowed and what to type instead.  The command line prints
    it without a traceback and ends with exit code 2.
    """


def first_line(fault: BaseException) -> str:
    """What a library's fault says, in one line of a message; its name where it says nothing."""
    return (str(fault).strip().splitlines() or [type(fault).__name__])[0][:LONGEST]
