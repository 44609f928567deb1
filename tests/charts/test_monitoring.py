"""Alerts, the dashboard and the autoscaler ask for figures that the server really exports."""

import json
import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from app.engine.engine import Engine
from app.engine.kv_cache import KeyValueCache
from app.metrics import Metrics
from tests.charts.cases import FEATURES
from tests.charts.helm import CHART, one
from tests.support.requests import new_stream, request

# Prometheus adds these to whatever it reads from a pod.
OF_THE_TARGET = {"namespace", "pod"}
DASHBOARD = json.loads((CHART / "files/dashboard.json").read_text())


def exported() -> dict[str, set[str]]:
    """The names of all samples that a server exports, with their labels."""
    metrics = Metrics("demo")
    metrics.observe_engine(
        cast("Engine", SimpleNamespace(running=1, waiting=1)),
        cast("KeyValueCache", SimpleNamespace(reserved=1, tokens=2)),
    )
    metrics.answered("POST", "/chat", 200)
    metrics.served(new_stream(request([1], 1)), "stop")
    families = text_string_to_metric_families(metrics.text().decode())
    return {sample.name: set(sample.labels) for family in families for sample in family.samples}


EXPORTED = exported()


def rules() -> list[dict[str, Any]]:
    """The alerts, as a cluster gets them."""
    (group,) = one("PrometheusRule", FEATURES["alerts and a dashboard"])["spec"]["groups"]
    return list(group["rules"])


def expressions() -> Iterator[str]:
    """Every expression for Prometheus that the chart has."""
    yield from (rule["expr"] for rule in rules())
    yield from (target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"])
    yield from (variable["query"]["query"] for variable in DASHBOARD["templating"]["list"][1:])
    yield one("ScaledObject", FEATURES["KEDA"])["spec"]["triggers"][0]["metadata"]["query"]


@pytest.mark.parametrize("expression", list(expressions()))
def test_what_is_asked_for_is_exported(expression: str) -> None:
    asked = re.findall(r"\b((?:vllm:|phi3_)\w+)(?:\{([^}]*)\})?", expression)
    assert asked, "it asks for nothing of the server's"
    for name, matchers in asked:
        assert name in EXPORTED
        labels = set(re.findall(r"(\w+)(?:=|!~)", matchers))
        assert labels <= EXPORTED[name] | OF_THE_TARGET
    grouped = {label.strip() for group in re.findall(r"\bby \(([^)]*)\)", expression) for label in group.split(",")}
    assert grouped <= set.union(*(EXPORTED[name] for name, _ in asked)) | OF_THE_TARGET


def test_the_name_for_the_adapter_is_the_metric_s() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert values["autoscaling"]["hpaMetric"].replace("vllm_", "vllm:", 1) in EXPORTED


def test_alerts_are_about_the_release_alone() -> None:
    for rule in rules():
        assert len(re.findall(r"\{", rule["expr"])) == rule["expr"].count('{namespace="models",pod=~"phi3-')


def test_every_alert_says_what_is_wrong_and_what_to_do() -> None:
    assert len({rule["alert"] for rule in rules()}) == len(rules())
    for rule in rules():
        assert set(rule["annotations"]) == {"summary", "description"}
        assert rule["labels"]["severity"] in ("warning", "critical")


def test_panels_do_not_overlap_and_say_what_they_show() -> None:
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
