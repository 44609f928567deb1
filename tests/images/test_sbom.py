"""Bills of materials are valid, complete, and the same whoever makes them."""

import json
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from images import sbom as bom
from images.catalogue import Model, find
from images.errors import ImageError
from images.oci import reference
from images.runtime.inspect import describe
from images.runtime.inventory import Inventory, Package
from images.weights import lock
from images.weights.folder import Folder
from tests.support.hub import Hub
from tools.harness.images import archive, locked, runtime

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


def checked(document: bytes) -> dict[str, Any]:
    """Hold a document against the format's schema, strictly."""
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(document.decode()) is None
    content: dict[str, Any] = json.loads(document)
    return content


def test_packages_have_the_names_that_scanners_look_for() -> None:
    content = checked(bom.of_runtime(DIGEST, "1.2.3", FOUND))
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


def test_a_document_is_the_same_every_time() -> None:
    assert bom.of_runtime(DIGEST, "1", FOUND) == bom.of_runtime(DIGEST, "1", FOUND)
    other = json.loads(bom.of_runtime("sha256:" + "b" * 64, "1", FOUND))["serialNumber"]
    assert json.loads(bom.of_runtime(DIGEST, "1", FOUND))["serialNumber"] != other


def test_weights_are_a_model_with_the_hash_of_every_file(hub: Hub, model: Model, tmp_path: Path) -> None:
    entry = locked(model, tmp_path / "lock.json")
    document = bom.of_weights(entry)
    content = checked(document)
    subject = content["metadata"]["component"]
    assert (subject["type"], subject["name"]) == ("machine-learning-model", "microsoft/Phi-3-mini-4k-instruct")
    assert subject["purl"] == f"pkg:huggingface/microsoft/Phi-3-mini-4k-instruct@{hub.revision}"
    assert subject["licenses"] == [{"license": {"id": "MIT"}}]
    assert subject["modelCard"]["modelParameters"]["modelArchitecture"] == "Phi3ForCausalLM"
    assert bom.files(document) == {file.name: file.sha256 for file in entry.files}
    layers = {one["name"]: one["properties"][0]["value"] for one in content["components"]}
    assert layers == {file.name: one.digest for one in entry.layers for file in one.layer.files}


def test_a_model_of_a_folder_has_no_address_on_a_hub(hub: Hub) -> None:
    subject = checked(bom.of_weights(lock.make(find("demo"), Folder(hub.folder), 1)))["metadata"]["component"]
    assert (subject["name"], "purl" in subject) == ("demo", False)


@pytest.mark.parametrize("document", [b"", b"[]", b'{"components": [{}]}'])
def test_what_is_no_document_is_named(document: bytes) -> None:
    with pytest.raises(ImageError, match="cannot be read"):
        bom.files(document)


def test_a_runtime_is_described_by_what_its_layers_hold(tmp_path: Path) -> None:
    metadata = b"Name: flask\nVersion: 3.1.2\nLicense-Expression: BSD-3-Clause\n"
    image = reference.parse(f"oci:{tmp_path}/runtime:1")
    layers = [archive({"usr/lib/os-release": b"ID=debian\n"}), archive({"srv/flask.dist-info/METADATA": metadata})]
    manifest = runtime(image.store, layers=layers)
    content = checked(describe(image))
    assert {one["name"] for one in content["components"]} == {"debian", "flask"}
    assert content["metadata"]["component"]["bom-ref"] == manifest.digest
