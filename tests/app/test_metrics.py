"""What the server counts."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.metrics import Metrics


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


def test_figures_that_mean_the_same_as_in_vllm_have_its_names_and_labels(metrics: Metrics) -> None:
    metrics.prompt_tokens.inc(3)
    metrics.generation_tokens.inc(4)
    metrics.finished("stop")
    metrics.latency.observe(0.4)
    assert value(metrics, "vllm:prompt_tokens_total", **ENGINE) == 3
    assert value(metrics, "vllm:generation_tokens_total", **ENGINE) == 4
    assert value(metrics, "vllm:request_success_total", finished_reason="stop", **ENGINE) == 1
    assert value(metrics, "vllm:e2e_request_latency_seconds_bucket", le="0.3", **ENGINE) == 0
    assert value(metrics, "vllm:e2e_request_latency_seconds_bucket", le="0.5", **ENGINE) == 1


def test_answers_are_counted_by_route_and_status(metrics: Metrics) -> None:
    metrics.answered("POST", "/chat", 400)
    assert value(metrics, "phi3_http_requests_total", method="POST", route="/chat", status="400") == 1


def test_requests_are_counted_by_lane(metrics: Metrics) -> None:
    metrics.let_in("batched")
    counts = {lane: value(metrics, "phi3_lane_requests_total", lane=lane) for lane in ("batched", "reference")}
    assert counts == {"batched": 1, "reference": 0}


def test_two_servers_in_one_process_do_not_share_figures(metrics: Metrics) -> None:
    metrics.prompt_tokens.inc()
    assert value(Metrics("demo"), "vllm:prompt_tokens_total", **ENGINE) == 0
