"""gunicorn, configured in code: one worker process with one thread for each admitted request."""

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
from app.model_server import ModelServer
from app.settings import Settings

# Seconds that responses interrupted after CHAT_DRAIN_SECONDS have to reach their clients.
FLUSH_SECONDS = 5
# Iterations (about 40 us) that a thread of libgomp, the OpenMP library of torch, polls for work before it sleeps.
SPIN_COUNT = "1000"
# Seconds that a client may send nothing in the middle of a request.
RECEIVE_SECONDS = 15
# Seconds that an idle connection stays open. Must exceed the 60 seconds of common proxies (nginx, AWS): if both ends
# close a connection at the same moment, the request on it fails.
KEEP_ALIVE_SECONDS = 75
# Threads in addition to those of admitted requests, so that health checks and rejections always find a free one.
SPARE_THREADS = 16


class Logger(glogging.Logger):  # type: ignore[misc]
    """Pass gunicorn's log records to the handlers of the root logger."""

    def setup(self, cfg: Any) -> None:  # noqa: ARG002
        """Keep the handlers that are already configured."""
        self.error_log.propagate = True


class Worker(ThreadWorker):  # type: ignore[misc]
    """A gthread worker that drains the model server on SIGTERM and disconnects stalled clients."""

    model_server: ModelServer

    def handle(self, conn: Any) -> Any:
        """Serve one request; a client that stalls in the middle of one is disconnected."""
        conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", RECEIVE_SECONDS, 0))
        # A connection without any request is closed, because such connections could exhaust worker_connections.
        keep_alive = super().handle(conn) and conn.initialized
        if not keep_alive:
            # gunicorn would wait in its main thread for the client to close, which blocks all connections.
            with contextlib.suppress(OSError):
                util.close_graceful(conn.sock.dup())
                conn.sock.shutdown(socket.SHUT_RDWR)
        return keep_alive

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Drain on SIGTERM: refuse new requests with 503 until all admitted requests have ended, then stop."""
        stop = super().handle_exit
        # Clients then reconnect, and reach another server.
        close_idle_connections(self)
        self.model_server.drain(lambda: stop(sig, frame))


class Server(BaseApplication):  # type: ignore[misc]
    """The gunicorn application for `settings`."""

    def __init__(self, settings: Settings, keys: Keys | None) -> None:
        self._settings = settings
        self._keys = keys
        super().__init__()

    def load_config(self) -> None:
        """Override gunicorn's defaults."""
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
            "graceful_timeout": settings.drain_seconds + FLUSH_SECONDS,
            "control_socket_disable": True,
            "logger_class": "app.server.Logger",
        }.items():
            self.cfg.set(name, value)

    def load(self) -> Flask:
        """Create the application in the worker process and start to load the model."""
        model_server = ModelServer(self._settings, Metrics(self._settings.name))
        Worker.model_server = model_server
        app = create_app(model_server, self._keys)
        model_server.start()
        return app


def run_server(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; raises KeysError if the API key file cannot be used."""
    keys = Keys(settings.api_keys_file) if settings.api_keys_file else None
    # On a shared CPU, OpenMP threads that spin for long take cycles from each other. Threads that do not spin at all
    # wake up late for each of the hundreds of GEMMs in a step.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
    logs.configure(settings.log_level)
    Server(settings, keys).run()
