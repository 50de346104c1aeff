"""The trainer's one error. Importing it costs nothing."""


class RequestError(ValueError):
    """Something was asked for that can't be honoured. The message says what, and what to do."""
