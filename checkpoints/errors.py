"""Errors of this package; each message names the problem and what to do about it."""


class ModelError(Exception):
    """A model is unknown, unavailable or damaged."""


class HubError(ModelError):
    """The hub refused a request or returned something unusable; a retry does not help."""


class TransientHubError(HubError):
    """A request to the hub failed in a way that a retry may fix.

    `wait` is the delay in seconds that the hub asked for, or None.
    """

    def __init__(self, message: str, wait: float | None = None) -> None:
        super().__init__(message)
        self.wait = wait
