"""The errors that a user can mend."""

from tl_lightning.redact import redacted_text

LONGEST = 300


class UserError(Exception):
    """A fault of the configuration, the data or the surroundings, told in one short message.

    The message names the value, what is allowed and what to type instead.  The command line prints
    it without a traceback and ends with exit code 2.
    """


class ToldError(Exception):
    """A fault of another process of a run, which has said what there is to say."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


def first_line(fault: BaseException) -> str:
    """What a library's fault says, in one line of a message; its name where it says nothing."""
    return (redacted_text(str(fault)).strip().splitlines() or [type(fault).__name__])[0][:LONGEST]
