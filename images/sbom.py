"""Bills of materials: what is in the runtime, and what the weights are, as CycloneDX documents.

A document depends on what it describes alone, so that it is the same whoever makes it, and whenever.
The format: https://cyclonedx.org/docs/1.6/json/
"""

import json
import uuid
from collections.abc import Iterable
from typing import Any

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.tool import ToolRepository
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from images.errors import ImageError
from images.runtime.inventory import Inventory, Package
from images.weights.lock import Entry

MEDIA_TYPE = "application/vnd.cyclonedx+json"
RUNTIME = "runtime.cdx.json"
WEIGHTS = "weights.cdx.json"
"""Titles of the two documents."""
CARD = {
    "modelParameters": {
        "task": "text-generation",
        "architectureFamily": "transformer",
        "modelArchitecture": "Phi3ForCausalLM",
        "inputs": [{"format": "string"}],
        "outputs": [{"format": "string"}],
    }
}


def of_runtime(digest: str, version: str, found: Inventory) -> bytes:
    """Return the document of the runtime image with that digest."""
    runtime = Component(
        name="phi-3-runtime",
        type=ComponentType.CONTAINER,
        version=version,
        bom_ref=digest,
        purl=PackageURL("oci", name="phi-3-runtime", version=digest),
    )
    components = [_package(package, found) for package in found.packages]
    if found.distribution:
        system, release = found.distribution, found.release
        kind = ComponentType.OPERATING_SYSTEM
        components.append(Component(name=system, type=kind, version=release, bom_ref=f"{system}-{release}"))
    return _bytes(_document(runtime, components))


def of_weights(entry: Entry) -> bytes:
    """Return the document of a model's weights."""
    namespace, _, name = entry.repository.rpartition("/")
    model = Component(
        name=entry.repository or entry.model,
        type=ComponentType.MACHINE_LEARNING_MODEL,
        version=entry.revision,
        bom_ref=entry.tag,
        licenses=[LicenseFactory().make_from_string(entry.licence)],
        purl=PackageURL("huggingface", namespace, name, entry.revision) if name else None,
    )
    files = [
        Component(
            name=file.name,
            type=ComponentType.FILE,
            bom_ref=f"{entry.tag}/{file.name}",
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=file.sha256 or "")],
            properties=[
                Property(name="phi3:layer", value=locked.digest),
                Property(name="phi3:size", value=str(file.size)),
            ],
        )
        for locked in entry.layers
        for file in locked.layer.files
    ]
    document = _document(model, files)
    document["metadata"]["component"]["modelCard"] = CARD  # which the library does not know
    return _bytes(document)


def files(document: bytes) -> dict[str, str]:
    """Return the SHA-256 of each file of weights in a document; raises ImageError where it is none."""
    try:
        components = [one for one in json.loads(document)["components"] if one["type"] == "file"]
        return {one["name"]: one["hashes"][0]["content"] for one in components}
    except (ValueError, LookupError, TypeError) as error:
        raise ImageError(f"the bill of materials of the weights cannot be read: {error!r}") from error


def _document(subject: Component, components: Iterable[Component]) -> dict[str, Any]:
    tool = Component(name="phi3", type=ComponentType.APPLICATION, bom_ref="phi3", description="python -m images")
    metadata = BomMetaData(component=subject, tools=ToolRepository(components=[tool]))
    bom = Bom(components=components, metadata=metadata)
    bom.register_dependency(subject, bom.components)
    document: dict[str, Any] = json.loads(JsonV1Dot6(bom).output_as_string())
    del document["metadata"]["timestamp"], document["serialNumber"]
    document["serialNumber"] = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(document, sort_keys=True)).urn
    return document


def _bytes(document: dict[str, Any]) -> bytes:
    """Return a document as short as can be, since it goes along with every release."""
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def _package(package: Package, found: Inventory) -> Component:
    kind, qualifiers, namespace = package.kind, dict[str, str](), ""
    if kind == "deb":
        # As scanners read them to find out which list of vulnerabilities applies.
        qualifiers = {"arch": package.architecture, "distro": f"{found.distribution}-{found.release}"}
        namespace = found.distribution
        if package.origin:
            qualifiers["upstream"] = package.origin
    purl = PackageURL(kind, namespace or None, package.name, package.version, qualifiers)
    is_python = kind == "generic"
    return Component(
        name=package.name,
        version=package.version,
        type=ComponentType.APPLICATION if is_python else ComponentType.LIBRARY,
        bom_ref=purl.to_string(),
        purl=purl,
        cpe=f"cpe:2.3:a:python:python:{package.version}:*:*:*:*:*:*:*" if is_python else None,
        licenses=[LicenseFactory().make_from_string(package.licence)] if package.licence else [],
    )
