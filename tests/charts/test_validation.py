"""What the chart renders is valid to the last field, for every supported Kubernetes and for the operators' kinds."""

import functools
import json
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from kubernetes_validate import utils

from tests.charts.cases import FEATURES
from tests.charts.helm import CHART, Manifest, render

VERSIONS = ["1.34", "1.35", "1.36", "1.37"]
# By kind: the module of tests/charts/crds/go.mod that defines it, and the file there.
OPERATORS = {
    "HTTPRoute": ("sigs.k8s.io/gateway-api", "config/crd/standard/gateway.networking.k8s.io_httproutes.yaml"),
    "ScaledObject": ("github.com/kedacore/keda/v2", "config/crd/bases/keda.sh_scaledobjects.yaml"),
} | {
    kind: (
        "github.com/prometheus-operator/prometheus-operator",
        f"example/prometheus-operator-crd/monitoring.coreos.com_{kind.lower()}s.yaml",
    )
    for kind in ("ServiceMonitor", "PodMonitor", "PrometheusRule")
}


@functools.cache
def module(path: str) -> Path:
    """Return the folder of a pinned Go module, downloaded on first use."""
    command = ["go", "mod", "download", "-json", path]
    done = subprocess.run(command, cwd=Path(__file__).parent / "crds", capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return Path(json.loads(done.stdout)["Dir"])


def strict(schema: Any) -> Any:
    """Return a schema that refuses fields which it does not have."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    parts = {key: strict(part) for key, part in schema.items()}
    if "properties" in schema and "additionalProperties" not in schema and isinstance(schema["properties"], dict):
        parts["additionalProperties"] = False
    return parts


@functools.cache
def operator_schema(kind: str) -> jsonschema.Draft202012Validator:
    """Return what checks an operator's kind, in the version that the chart renders."""
    path, file = OPERATORS[kind]
    definition = yaml.load((module(path) / file).read_text(), yaml.CSafeLoader)
    (version,) = (version for version in definition["spec"]["versions"] if version["storage"])
    schema = version["schema"]["openAPIV3Schema"]
    schema["properties"]["metadata"] = {"type": "object", "properties": {"name": {}, "labels": {}}}
    group = f"{definition['spec']['group']}/{version['name']}"
    schema["properties"]["apiVersion"] = {"const": group}
    return jsonschema.Draft202012Validator(strict(schema))


@functools.cache
def validate(manifest: str, version: str) -> None:
    """Hold an object against the schema of a Kubernetes, or of its operator."""
    content: Manifest = json.loads(manifest)
    if content["kind"] in OPERATORS:
        operator_schema(content["kind"]).validate(content)
    else:
        assert kubernetes_validate.validate(content, version, strict=True) == version


@pytest.fixture(autouse=True, scope="module")
def schemas_are_read_once() -> None:
    utils.schema_contents = functools.cache(utils.schema_contents)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("feature", FEATURES)
def test_every_feature_is_valid(feature: str, version: str) -> None:
    for manifest in render(FEATURES[feature]):
        validate(json.dumps(manifest), version)


def test_every_kind_of_an_operator_is_among_the_features() -> None:
    rendered = {manifest["kind"] for feature in FEATURES.values() for manifest in render(feature)}
    assert set(OPERATORS) <= rendered


@pytest.mark.parametrize("kind", ["Deployment", "Pod", "Service", "NetworkPolicy"])
def test_a_field_that_kubernetes_does_not_have_is_found(kind: str) -> None:
    (manifest,) = (manifest for manifest in render({}) if manifest["kind"] == kind)
    manifest["spec"]["typo"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        validate(json.dumps(manifest), VERSIONS[-1])


@pytest.mark.parametrize("kind", OPERATORS)
def test_a_field_that_an_operator_does_not_have_is_found(kind: str) -> None:
    found = [manifest for feature in FEATURES.values() for manifest in render(feature) if manifest["kind"] == kind]
    found[0]["spec"]["typo"] = 1
    with pytest.raises(jsonschema.ValidationError):
        validate(json.dumps(found[0]), VERSIONS[-1])


def test_the_supported_versions_are_those_of_the_chart() -> None:
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["kubeVersion"] == f">={VERSIONS[0]}.0-0"
