"""Private names of gunicorn 27.0. Check them at every upgrade: gunicorn documents none of them."""

import time

from gunicorn.workers.gthread import STOP_KEEPALIVE_LINGER, ThreadWorker


def close_idle_connections(worker: ThreadWorker) -> None:
    """Close the keep-alive connections of a worker that shuts down, after gunicorn's own grace period.

    gunicorn shortens keep-alive only in a worker that has stopped listening. A draining worker still listens, so that
    it can refuse new requests with 503.
    """
    # Also ends keep-alive after the current request of each connection.
    worker.cfg.set("keepalive", 0)
    worker._cap_keepalive(time.monotonic() + STOP_KEEPALIVE_LINGER)
