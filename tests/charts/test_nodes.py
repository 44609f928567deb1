"""Where the servers run, and how they follow each other there."""

from typing import Any

import pytest

from tests.charts.cases import ANTI_AFFINITY, FEATURES, GPU_POOL
from tests.charts.helm import one, pod, server

FLOOR = {"key": "nvidia.com/gpu.memory", "operator": "Gt", "values": ["10531"]}
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"


def terms(values: dict[str, Any]) -> list[dict[str, Any]]:
    """The terms of which a node must fulfil one."""
    return list(pod(values)["affinity"]["nodeAffinity"][REQUIRED]["nodeSelectorTerms"])


def test_the_choice_of_gpus_is_in_every_term_of_the_user_s() -> None:
    own = GPU_POOL["nodeAffinity"][REQUIRED]["nodeSelectorTerms"]
    assert terms({"affinity": GPU_POOL}) == [
        {"matchExpressions": [*own[0]["matchExpressions"], FLOOR]},
        {"matchFields": own[1]["matchFields"], "matchExpressions": [FLOOR]},
    ]


def test_affinity_to_pods_stays_beside_the_choice_of_gpus() -> None:
    affinity = pod({"affinity": ANTI_AFFINITY})["affinity"]
    assert affinity["podAntiAffinity"] == ANTI_AFFINITY["podAntiAffinity"]
    assert terms({"affinity": ANTI_AFFINITY}) == [{"matchExpressions": [FLOOR]}]


def test_gpus_are_found_by_product() -> None:
    (term,) = terms(FEATURES["GPUs by product"])
    key, products = "cloud.google.com/gke-accelerator", ["nvidia-l4", "nvidia-h100-80gb"]
    assert term["matchExpressions"] == [{"key": key, "operator": "In", "values": products}]


def test_gpus_are_found_by_another_label() -> None:
    (term,) = terms(FEATURES["GPUs by another label"])
    assert term["matchExpressions"] == [FLOOR | {"key": "karpenter.k8s.aws/instance-gpu-memory"}]


def test_gpus_are_left_to_the_user_s_selector() -> None:
    spec = pod(FEATURES["GPUs by nothing"])
    assert "affinity" not in spec
    assert spec["nodeSelector"] == {"pool": "gpu"}
    assert server(FEATURES["GPUs by nothing"])["resources"]["limits"]["nvidia.com/gpu"] == 1


def test_the_rest_of_the_placement_is_the_user_s() -> None:
    values = FEATURES["placement"]
    spec = pod(values)
    for key in ("nodeSelector", "tolerations", "topologySpreadConstraints", "priorityClassName", "runtimeClassName"):
        assert spec[key] == values[key]


def test_taints_of_gpu_nodes_are_for_models_that_need_them() -> None:
    own = {"key": "team", "operator": "Exists"}
    on_gpu = [toleration["key"] for toleration in pod({"tolerations": [own]})["tolerations"]]
    assert on_gpu == ["nvidia.com/gpu", "sku", "team"]
    assert pod({"model": "demo", "tolerations": [own]})["tolerations"] == [own]
    assert "tolerations" not in pod({"model": "demo"})


RECREATE = {"type": "Recreate"}
IN_TURN = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}


@pytest.mark.parametrize(
    ("values", "strategy"),
    [
        ({}, RECREATE),
        ({"replicaCount": 2}, IN_TURN),
        ({"replicaCount": 0}, IN_TURN),
        ({"model": "demo"}, IN_TURN),
        (FEATURES["an autoscaler"], IN_TURN),
        (FEATURES["KEDA"], IN_TURN),
    ],
    ids=str,
)
def test_a_new_server_never_waits_for_the_gpu_of_an_old_one(values: dict[str, Any], strategy: dict[str, Any]) -> None:
    assert one("Deployment", values)["spec"]["strategy"] == strategy


@pytest.mark.parametrize("drain", [0, 30, 300])
def test_a_server_has_time_to_drain(drain: int) -> None:
    values = {"drainSeconds": drain}
    wait = server(values)["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod(values)["terminationGracePeriodSeconds"] > wait + drain
    assert {"name": "CHAT_DRAIN_SECONDS", "value": str(drain)} in server(values)["env"]


def test_probes_ask_the_three_routes() -> None:
    probes = {name: server({})[f"{name}Probe"] for name in ("startup", "liveness", "readiness")}
    routes = {name: probe["httpGet"]["path"] for name, probe in probes.items()}
    assert routes == {"startup": "/startupz", "liveness": "/livez", "readiness": "/readyz"}
    assert all(probe["timeoutSeconds"] >= 5 for probe in probes.values())
