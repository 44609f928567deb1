"""The life cycle of a release: install, test, upgrade, roll back, uninstall."""

import json

import pytest
import yaml

from tests.cluster.cluster import CHART, RELEASE, Namespace, wait_until

KINDS = "all,configmap,secret,ingress,networkpolicy,poddisruptionbudget,serviceaccount,role,rolebinding"
DEFAULT_OBJECTS = {"ConfigMap/kube-root-ca.crt", "ServiceAccount/default"}


def objects(namespace: Namespace) -> set[str]:
    """Return KIND/NAME of the objects that the namespace does not have by default."""
    found = namespace.get(KINDS)
    return {f"{manifest['kind']}/{manifest['metadata']['name']}" for manifest in found} - DEFAULT_OBJECTS


@pytest.mark.parametrize(
    "file",
    [
        pytest.param(path.name, marks=() if path.name == "keys-values.yaml" else pytest.mark.slow)
        for path in sorted(CHART.glob("ci/*-values.yaml"))
    ],
)
def test_release_installs_upgrades_rolls_back_and_uninstalls(file: str, namespace: Namespace) -> None:
    values = CHART / "ci" / file
    namespace.install(f"--values={values}")
    assert "FAILED" not in (logs := namespace.helm("test", RELEASE, "--logs"))
    assert "The capital of France is Paris." in logs

    before = namespace.get("deployment", RELEASE)[0]["spec"]["template"]
    namespace.install(f"--values={values}", "--set=drainSeconds=7")
    assert namespace.get("deployment", RELEASE)[0]["spec"]["template"] != before
    namespace.helm("rollback", RELEASE, "--wait", "--timeout=300s")
    assert namespace.get("deployment", RELEASE)[0]["spec"]["template"] == before
    assert "FAILED" not in namespace.helm("test", RELEASE, "--logs")

    statuses = [revision["status"] for revision in json.loads(namespace.helm("history", RELEASE, "--output=json"))]
    assert statuses == ["superseded", "superseded", "deployed"]
    namespace.helm("uninstall", RELEASE, "--wait", "--timeout=120s")
    keys = yaml.safe_load(values.read_text()).get("auth", {}).get("generate", False)
    kept = {f"Secret/{RELEASE}-api-keys"} if keys else set()
    # A stopping server drains first.
    wait_until(
        lambda: objects(namespace) == kept, f"objects that uninstallation left: {objects(namespace)}", seconds=60
    )
