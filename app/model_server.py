"""The model's life in this process: loading, ready, draining."""

import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from app.api.chat.request import Limits
from app.engine.config import EngineConfig
from app.engine.exceptions import LoadError
from app.engine.request import GenerationRequest
from app.logs import logger
from app.metrics import Metrics
from app.output.stream import Reader
from app.settings import Settings

if TYPE_CHECKING:
    from app.engine.startup.build import EngineComponents
    from app.engine.startup.load import LoadedModel

log = logger(__name__)

# gunicorn's master ends the whole server when a worker exits with this code, instead of starting it again and again.
EXIT_BOOT_FAILED = 3


class NotReadyError(Exception):
    """The server cannot take requests yet, or no more; the text says which.

    Attributes:
        retry_after: seconds after which asking again makes sense.
    """

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Ready:
    """A loaded model with its engine."""

    def __init__(self, loaded: "LoadedModel", built: "EngineComponents", settings: Settings, metrics: Metrics) -> None:
        self._metrics = metrics
        self.tokenizer = loaded.tokenizer
        self.limits = Limits(
            built.memory.context,
            loaded.vocab_size,
            loaded.eos_token_ids,
            loaded.pad_token_id,
            built.memory.beam_tokens,
            settings,
        )
        self.engine = built.engine
        self.grammars = built.grammars
        self.batch_invariant = built.batch_invariant
        self.adapters = loaded.adapters
        self.created = int(time.time())

    def ask(
        self, wanted: GenerationRequest, connection: socket.socket | None, seconds: float, stops: Sequence[str] = ()
    ) -> Reader:
        """Let a request in, and return the reader of its answer; see Engine.submit for what is raised, and Reader."""
        generation = self.engine.submit(wanted)
        self._metrics.let_in(generation.worker)
        return Reader(generation, self.tokenizer, self._metrics, connection, seconds, stops)


class Runtime:
    """Loads the model in the background and says how it stands."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.settings = settings
        self.metrics = metrics
        self._ready: Ready | None = None
        self._draining = threading.Event()
        self._drained: Callable[[], None] = lambda: None

    def start(self) -> None:
        """Begin to load; the process ends with EXIT_BOOT_FAILED where that fails."""
        threading.Thread(target=self._load, name="load", daemon=True).start()
        threading.Thread(target=self._drain, name="drain", daemon=True).start()

    def ready(self) -> Ready:
        """Return the loaded model.

        Raises:
            NotReadyError: it is loading, or the server is stopping.
        """
        if self._draining.is_set():
            raise NotReadyError("The server is stopping: send the request to another one.", 1)
        if self._ready is None:
            raise NotReadyError("The model is loading: try again later.", 5)
        return self._ready

    @property
    def loaded(self) -> bool:
        """Whether the model was loaded."""
        return self._ready is not None

    @property
    def alive(self) -> bool:
        """Whether the engine, once there, lives and gets on with its work."""
        return self._ready is None or self._ready.engine.alive

    def drain(self, drained: Callable[[], None]) -> None:
        """Take no new requests, and call `drained` when those let in have ended. Safe in a signal handler.

        What has not ended after CHAT_DRAIN_SECONDS is ended.
        """
        self._drained = drained
        self._draining.set()

    def _drain(self) -> None:
        self._draining.wait()
        end = time.monotonic() + self.settings.drain_seconds
        while self._ready and self._ready.engine.busy and time.monotonic() < end:
            time.sleep(0.05)
        if self._ready:
            self._ready.engine.abort(NotReadyError("The server stopped before the answer was complete: ask again.", 1))
        self._drained()

    def _load(self) -> None:
        try:
            # Here and not above: importing torch takes seconds, and the health routes answer meanwhile.
            from app.engine.startup.build import build_engine
            from app.engine.startup.load import load_model

            config = engine_config(self.settings)
            loaded = load_model(config)
            built = build_engine(loaded, config)
            model = loaded.model
            self.metrics.observe_model(built.memory.context, str(model.dtype).removeprefix("torch."), model.device.type)
            self.metrics.observe_engine(built.engine, built.cache)
            self._ready = Ready(loaded, built, self.settings, self.metrics)
        except LoadError as error:
            log.error("the model cannot be loaded", reason=str(error))
            os._exit(EXIT_BOOT_FAILED)
        except BaseException:
            log.exception("loading the model failed")
            os._exit(EXIT_BOOT_FAILED)


def engine_config(settings: Settings) -> EngineConfig:
    """Return the engine's part of `settings`."""
    return EngineConfig(
        model=settings.model,
        dtype=settings.dtype,
        max_context=settings.max_context,
        adapters_dir=settings.adapters_dir,
        adapter_weights=settings.adapter_weights,
        max_concurrency=settings.max_concurrency,
        max_queue=settings.max_queue,
        max_queue_tokens=settings.max_queue_tokens,
        max_beam_tokens=settings.max_beam_tokens,
        memory_fraction=settings.memory_share,
        deterministic=settings.deterministic,
        stall_seconds=settings.stall_seconds,
    )
