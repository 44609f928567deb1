"""Every kind of object, validated by an API server with the real definitions, and the autoscaler's metric."""

import re
from typing import Any

import pytest

from tests.charts.helm import render
from tests.charts.operators import OPERATOR_KINDS, custom_resource_definition
from tests.cluster.cluster import RELEASE, Cluster, Namespace, object_list

ALL: dict[str, Any] = {
    "model": "demo",
    "auth": {"generate": True},
    "networkPolicy": {"from": [{"podSelector": {}}], "egress": [{"ports": [{"port": 53, "protocol": "UDP"}]}]},
    "ingress": {"enabled": True, "hosts": ["phi3.example.com"]},
    "httpRoute": {"enabled": True, "parentRefs": [{"name": "public"}], "hostnames": ["phi3.example.com"]},
    "prepull": {"enabled": True},
}
WAITING = "vllm:num_requests_waiting"
KEDA: dict[str, Any] = {
    "autoscaling": {"mode": "keda", "prometheusAddress": "http://prometheus.example.com:9090"},
    "metrics": {"monitor": {"kind": "ServiceMonitor"}, "rules": {"enabled": True}, "dashboard": {"enabled": True}},
}
HPA: dict[str, Any] = {"autoscaling": {"mode": "hpa"}, "metrics": {"monitor": {"kind": "PodMonitor"}}}


@pytest.fixture(scope="module")
def operators(cluster: Cluster) -> set[str]:
    """Install the definitions of the operators, and return their kinds."""
    for kind in OPERATOR_KINDS:
        definition = custom_resource_definition(kind)
        cluster.apply(definition)
        cluster.kubectl("wait", "--for=condition=Established", f"crd/{definition['metadata']['name']}", "--timeout=60s")
    return set(OPERATOR_KINDS)


def test_api_server_accepts_every_object(namespace: Namespace, operators: set[str]) -> None:
    seen = set()
    for values in (KEDA, HPA):
        objects = render(ALL | values)
        for manifest in objects:
            manifest["metadata"]["namespace"] = namespace.name
        namespace.kubectl(
            "create", "--dry-run=server", "--validate=strict", "-f", "-", stdin=object_list(tuple(objects))
        )
        seen |= {manifest["kind"] for manifest in objects}
    assert operators | {"HorizontalPodAutoscaler", "NetworkPolicy", "Secret", "Ingress", "DaemonSet"} <= seen


def test_api_server_rejects_an_unknown_field(namespace: Namespace, operators: set[str]) -> None:
    """Show that the test above can fail."""
    assert operators
    (manifest,) = (manifest for manifest in render(ALL | KEDA) if manifest["kind"] == "ScaledObject")
    manifest["metadata"]["namespace"] = namespace.name
    manifest["spec"]["maxReplicaCounts"] = 1
    with pytest.raises(AssertionError, match="maxReplicaCounts"):
        namespace.kubectl("create", "--dry-run=server", "--validate=strict", "-f", "-", stdin=object_list((manifest,)))


def test_autoscaler_metric_is_exported(namespace: Namespace) -> None:
    namespace.install(values={"model": "demo"})
    (pod,) = namespace.servers()
    name = pod["metadata"]["name"]
    read = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:5000/metrics').read().decode())"
    metrics = namespace.kubectl("exec", name, "--", "python3", "-c", read)
    assert re.search(rf"^{WAITING}(\{{.*\}})? 0\.0$", metrics, re.MULTILINE)

    (scaled,) = (
        manifest for manifest in render({"model": "demo"} | KEDA, release=RELEASE) if manifest["kind"] == "ScaledObject"
    )
    query = scaled["spec"]["triggers"][0]["metadata"]["query"]
    found = re.search(rf'{WAITING}{{namespace="\w+",pod=~"([^"]+)"}}', query)
    assert found
    assert re.fullmatch(found[1], name)
