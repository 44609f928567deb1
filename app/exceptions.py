"""Exceptions that the server raises. Those of the engine are in `app.engine`."""


class SettingsError(ValueError):
    """A setting is missing or out of range; the message names it and the values that are allowed."""


class KeysError(ValueError):
    """The API key file cannot be used; the message says why."""


class RequestError(ValueError):
    """A request is invalid; the message says what is wrong, what is allowed and what to do.

    Attributes:
        field: dotted name of the invalid field, or None if several fields or none are to blame.
        code: OpenAI's code of the error, or None if there is none.
    """

    def __init__(self, message: str, field: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.field = field
        self.code = code


class UnknownModelError(RequestError):
    """The request names a model that the server does not serve."""


class RetryLaterError(Exception):
    """The server cannot take the request now; the same request can succeed later.

    Attributes:
        retry_after: seconds to wait before the next attempt.
    """

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class NotReadyError(RetryLaterError):
    """The model is still loading, or the server is shutting down; the message says which."""


class TimedOutError(Exception):
    """A request ran longer than its time limit."""
