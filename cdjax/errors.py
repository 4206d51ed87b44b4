"""The one kind of error that is the user's to mend; the command line shows it as one line and exit code 2."""


class UserError(ValueError):
    """A mistake in what the user gave: says what was given, what was wanted, and what to do."""
