"""What can go wrong, in sentences that name the file or the place, and the remedy."""


class ImageError(Exception):
    """An image cannot be made or is not what it should be; the message says why, and what to do."""


class TransientError(ImageError):
    """What failed may succeed when it is tried again, after `wait` seconds where the other side named a time."""

    def __init__(self, message: str, wait: float | None = None) -> None:
        super().__init__(message)
        self.wait = wait
