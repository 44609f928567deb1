"""What the server counts and times, for Prometheus.

Where a figure means the same as in vLLM it has vLLM's name, labels and buckets, so that dashboards work.
"""

import importlib.metadata
import platform
import time
from typing import TYPE_CHECKING

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from app import __version__

if TYPE_CHECKING:
    from app.engine.engine import Engine
    from app.engine.kv_cache.manager import KVCacheManager
    from app.engine.stream import RequestStream

SECONDS = (0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680)
FIRST_TOKEN_SECONDS = (
    *(
        0.001,
        0.005,
        0.01,
        0.02,
        0.04,
        0.06,
        0.08,
        0.1,
        0.25,
        0.5,
        0.75,
        1,
        2.5,
        5,
        7.5,
        10,
        20,
        40,
        80,
        160,
        640,
    ),
    2560,
)
TOKEN_SECONDS = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40),
    80,
)
TOKENS = tuple(digit * 10**power for power in range(6) for digit in (1, 2, 5))


class Metrics:
    """The server's metrics, in a registry of their own."""

    def __init__(self, model_name: str) -> None:
        self.registry = CollectorRegistry()
        prometheus_client.ProcessCollector(registry=self.registry)
        prometheus_client.GCCollector(registry=self.registry)
        self._labels = {"model_name": model_name, "engine": "0"}
        self._prompt_tokens = self._counter("vllm:prompt_tokens", "Tokens of prompts.")
        self._cached_tokens = self._counter("vllm:prompt_tokens_cached", "Of these, those that an earlier one shared.")
        self._generation_tokens = self._counter("vllm:generation_tokens", "Tokens generated.")
        self._latency = self._histogram("vllm:e2e_request_latency_seconds", "From arrival to the last token.", SECONDS)
        self._queue_time = self._histogram("vllm:request_queue_time_seconds", "Waiting for the engine.", SECONDS)
        self._first_token = self._histogram(
            "vllm:time_to_first_token_seconds", "From arrival to the first token.", FIRST_TOKEN_SECONDS
        )
        self._per_token = self._histogram(
            "vllm:request_time_per_output_token_seconds", "From a token to the next, on average.", TOKEN_SECONDS
        )
        self._prompt_length = self._histogram("vllm:request_prompt_tokens", "Tokens of a prompt.", TOKENS)
        self._answer_length = self._histogram("vllm:request_generation_tokens", "Tokens of an answer.", TOKENS)
        self._finished = Counter(
            "vllm:request_success",
            "Requests served, by why their first sequence ended.",
            ["model_name", "engine", "finished_reason"],
            registry=self.registry,
        )
        self._http = Counter(
            "phi3_http_requests", "Requests answered.", ["method", "route", "status"], registry=self.registry
        )
        self._http_seconds = Histogram(
            "phi3_http_request_seconds",
            "From a request's head to the last byte of its answer.",
            ["method", "route"],
            registry=self.registry,
            buckets=(0.01, 0.1, *SECONDS),
        )
        self._lanes = Counter(
            "phi3_admitted_requests",
            "Requests admitted, by the worker that serves them.",
            ["worker"],
            registry=self.registry,
        )
        for lane in ("batch", "beam_search"):
            self._lanes.labels(lane)
        info = Gauge(
            "phi3_build_info",
            "Versions; always 1.",
            ["version", "python", "torch", "transformers"],
            registry=self.registry,
        )
        versions = [importlib.metadata.version(package) for package in ("torch", "transformers")]
        info.labels(__version__, platform.python_version(), *versions).set(1)

    def took(self, generation: "RequestStream") -> None:
        """Count what a request took, whether or not it was served to its end."""
        self._prompt_tokens.inc(len(generation.request.prompt_token_ids))
        self._cached_tokens.inc(generation.num_cached_tokens)
        self._generation_tokens.inc(generation.num_tokens)

    def served(self, generation: "RequestStream", reason: str) -> None:
        """Count a request that was served just now; `reason` is why its first sequence ended."""
        now = time.monotonic()
        first = generation.first_token_at or now
        self._latency.observe(now - generation.submitted_at)
        self._queue_time.observe((generation.started_at or now) - generation.submitted_at)
        self._first_token.observe(first - generation.submitted_at)
        if generation.num_tokens > 1:
            self._per_token.observe((now - first) / (generation.num_tokens - 1))
        self._prompt_length.observe(len(generation.request.prompt_token_ids))
        self._answer_length.observe(generation.num_tokens)
        self._finished.labels(**self._labels, finished_reason=reason).inc()

    def let_in(self, lane: str) -> None:
        """Count a request that a lane was given."""
        self._lanes.labels(lane).inc()

    def answered(self, method: str, route: str, status: int) -> None:
        """Count an answer of any kind."""
        self._http.labels(method, route, status).inc()

    def closed(self, method: str, route: str, seconds: float) -> None:
        """Time an answer of any kind, which has been sent or whose client has left."""
        self._http_seconds.labels(method, route).observe(seconds)

    def observe_model(self, context: int, dtype: str, device: str) -> None:
        """Export what the model that is served is like; `context` is in tokens."""
        info = Gauge(
            "phi3_model_info",
            "The model that is served; always 1.",
            ["model_name", "context", "dtype", "device"],
            registry=self.registry,
        )
        info.labels(self._labels["model_name"], str(context), dtype, device).set(1)

    def observe_engine(self, engine: "Engine", cache: "KVCacheManager") -> None:
        """Export how many requests of `engine` run and wait, and how full `cache` is."""
        running = Gauge(
            "vllm:num_requests_running",
            "Requests generating.",
            ["model_name", "engine"],
            registry=self.registry,
        )
        waiting = Gauge(
            "vllm:num_requests_waiting", "Requests waiting.", ["model_name", "engine"], registry=self.registry
        )
        running.labels(**self._labels).set_function(lambda: engine.running)
        waiting.labels(**self._labels).set_function(lambda: engine.waiting)
        usage = Gauge(
            "vllm:kv_cache_usage_perc",
            "Share of the cache that requests hold; 1 is all of it.",
            ["model_name", "engine"],
            registry=self.registry,
        )
        usage.labels(**self._labels).set_function(lambda: cache.num_reserved / cache.num_slots)
        capacity = Gauge("phi3_kv_cache_tokens", "Tokens that the KV cache holds.", registry=self.registry)
        capacity.set(cache.num_slots)

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return prometheus_client.generate_latest(self.registry)

    def _counter(self, name: str, help_: str) -> Counter:
        return Counter(name, help_, ["model_name", "engine"], registry=self.registry).labels(**self._labels)

    def _histogram(self, name: str, help_: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, help_, ["model_name", "engine"], registry=self.registry, buckets=buckets).labels(
            **self._labels
        )
