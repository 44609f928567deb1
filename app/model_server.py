"""Life cycle of the model in this process: loading, ready, draining."""

import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.engine.config import EngineConfig
from app.engine.exceptions import LoadError
from app.exceptions import NotReadyError
from app.limits import Limits
from app.logs import logger
from app.metrics import Metrics
from app.settings import Settings

if TYPE_CHECKING:
    from app.engine.engine import Engine
    from app.engine.sampling.structured_output import GrammarCompiler
    from app.engine.startup.build import EngineComponents
    from app.engine.startup.load import LoadedModel
    from app.tokenizer import Tokenizer

log = logger(__name__)

# With this exit code of a worker, gunicorn's master stops the server instead of starting the worker again.
EXIT_BOOT_FAILED = 3
# Seconds after which a client should retry while the model loads.
LOADING_RETRY_SECONDS = 5
# Seconds after which a client should retry, on another server, while this one shuts down.
DRAINING_RETRY_SECONDS = 1


@dataclass(frozen=True, slots=True)
class LoadedEngine:
    """A loaded model with its engine, as the HTTP APIs use it.

    Attributes:
        engine: generates.
        tokenizer: tokenizer of the model.
        limits: limits of each request.
        metrics: metrics of the server.
        grammars: compiles the grammars of structured output.
        batch_invariant: whether an output never depends on co-batched requests.
        adapters: weight of each merged LoRA adapter, by name.
        created: when the model was loaded, in seconds since 1970.
    """

    engine: "Engine"
    tokenizer: "Tokenizer"
    limits: Limits
    metrics: Metrics
    grammars: "GrammarCompiler"
    batch_invariant: bool
    adapters: Mapping[str, float]
    created: int


class ModelServer:
    """Loads the model in the background and reports its state."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.settings = settings
        self.metrics = metrics
        self._loaded: LoadedEngine | None = None
        self._draining = threading.Event()
        self._on_drained: Callable[[], None] = lambda: None

    def start(self) -> None:
        """Start to load the model; if that fails, the process exits with EXIT_BOOT_FAILED."""
        threading.Thread(target=self._load, name="load", daemon=True).start()
        threading.Thread(target=self._drain, name="drain", daemon=True).start()

    def ready(self) -> LoadedEngine:
        """Return the loaded engine.

        Raises:
            NotReadyError: the model is loading, or the server is shutting down.
        """
        if self._draining.is_set():
            raise NotReadyError(
                "The server is shutting down. Send the request to another server.", DRAINING_RETRY_SECONDS
            )
        if self._loaded is None:
            raise NotReadyError("The model is loading. Try again later.", LOADING_RETRY_SECONDS)
        return self._loaded

    @property
    def loaded(self) -> bool:
        """Whether the model is loaded."""
        return self._loaded is not None

    @property
    def alive(self) -> bool:
        """Whether the engine makes progress; also true while the model loads."""
        return self._loaded is None or self._loaded.engine.alive

    def drain(self, on_drained: Callable[[], None]) -> None:
        """Refuse new requests, and call `on_drained` when all admitted ones have ended. Safe in a signal handler.

        Requests that run longer than CHAT_DRAIN_SECONDS are interrupted.
        """
        self._on_drained = on_drained
        self._draining.set()

    def _drain(self) -> None:
        self._draining.wait()
        deadline = time.monotonic() + self.settings.drain_seconds
        while self._loaded and self._loaded.engine.busy and time.monotonic() < deadline:
            time.sleep(0.05)
        if self._loaded:
            self._loaded.engine.abort(
                NotReadyError(
                    "The server shut down before the response was complete. Send the request again.",
                    DRAINING_RETRY_SECONDS,
                )
            )
        self._on_drained()

    def _load(self) -> None:
        try:
            # Importing torch takes seconds, during which the health routes have to respond.
            from app.engine.startup.build import build_engine
            from app.engine.startup.load import load_model

            config = engine_config(self.settings)
            loaded = load_model(config)
            components = build_engine(loaded, config)
            model = loaded.model
            dtype = str(model.dtype).removeprefix("torch.")
            self.metrics.observe_model(components.memory.context, dtype, model.device.type)
            self.metrics.observe_engine(components.engine, components.cache)
            self._loaded = self._loaded_engine(loaded, components)
        except LoadError as error:
            log.error("the model cannot be loaded", reason=str(error))
            os._exit(EXIT_BOOT_FAILED)
        except BaseException:
            log.exception("loading the model failed")
            os._exit(EXIT_BOOT_FAILED)

    def _loaded_engine(self, loaded: "LoadedModel", components: "EngineComponents") -> LoadedEngine:
        settings = self.settings
        limits = Limits(
            model_name=settings.name,
            context=components.memory.context,
            vocab_size=loaded.vocab_size,
            eos_token_ids=loaded.eos_token_ids,
            pad_token_id=loaded.pad_token_id,
            max_beam_tokens=components.memory.beam_tokens,
            max_sequences=settings.max_sequences,
            max_scored_tokens=settings.max_scored_tokens,
            max_list=settings.max_list,
            max_messages=settings.max_messages,
            max_request_seconds=settings.max_request_seconds,
        )
        return LoadedEngine(
            engine=components.engine,
            tokenizer=loaded.tokenizer,
            limits=limits,
            metrics=self.metrics,
            grammars=components.grammars,
            batch_invariant=components.batch_invariant,
            adapters=loaded.adapters,
            created=int(time.time()),
        )


def engine_config(settings: Settings) -> EngineConfig:
    """Return the settings of the engine."""
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
