"""SBOMs are valid, complete and reproducible."""

import json
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from checkpoints.catalogue import CatalogueModel, get_model
from images.errors import ImageError
from images.oci.reference import parse_reference
from images.runtime.inspect import inspect_runtime
from images.runtime.inventory import Inventory, Package
from images.runtime.sbom import runtime_sbom
from images.weights.directory_source import DirectorySource
from images.weights.lock import lock_model
from images.weights.sbom import file_hashes, weights_sbom
from tests.support.hub import Hub
from tools.harness.images import lock_from_hub, push_runtime, tar_archive

DIGEST = "sha256:" + "a" * 64
FOUND = Inventory(
    (
        Package("deb", "libc6", "2.36-9", "amd64", "glibc@2.36-9"),
        Package("generic", "python", "3.11.13", licence="PSF-2.0"),
        Package("pypi", "flask", "3.1.2", licence="BSD-3-Clause"),
        Package("pypi", "odd", "1", licence="Apache 2.0 and some more"),
        Package("pypi", "two", "1", licence="Apache-2.0 OR MIT"),
    ),
    "debian",
    "12",
)


def parse_document(document: bytes) -> dict[str, Any]:
    """Validate a document against the schema of the format, and parse it."""
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(document.decode()) is None
    content: dict[str, Any] = json.loads(document)
    return content


def test_packages_have_the_identifiers_that_scanners_use() -> None:
    content = parse_document(runtime_sbom(DIGEST, "1.2.3", FOUND).content)
    assert content["metadata"]["component"]["purl"] == f"pkg:oci/phi-3-runtime@{DIGEST}"
    assert content["metadata"]["component"]["version"] == "1.2.3"
    components = {one["name"]: one for one in content["components"]}
    assert set(components) == {"libc6", "python", "flask", "odd", "two", "debian"}
    assert components["libc6"]["purl"].startswith("pkg:deb/debian/libc6@2.36-9?arch=amd64&distro=debian-12&upstream=")
    assert components["flask"]["purl"] == "pkg:pypi/flask@3.1.2"
    assert components["flask"]["licenses"] == [{"license": {"id": "BSD-3-Clause"}}]
    assert components["two"]["licenses"] == [{"expression": "Apache-2.0 OR MIT"}]
    assert components["odd"]["licenses"] == [{"license": {"name": "Apache 2.0 and some more"}}]
    assert components["python"]["cpe"].startswith("cpe:2.3:a:python:python:3.11.13:")
    assert (components["debian"]["type"], components["debian"]["version"]) == ("operating-system", "12")


def test_document_is_reproducible() -> None:
    assert runtime_sbom(DIGEST, "1", FOUND) == runtime_sbom(DIGEST, "1", FOUND)
    other = json.loads(runtime_sbom("sha256:" + "b" * 64, "1", FOUND).content)["serialNumber"]
    assert json.loads(runtime_sbom(DIGEST, "1", FOUND).content)["serialNumber"] != other


def test_weights_are_a_model_with_the_hash_of_every_file(hub: Hub, model: CatalogueModel, tmp_path: Path) -> None:
    entry = lock_from_hub(model, tmp_path / "lock.json")
    document = weights_sbom(entry).content
    content = parse_document(document)
    subject = content["metadata"]["component"]
    assert (subject["type"], subject["name"]) == ("machine-learning-model", "microsoft/Phi-3-mini-4k-instruct")
    assert subject["purl"] == f"pkg:huggingface/microsoft/Phi-3-mini-4k-instruct@{hub.revision}"
    assert subject["licenses"] == [{"license": {"id": "MIT"}}]
    assert subject["modelCard"]["modelParameters"]["modelArchitecture"] == "Phi3ForCausalLM"
    assert file_hashes(document) == {file.name: file.sha256 for file in entry.files}
    layers = {one["name"]: one["properties"][0]["value"] for one in content["components"]}
    assert layers == {file.name: one.digest for one in entry.layers for file in one.layer.files}


def test_model_from_a_directory_has_no_package_url(hub: Hub) -> None:
    subject = parse_document(weights_sbom(lock_model(get_model("demo"), DirectorySource(hub.directory), 1)).content)[
        "metadata"
    ]["component"]
    assert (subject["name"], "purl" in subject) == ("demo", False)


@pytest.mark.parametrize("document", [b"", b"[]", b'{"components": [{}]}'])
def test_malformed_document_is_named(document: bytes) -> None:
    with pytest.raises(ImageError, match="cannot be read"):
        file_hashes(document)


def test_sbom_of_a_runtime_lists_the_packages_of_its_layers(tmp_path: Path) -> None:
    metadata = b"Name: flask\nVersion: 3.1.2\nLicense-Expression: BSD-3-Clause\n"
    image = parse_reference(f"oci:{tmp_path}/runtime:1")
    layers = [
        tar_archive({"usr/lib/os-release": b"ID=debian\n"}),
        tar_archive({"srv/flask.dist-info/METADATA": metadata}),
    ]
    manifest = push_runtime(image.store, layers=layers)
    content = parse_document(inspect_runtime(image).content)
    assert {one["name"] for one in content["components"]} == {"debian", "flask"}
    assert content["metadata"]["component"]["bom-ref"] == manifest.digest
