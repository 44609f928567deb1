"""Detect responses that have no reader any more."""

import socket
import time

from werkzeug.exceptions import ClientDisconnected

from app.exceptions import TimedOutError


class ResponseWatch:
    """Watches the deadline and the client of one response.

    Args:
        connection: socket of the client, or None to watch the deadline alone.
        seconds: time limit of the response, from now.
    """

    def __init__(self, connection: socket.socket | None, seconds: float) -> None:
        self._connection = connection
        self._seconds = seconds
        self._deadline = time.monotonic() + seconds

    def check(self) -> None:
        """Return if the response is still needed.

        Raises:
            TimedOutError: the time limit has passed.
            ClientDisconnected: the client closed the connection.
        """
        if time.monotonic() > self._deadline:
            raise TimedOutError(
                f"The response was not complete after {self._seconds:g} seconds (X-Request-Timeout, or "
                "CHAT_MAX_REQUEST_SECONDS of the server). Request fewer tokens or allow more time."
            )
        if self._connection is not None and _is_closed(self._connection):
            raise ClientDisconnected("The client closed the connection.")


def _is_closed(connection: socket.socket) -> bool:
    try:
        # Bytes in the buffer belong to the next request, so the client is still connected.
        return connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
