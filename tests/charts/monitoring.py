"""The alerts and the PromQL expressions of the chart."""

import json
from collections.abc import Iterator
from typing import Any

from tests.charts.cases import FEATURES
from tests.charts.helm import CHART, one

DASHBOARD = json.loads((CHART / "files/dashboard.json").read_text())


def rules() -> list[dict[str, Any]]:
    """Return the alerts as the chart renders them."""
    (group,) = one("PrometheusRule", FEATURES["alerts and a dashboard"])["spec"]["groups"]
    return list(group["rules"])


def expressions() -> Iterator[str]:
    """Yield every PromQL expression of the alerts, the dashboard and the autoscaler."""
    yield from (rule["expr"] for rule in rules())
    yield from (target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"])
    yield from (variable["query"]["query"] for variable in DASHBOARD["templating"]["list"][1:])
    yield one("ScaledObject", FEATURES["KEDA"])["spec"]["triggers"][0]["metadata"]["query"]
