"""The chart's whole life in a namespace that admits restricted pods alone: installed, asked, upgraded, gone."""

import json

import pytest
import yaml

from tests.cluster.cluster import CHART, RELEASE, Namespace, wait

KINDS = "all,configmap,secret,ingress,networkpolicy,poddisruptionbudget,serviceaccount,role,rolebinding"
KEPT_BY_KUBERNETES = {"ConfigMap/kube-root-ca.crt", "ServiceAccount/default"}


def objects(namespace: Namespace) -> set[str]:
    found = namespace.get(KINDS)
    return {f"{one['kind']}/{one['metadata']['name']}" for one in found} - KEPT_BY_KUBERNETES


@pytest.mark.parametrize(
    "file",
    [
        pytest.param(path.name, marks=() if path.name == "keys-values.yaml" else pytest.mark.slow)
        for path in sorted(CHART.glob("ci/*-values.yaml"))
    ],
)
def test_a_release_is_installed_asked_upgraded_rolled_back_and_leaves_nothing(file: str, namespace: Namespace) -> None:
    values = CHART / "ci" / file
    namespace.install(f"--values={values}")
    assert "FAILED" not in (said := namespace.helm("test", RELEASE, "--logs"))
    assert "The capital of France is Paris." in said

    before = namespace.get("deployment", RELEASE)[0]["spec"]["template"]
    namespace.install(f"--values={values}", "--set=drainSeconds=7")
    assert namespace.get("deployment", RELEASE)[0]["spec"]["template"] != before
    namespace.helm("rollback", RELEASE, "--wait", "--timeout=300s")
    assert namespace.get("deployment", RELEASE)[0]["spec"]["template"] == before
    assert "FAILED" not in namespace.helm("test", RELEASE, "--logs")

    statuses = [one["status"] for one in json.loads(namespace.helm("history", RELEASE, "--output=json"))]
    assert statuses == ["superseded", "superseded", "deployed"]
    namespace.helm("uninstall", RELEASE, "--wait", "--timeout=120s")
    keys = yaml.safe_load(values.read_text()).get("auth", {}).get("generate", False)
    kept = {f"Secret/{RELEASE}-api-keys"} if keys else set()
    # A server that is stopped has its time to drain.
    wait(lambda: objects(namespace) == kept, f"left behind: {objects(namespace)}", seconds=60)
