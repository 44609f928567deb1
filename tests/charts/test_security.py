"""Every pod passes the restricted Pod Security Standard, and has what it needs and no more."""

from typing import Any

import pytest

from tests.charts.cases import FEATURES
from tests.charts.helm import MODELS, pod, render, server

# Source: https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted
VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image", "persistentVolumeClaim", "secret"}
OWN = [feature for feature in FEATURES if feature != "another identity"]


def pods(values: dict[str, Any]) -> list[dict[str, Any]]:
    """The specs of all pods that come of values."""
    found = []
    for manifest in render({"prepull": {"enabled": True}} | values):
        spec = manifest.get("spec", {})
        if manifest["kind"] == "Pod":
            found.append(spec)
        elif manifest["kind"] in ("Deployment", "DaemonSet"):
            found.append(spec["template"]["spec"])
    return found


@pytest.mark.parametrize("feature", OWN)
def test_every_pod_is_restricted(feature: str) -> None:
    found = pods(FEATURES[feature])
    assert len(found) == 3
    for spec in found:
        assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & set(spec)
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for volume in spec.get("volumes", []):
            assert set(volume) - {"name"} <= VOLUMES
        for container in spec["containers"]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert not any("hostPort" in port for port in container.get("ports", []))


@pytest.mark.parametrize("feature", OWN)
def test_no_pod_writes_where_it_need_not_or_holds_a_token(feature: str) -> None:
    for spec in pods(FEATURES[feature]):
        assert spec["automountServiceAccountToken"] is False
        # A Service called chat would set CHAT_PORT in every pod of its namespace.
        assert spec["enableServiceLinks"] is False
        for container in spec["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert "limits" in container["resources"]


@pytest.mark.parametrize("model", MODELS)
def test_the_server_writes_to_tmp_and_shared_memory_alone(model: str) -> None:
    mounts = {mount["name"]: mount["mountPath"] for mount in server({"model": model})["volumeMounts"]}
    assert mounts == {"tmp": "/tmp", "dev-shm": "/dev/shm"}  # noqa: S108 - the container's
    assert pod({"model": model})["volumes"] == [
        {"name": "tmp", "emptyDir": {}},
        {"name": "dev-shm", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}},
    ]


def test_contexts_are_the_user_s_to_change() -> None:
    spec = pod(FEATURES["another identity"])
    assert spec["serviceAccountName"] == "phi3"
    assert spec["securityContext"]["fsGroup"] == 1000
    assert spec["containers"][0]["securityContext"]["runAsNonRoot"] is True


def test_a_context_is_removed_where_the_cluster_assigns_one() -> None:
    context = pod({"podSecurityContext": {"runAsUser": None, "runAsGroup": None, "fsGroup": None}})["securityContext"]
    assert context == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
