"""The deadline and the client of a response."""

import socket

import pytest
from werkzeug.exceptions import ClientDisconnected

from app.api.connection import ResponseWatch
from app.exceptions import TimedOutError


def test_connected_client_passes_the_check_until_it_disconnects() -> None:
    here, there = socket.socketpair()
    with here, there:
        watch = ResponseWatch(here, 60)
        watch.check()
        there.sendall(b"next request")
        watch.check()
        here.recv(12)
        there.close()
        with pytest.raises(ClientDisconnected):
            watch.check()


def test_closed_socket_counts_as_disconnected() -> None:
    here, there = socket.socketpair()
    with there:
        here.close()
        with pytest.raises(ClientDisconnected):
            ResponseWatch(here, 60).check()


def test_deadline_is_checked_without_a_connection() -> None:
    ResponseWatch(None, 60).check()
    with pytest.raises(TimedOutError, match=r"0 seconds \(X-Request-Timeout"):
        ResponseWatch(None, 0).check()
