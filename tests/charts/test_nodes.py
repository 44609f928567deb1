"""Placement of the servers on nodes, and their replacement during an update."""

from typing import Any

import pytest

from tests.charts.cases import ANTI_AFFINITY, FEATURES, GPU_POOL
from tests.charts.helm import one, pod, server

GPU_REQUIREMENT = {"key": "nvidia.com/gpu.memory", "operator": "Gt", "values": ["10531"]}
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"


def terms(values: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the node selector terms; a node must match at least one."""
    return list(pod(values)["affinity"]["nodeAffinity"][REQUIRED]["nodeSelectorTerms"])


def test_gpu_requirement_is_added_to_every_node_selector_term() -> None:
    given = GPU_POOL["nodeAffinity"][REQUIRED]["nodeSelectorTerms"]
    assert terms({"affinity": GPU_POOL}) == [
        {"matchExpressions": [*given[0]["matchExpressions"], GPU_REQUIREMENT]},
        {"matchFields": given[1]["matchFields"], "matchExpressions": [GPU_REQUIREMENT]},
    ]


def test_gpu_requirement_preserves_pod_affinity() -> None:
    affinity = pod({"affinity": ANTI_AFFINITY})["affinity"]
    assert affinity["podAntiAffinity"] == ANTI_AFFINITY["podAntiAffinity"]
    assert terms({"affinity": ANTI_AFFINITY}) == [{"matchExpressions": [GPU_REQUIREMENT]}]


def test_gpu_selection_matches_the_product_label() -> None:
    (term,) = terms(FEATURES["GPU selection by product"])
    key, products = "cloud.google.com/gke-accelerator", ["nvidia-l4", "nvidia-h100-80gb"]
    assert term["matchExpressions"] == [{"key": key, "operator": "In", "values": products}]


def test_gpu_selection_matches_a_custom_memory_label() -> None:
    (term,) = terms(FEATURES["GPU selection by another label"])
    assert term["matchExpressions"] == [GPU_REQUIREMENT | {"key": "karpenter.k8s.aws/instance-gpu-memory"}]


def test_gpu_selection_none_adds_no_affinity() -> None:
    spec = pod(FEATURES["no GPU selection"])
    assert "affinity" not in spec
    assert spec["nodeSelector"] == {"pool": "gpu"}
    assert server(FEATURES["no GPU selection"])["resources"]["limits"]["nvidia.com/gpu"] == 1


def test_placement_values_reach_the_pod_spec() -> None:
    values = FEATURES["placement"]
    spec = pod(values)
    for key in ("nodeSelector", "tolerations", "topologySpreadConstraints", "priorityClassName", "runtimeClassName"):
        assert spec[key] == values[key]


def test_only_gpu_models_tolerate_the_taints_of_gpu_nodes() -> None:
    team = {"key": "team", "operator": "Exists"}
    on_gpu = [toleration["key"] for toleration in pod({"tolerations": [team]})["tolerations"]]
    assert on_gpu == ["nvidia.com/gpu", "sku", "team"]
    assert pod({"model": "demo", "tolerations": [team]})["tolerations"] == [team]
    assert "tolerations" not in pod({"model": "demo"})


RECREATE = {"type": "Recreate"}
ONE_BY_ONE = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}


@pytest.mark.parametrize(
    ("values", "strategy"),
    [
        ({}, RECREATE),
        ({"replicaCount": 2}, ONE_BY_ONE),
        ({"replicaCount": 0}, ONE_BY_ONE),
        ({"model": "demo"}, ONE_BY_ONE),
        (FEATURES["an HPA"], ONE_BY_ONE),
        (FEATURES["KEDA"], ONE_BY_ONE),
    ],
    ids=str,
)
def test_update_strategy_frees_the_gpu_before_a_new_server_starts(
    values: dict[str, Any], strategy: dict[str, Any]
) -> None:
    assert one("Deployment", values)["spec"]["strategy"] == strategy


@pytest.mark.parametrize("drain", [0, 30, 300])
def test_grace_period_covers_pre_stop_and_drain(drain: int) -> None:
    values = {"drainSeconds": drain}
    wait = server(values)["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod(values)["terminationGracePeriodSeconds"] > wait + drain
    assert {"name": "CHAT_DRAIN_SECONDS", "value": str(drain)} in server(values)["env"]


def test_probes_request_the_health_routes() -> None:
    probes = {name: server({})[f"{name}Probe"] for name in ("startup", "liveness", "readiness")}
    routes = {name: probe["httpGet"]["path"] for name, probe in probes.items()}
    assert routes == {"startup": "/startupz", "liveness": "/livez", "readiness": "/readyz"}
    assert all(probe["timeoutSeconds"] >= 5 for probe in probes.values())
