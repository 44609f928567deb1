"""Validation of the rendered objects against the schemas of Kubernetes and of the operators."""

import functools
import json
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from kubernetes_validate import utils

from tests.charts.cases import FEATURES
from tests.charts.helm import CHART, Manifest, render
from tests.charts.operators import OPERATOR_KINDS, custom_resource_definition

VERSIONS = ["1.34", "1.35", "1.36", "1.37"]


def strict(schema: Any) -> Any:
    """Return a schema that rejects unknown fields."""
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
    """Return the validator of an operator's kind, in the version that the chart renders."""
    definition = custom_resource_definition(kind)
    (version,) = (version for version in definition["spec"]["versions"] if version["storage"])
    schema = version["schema"]["openAPIV3Schema"]
    schema["properties"]["metadata"] = {"type": "object", "properties": {"name": {}, "labels": {}}}
    schema["properties"]["apiVersion"] = {"const": f"{definition['spec']['group']}/{version['name']}"}
    return jsonschema.Draft202012Validator(strict(schema))


@functools.cache
def validate(manifest: str, version: str) -> None:
    """Validate an object, as JSON, against the schema of a Kubernetes version or of its operator."""
    content: Manifest = json.loads(manifest)
    if content["kind"] in OPERATOR_KINDS:
        operator_schema(content["kind"]).validate(content)
    else:
        assert kubernetes_validate.validate(content, version, strict=True) == version


@pytest.fixture(autouse=True, scope="module")
def cache_kubernetes_schemas() -> None:
    utils.schema_contents = functools.cache(utils.schema_contents)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("feature", FEATURES)
def test_objects_of_every_feature_are_valid(feature: str, version: str) -> None:
    for manifest in render(FEATURES[feature]):
        validate(json.dumps(manifest), version)


def test_features_include_every_operator_kind() -> None:
    rendered = {manifest["kind"] for feature in FEATURES.values() for manifest in render(feature)}
    assert set(OPERATOR_KINDS) <= rendered


@pytest.mark.parametrize("kind", ["Deployment", "Pod", "Service", "NetworkPolicy"])
def test_validation_rejects_an_unknown_kubernetes_field(kind: str) -> None:
    (manifest,) = (manifest for manifest in render({}) if manifest["kind"] == kind)
    manifest["spec"]["typo"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        validate(json.dumps(manifest), VERSIONS[-1])


@pytest.mark.parametrize("kind", OPERATOR_KINDS)
def test_validation_rejects_an_unknown_operator_field(kind: str) -> None:
    manifests = (manifest for feature in FEATURES.values() for manifest in render(feature))
    manifest = next(manifest for manifest in manifests if manifest["kind"] == kind)
    manifest["spec"]["typo"] = 1
    with pytest.raises(jsonschema.ValidationError):
        validate(json.dumps(manifest), VERSIONS[-1])


def test_chart_requires_the_oldest_validated_kubernetes() -> None:
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["kubeVersion"] == f">={VERSIONS[0]}.0-0"
