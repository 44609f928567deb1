"""The metrics that alerts, the dashboard and the autoscaler query, compared with those that the server exports."""

import re
from types import SimpleNamespace
from typing import cast

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from app.engine.engine import Engine
from app.engine.kv_cache.manager import KVCacheManager
from app.metrics import Metrics
from tests.charts.helm import CHART
from tests.charts.monitoring import DASHBOARD, expressions, rules
from tests.support.requests import new_stream, request

# Prometheus adds these labels to every sample of a pod.
TARGET_LABELS = {"namespace", "pod"}


def exported() -> dict[str, set[str]]:
    """Return the labels of each sample that a server exports, by the name of the sample."""
    metrics = Metrics("demo")
    metrics.observe_engine(
        cast("Engine", SimpleNamespace(running=1, waiting=1)),
        cast("KVCacheManager", SimpleNamespace(num_reserved=1, num_slots=2)),
    )
    metrics.response_started("POST", "/chat", 200)
    metrics.request_finished(new_stream(request([1], 1)), "stop")
    families = text_string_to_metric_families(metrics.text().decode())
    return {sample.name: set(sample.labels) for family in families for sample in family.samples}


EXPORTED = exported()


@pytest.mark.parametrize("expression", list(expressions()))
def test_expression_queries_exported_metrics_and_labels(expression: str) -> None:
    queried = re.findall(r"\b((?:vllm:|phi3_)\w+)(?:\{([^}]*)\})?", expression)
    assert queried, "the expression queries no metric of the server"
    for name, matchers in queried:
        assert name in EXPORTED
        labels = set(re.findall(r"(\w+)(?:=|!~)", matchers))
        assert labels <= EXPORTED[name] | TARGET_LABELS
    grouped = {label.strip() for group in re.findall(r"\bby \(([^)]*)\)", expression) for label in group.split(",")}
    assert grouped <= set.union(*(EXPORTED[name] for name, _ in queried)) | TARGET_LABELS


def test_autoscaler_metric_is_exported() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert values["autoscaling"]["hpaMetric"].replace("vllm_", "vllm:", 1) in EXPORTED


def test_alerts_select_only_their_release() -> None:
    for rule in rules():
        assert len(re.findall(r"\{", rule["expr"])) == rule["expr"].count('{namespace="models",pod=~"phi3-')


def test_alerts_have_a_summary_a_description_and_a_severity() -> None:
    assert len({rule["alert"] for rule in rules()}) == len(rules())
    for rule in rules():
        assert set(rule["annotations"]) == {"summary", "description"}
        assert rule["labels"]["severity"] in ("warning", "critical")


def test_panels_have_a_title_and_a_description_and_do_not_overlap() -> None:
    panels = DASHBOARD["panels"]
    taken = [
        (x, y)
        for position in (panel["gridPos"] for panel in panels)
        for x in range(position["x"], position["x"] + position["w"])
        for y in range(position["y"], position["y"] + position["h"])
    ]
    assert len(taken) == len(set(taken))
    assert all(panel["title"] and panel["description"] for panel in panels)
    assert len({panel["id"] for panel in panels}) == len(panels)
