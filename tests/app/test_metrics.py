"""Prometheus metrics."""

import time

import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.metrics import Metrics
from tests.support.requests import new_stream, request


@pytest.fixture
def metrics() -> Metrics:
    return Metrics("demo")


def samples(metrics: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(metrics.text().decode())
        for sample in family.samples
    }


ENGINE = {"model_name": "demo", "engine": "0"}


def value(metrics: Metrics, name: str, **labels: str) -> float:
    return samples(metrics)[name, frozenset(labels.items())]


def test_metrics_with_the_meaning_of_vllm_have_its_names_and_labels(metrics: Metrics) -> None:
    stream = new_stream(request([1, 2, 3], 8))
    now = time.monotonic()
    stream.submitted_at, stream.started_at, stream.first_token_at = now - 0.4, now - 0.35, now - 0.3
    stream.num_tokens, stream.num_cached_tokens = 4, 2
    metrics.tokens_processed(stream)
    metrics.request_finished(stream, "stop")
    assert value(metrics, "vllm:prompt_tokens_total", **ENGINE) == 3
    assert value(metrics, "vllm:generation_tokens_total", **ENGINE) == 4
    assert value(metrics, "vllm:prompt_tokens_cached_total", **ENGINE) == 2
    for name, seconds in {
        "time_to_first_token_seconds": 0.1,
        "request_queue_time_seconds": 0.05,
        "e2e_request_latency_seconds": 0.4,
        "request_time_per_output_token_seconds": 0.1,
        "request_prompt_tokens": 3,
        "request_generation_tokens": 4,
    }.items():
        assert value(metrics, f"vllm:{name}_sum", **ENGINE) == pytest.approx(seconds, abs=0.02)
    assert value(metrics, "vllm:request_success_total", finished_reason="stop", **ENGINE) == 1
    assert value(metrics, "vllm:e2e_request_latency_seconds_bucket", le="0.3", **ENGINE) == 0
    assert value(metrics, "vllm:e2e_request_latency_seconds_bucket", le="0.5", **ENGINE) == 1


def test_responses_are_counted_by_route_and_status(metrics: Metrics) -> None:
    metrics.response_started("POST", "/chat", 400)
    assert value(metrics, "phi3_http_requests_total", method="POST", route="/chat", status="400") == 1


def test_admitted_requests_are_counted_by_worker(metrics: Metrics) -> None:
    metrics.admitted("batch")
    workers = ("batch", "beam_search")
    counts = {worker: value(metrics, "phi3_admitted_requests_total", worker=worker) for worker in workers}
    assert counts == {"batch": 1, "beam_search": 0}


def test_servers_in_one_process_have_separate_metrics(metrics: Metrics) -> None:
    metrics.tokens_processed(new_stream(request([1], 1)))
    assert value(Metrics("demo"), "vllm:prompt_tokens_total", **ENGINE) == 0


def test_responses_are_timed_by_route(metrics: Metrics) -> None:
    metrics.response_sent("POST", "/chat", 1.2)
    labels = {"method": "POST", "route": "/chat"}
    assert value(metrics, "phi3_http_request_seconds_sum", **labels) == 1.2
    assert value(metrics, "phi3_http_request_seconds_bucket", le="1.5", **labels) == 1
    assert value(metrics, "phi3_http_request_seconds_bucket", le="1.0", **labels) == 0


def test_model_info_is_exported(metrics: Metrics) -> None:
    metrics.observe_model(4096, "bfloat16", "cuda")
    labels = {"model_name": "demo", "context": "4096", "dtype": "bfloat16", "device": "cuda"}
    assert value(metrics, "phi3_model_info", **labels) == 1
