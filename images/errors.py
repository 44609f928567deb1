"""Errors of this package; each message names the problem and what to do about it."""


class ImageError(Exception):
    """An image cannot be made, or is not what it should be."""


class TransientError(ImageError):
    """An operation failed in a way that a retry may fix.

    `wait` is the delay in seconds that the other side asked for, or None.
    """

    def __init__(self, message: str, wait: float | None = None) -> None:
        super().__init__(message)
        self.wait = wait
