"""Prometheus metrics of the server.

A metric with the same meaning in vLLM has vLLM's name, labels and buckets, so that dashboards for vLLM work.
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
# fmt: off
FIRST_TOKEN_SECONDS = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560,
)
TOKEN_SECONDS = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80)
# fmt: on
TOKENS = tuple(digit * 10**power for power in range(6) for digit in (1, 2, 5))


class Metrics:
    """All metrics of one server, in their own registry."""

    def __init__(self, model_name: str) -> None:
        self.registry = CollectorRegistry()
        prometheus_client.ProcessCollector(registry=self.registry)
        prometheus_client.GCCollector(registry=self.registry)
        self._labels = {"model_name": model_name, "engine": "0"}
        self._prompt_tokens = self._counter("vllm:prompt_tokens", "Prompt tokens processed.")
        self._cached_tokens = self._counter("vllm:prompt_tokens_cached", "Prompt tokens served from the prefix cache.")
        self._generation_tokens = self._counter("vllm:generation_tokens", "Tokens generated.")
        self._latency = self._histogram(
            "vllm:e2e_request_latency_seconds", "Time from arrival to the last token.", SECONDS
        )
        self._queue_time = self._histogram("vllm:request_queue_time_seconds", "Time in the queue.", SECONDS)
        self._first_token = self._histogram(
            "vllm:time_to_first_token_seconds", "Time from arrival to the first token.", FIRST_TOKEN_SECONDS
        )
        self._per_token = self._histogram(
            "vllm:request_time_per_output_token_seconds",
            "Mean time between two output tokens of a request.",
            TOKEN_SECONDS,
        )
        self._prompt_length = self._histogram("vllm:request_prompt_tokens", "Prompt tokens of a request.", TOKENS)
        self._output_length = self._histogram(
            "vllm:request_generation_tokens", "Generated tokens of a request.", TOKENS
        )
        self._finished = Counter(
            "vllm:request_success",
            "Completed requests, by the finish reason of their first sequence.",
            ["model_name", "engine", "finished_reason"],
            registry=self.registry,
        )
        self._http = Counter(
            "phi3_http_requests", "HTTP responses.", ["method", "route", "status"], registry=self.registry
        )
        self._http_seconds = Histogram(
            "phi3_http_request_seconds",
            "Time from the headers of a request to the last byte of its response.",
            ["method", "route"],
            registry=self.registry,
            buckets=(0.01, 0.1, *SECONDS),
        )
        self._admitted = Counter(
            "phi3_admitted_requests",
            "Requests that the engine admitted, by the worker that runs them.",
            ["worker"],
            registry=self.registry,
        )
        for worker in ("batch", "beam_search"):
            self._admitted.labels(worker)
        info = Gauge(
            "phi3_build_info",
            "Versions of the server; the value is always 1.",
            ["version", "python", "torch", "transformers"],
            registry=self.registry,
        )
        versions = [importlib.metadata.version(package) for package in ("torch", "transformers")]
        info.labels(__version__, platform.python_version(), *versions).set(1)

    def admitted(self, worker: str) -> None:
        """Count a request that the engine admitted to `worker`: "batch" or "beam_search"."""
        self._admitted.labels(worker).inc()

    def tokens_processed(self, stream: "RequestStream") -> None:
        """Count the tokens of a request that ended, whether or not it completed."""
        self._prompt_tokens.inc(len(stream.request.prompt_token_ids))
        self._cached_tokens.inc(stream.num_cached_tokens)
        self._generation_tokens.inc(stream.num_tokens)

    def request_finished(self, stream: "RequestStream", reason: str) -> None:
        """Count and time a request that completed now; `reason` is the finish reason of its first sequence."""
        now = time.monotonic()
        first = stream.first_token_at or now
        self._latency.observe(now - stream.submitted_at)
        self._queue_time.observe((stream.started_at or now) - stream.submitted_at)
        self._first_token.observe(first - stream.submitted_at)
        if stream.num_tokens > 1:
            self._per_token.observe((now - first) / (stream.num_tokens - 1))
        self._prompt_length.observe(len(stream.request.prompt_token_ids))
        self._output_length.observe(stream.num_tokens)
        self._finished.labels(**self._labels, finished_reason=reason).inc()

    def response_started(self, method: str, route: str, status: int) -> None:
        """Count a response by its status."""
        self._http.labels(method, route, status).inc()

    def response_sent(self, method: str, route: str, seconds: float) -> None:
        """Time a response that was sent completely, or whose client disconnected."""
        self._http_seconds.labels(method, route).observe(seconds)

    def observe_model(self, context: int, dtype: str, device: str) -> None:
        """Export the properties of the served model; `context` is in tokens."""
        info = Gauge(
            "phi3_model_info",
            "The served model; the value is always 1.",
            ["model_name", "context", "dtype", "device"],
            registry=self.registry,
        )
        info.labels(self._labels["model_name"], str(context), dtype, device).set(1)

    def observe_engine(self, engine: "Engine", cache: "KVCacheManager") -> None:
        """Export the running and waiting requests of `engine` and the usage of `cache`."""
        running = Gauge(
            "vllm:num_requests_running",
            "Requests that generate.",
            ["model_name", "engine"],
            registry=self.registry,
        )
        waiting = Gauge(
            "vllm:num_requests_waiting", "Requests in the queue.", ["model_name", "engine"], registry=self.registry
        )
        running.labels(**self._labels).set_function(lambda: engine.running)
        waiting.labels(**self._labels).set_function(lambda: engine.waiting)
        usage = Gauge(
            "vllm:kv_cache_usage_perc",
            "Fraction of the KV cache that requests have reserved, from 0 to 1.",
            ["model_name", "engine"],
            registry=self.registry,
        )
        usage.labels(**self._labels).set_function(lambda: cache.num_reserved / cache.num_slots)
        capacity = Gauge("phi3_kv_cache_tokens", "Capacity of the KV cache in tokens.", registry=self.registry)
        capacity.set(cache.num_slots)

    def text(self) -> bytes:
        """Return all metrics in the Prometheus text format."""
        return prometheus_client.generate_latest(self.registry)

    def _counter(self, name: str, help_: str) -> Counter:
        return Counter(name, help_, ["model_name", "engine"], registry=self.registry).labels(**self._labels)

    def _histogram(self, name: str, help_: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, help_, ["model_name", "engine"], registry=self.registry, buckets=buckets).labels(
            **self._labels
        )
