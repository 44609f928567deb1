"""Exceptions that the engine raises."""


class LoadError(Exception):
    """The checkpoint cannot be served; the text gives the reason."""


class EngineError(Exception):
    """The engine failed to serve a valid request."""


class QueueFullError(EngineError):
    """The queue has no capacity for the request.

    Attributes:
        retry_after: seconds until the queue is expected to have capacity.
    """

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class CancelledError(Exception):
    """The client no longer waits for the request."""


class InvalidLogitsError(Exception):
    """The sampling parameters turned the logits into nan or infinity, so no token can be sampled."""


def internal_error() -> EngineError:
    """Return the error that clients get for a fault in the server; the log has the details."""
    return EngineError("Generation failed inside the server. See the server log for this request ID.")
