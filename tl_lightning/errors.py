"""The errors that a user can mend."""


class UserError(Exception):
    """A fault of the configuration, the data or the surroundings, told in one short message.

    The message names the value, what is allowed and what to type instead.  The command line prints
    it without a traceback and ends with exit code 2.
    """
