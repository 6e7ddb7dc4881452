"""The exception of the program for everything that its user can put right."""


class ConfigError(Exception):
    """A user's mistake: its message says what was given, what is allowed and where to fix it.

    Shown without a traceback; the program ends with exit code 2.
    """
