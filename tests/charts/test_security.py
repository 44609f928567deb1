"""Pods meet the restricted Pod Security Standard and have only the permissions that they need."""

from typing import Any

import pytest

from tests.charts.cases import FEATURES
from tests.charts.helm import MODELS, pod, render, server

# Source: https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted
VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image", "persistentVolumeClaim", "secret"}
RESTRICTED = [feature for feature in FEATURES if feature != "custom security contexts"]


def pods(values: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the specs of all pods that the chart renders, including those of the prepull DaemonSet."""
    found = []
    for manifest in render({"prepull": {"enabled": True}} | values):
        spec = manifest.get("spec", {})
        if manifest["kind"] == "Pod":
            found.append(spec)
        elif manifest["kind"] in ("Deployment", "DaemonSet"):
            found.append(spec["template"]["spec"])
    return found


@pytest.mark.parametrize("feature", RESTRICTED)
def test_pods_meet_the_restricted_standard(feature: str) -> None:
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


@pytest.mark.parametrize("feature", RESTRICTED)
def test_pods_have_a_read_only_root_limits_and_no_token(feature: str) -> None:
    for spec in pods(FEATURES[feature]):
        assert spec["automountServiceAccountToken"] is False
        # A Service called chat would set CHAT_PORT in every pod of its namespace.
        assert spec["enableServiceLinks"] is False
        for container in spec["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert "limits" in container["resources"]


@pytest.mark.parametrize("model", MODELS)
def test_server_writes_only_to_tmp_and_shared_memory(model: str) -> None:
    mounts = {mount["name"]: mount["mountPath"] for mount in server({"model": model})["volumeMounts"]}
    assert mounts == {"tmp": "/tmp", "dev-shm": "/dev/shm"}  # noqa: S108 - paths in the container
    assert pod({"model": model})["volumes"] == [
        {"name": "tmp", "emptyDir": {}},
        {"name": "dev-shm", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}},
    ]


def test_values_override_security_contexts() -> None:
    spec = pod(FEATURES["custom security contexts"])
    assert spec["serviceAccountName"] == "phi3"
    assert spec["securityContext"]["fsGroup"] == 1000
    assert spec["containers"][0]["securityContext"]["runAsNonRoot"] is True


def test_null_removes_an_id_that_the_cluster_assigns() -> None:
    context = pod({"podSecurityContext": {"runAsUser": None, "runAsGroup": None, "fsGroup": None}})["securityContext"]
    assert context == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
