"""gunicorn, configured in code: one process per model, a thread per request that is let in."""

import contextlib
import os
import socket
import struct
from typing import Any

from flask import Flask
from gunicorn import glogging, util
from gunicorn.app.base import BaseApplication
from gunicorn.workers.gthread import ThreadWorker

from app import logs
from app.api.auth import Keys
from app.compat.gunicorn import close_idle_connections
from app.engine.config import GPU_CONCURRENCY
from app.factory import create_app
from app.metrics import Metrics
from app.model_server import Runtime
from app.settings import Settings

# Seconds that answers which are ended at CHAT_DRAIN_SECONDS have to reach their clients.
LAST_WORDS_SECONDS = 5
# How often a thread of libgomp, torch's OpenMP, looks for work before it sleeps: some 40 us.
SPINS = "1000"
# Seconds that a client may be silent in the middle of a request.
RECEIVE_SECONDS = 15
# Seconds that an idle connection is kept: longer than proxies keep theirs (60 with nginx and AWS), since one that both
# use and close at the same moment fails a request.
KEEP_ALIVE_SECONDS = 75
# Threads beyond the requests that admission lets in, so that health checks and refusals always find one.
SPARE_THREADS = 16


class Logger(glogging.Logger):  # type: ignore[misc]
    """Hands gunicorn's records on to the handlers that are set up already."""

    def setup(self, cfg: Any) -> None:  # noqa: ARG002
        """Leave the root logger as it is."""
        self.error_log.propagate = True


class Worker(ThreadWorker):  # type: ignore[misc]
    """A gthread worker that tells the runtime when it is asked to stop, and waits for no client for ever."""

    runtime: Runtime

    def handle(self, conn: Any) -> Any:
        """Serve a request; a client that stops in the middle of one gives its thread back."""
        conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", RECEIVE_SECONDS, 0))
        # One that says nothing after it was opened is not kept: those could use up what is accepted.
        kept = super().handle(conn) and conn.initialized
        if not kept:
            # gunicorn would wait for the client's end in its main thread, where it holds everyone up.
            with contextlib.suppress(OSError):
                util.close_graceful(conn.sock.dup())
                conn.sock.shutdown(socket.SHUT_RDWR)
        return kept

    def handle_exit(self, sig: int, frame: Any) -> None:
        """On SIGTERM go on listening, so that new requests are told to go elsewhere, until those let in have ended."""
        stop = super().handle_exit
        # So that clients with open connections find another server.
        close_idle_connections(self)
        self.runtime.drain(lambda: stop(sig, frame))


class Server(BaseApplication):  # type: ignore[misc]
    """The gunicorn application for `settings`."""

    def __init__(self, settings: Settings, keys: Keys | None) -> None:
        self._settings = settings
        self._keys = keys
        super().__init__()

    def load_config(self) -> None:
        """Set what differs from gunicorn's defaults."""
        settings = self._settings
        threads = (settings.max_concurrency or GPU_CONCURRENCY) + settings.max_queue + SPARE_THREADS
        for name, value in {
            "bind": f"{settings.host}:{settings.port}",
            "proc_name": "phi3",
            "workers": 1,
            "worker_class": "app.server.Worker",
            "threads": threads,
            "worker_connections": 2 * threads,
            "keepalive": KEEP_ALIVE_SECONDS,
            "graceful_timeout": settings.drain_seconds + LAST_WORDS_SECONDS,
            "control_socket_disable": True,
            "logger_class": "app.server.Logger",
        }.items():
            self.cfg.set(name, value)

    def load(self) -> Flask:
        """Build the application in the worker process, and begin to load the model."""
        runtime = Runtime(self._settings, Metrics(self._settings.name))
        Worker.runtime = runtime
        app = create_app(runtime, self._keys)
        runtime.start()
        return app


def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; raises KeysError where the API keys cannot be read."""
    keys = Keys(settings.api_keys_file) if settings.api_keys_file else None
    # On a CPU that others use too, torch's threads that spin for long while they wait hold each other up; those that do
    # not spin at all wake up late for each of a step's hundreds of products.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
    logs.configure(settings.log_level)
    Server(settings, keys).run()
