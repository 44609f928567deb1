"""SBOMs (software bills of materials) as CycloneDX documents.

A document depends only on its subject, so whoever creates it, and whenever, gets the same bytes.
Source of the format: https://cyclonedx.org/docs/1.6/json/
"""

import json
import uuid
from collections.abc import Iterable
from typing import Any

from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.tool import ToolRepository
from cyclonedx.output.json import JsonV1Dot6

SBOM_TYPE = "application/vnd.cyclonedx+json"
RUNTIME_SBOM = "runtime.cdx.json"
WEIGHTS_SBOM = "weights.cdx.json"
"""The titles of the two documents of an image."""


def build_document(subject: Component, components: Iterable[Component]) -> dict[str, Any]:
    """Return the document for a subject and its components, without anything that depends on time or chance."""
    tool = Component(name="phi3", type=ComponentType.APPLICATION, bom_ref="phi3", description="python -m images")
    metadata = BomMetaData(component=subject, tools=ToolRepository(components=[tool]))
    bom = Bom(components=components, metadata=metadata)
    bom.register_dependency(subject, bom.components)
    document: dict[str, Any] = json.loads(JsonV1Dot6(bom).output_as_string())
    del document["metadata"]["timestamp"], document["serialNumber"]
    document["serialNumber"] = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(document, sort_keys=True)).urn
    return document


def encode_document(document: dict[str, Any]) -> bytes:
    """Return a document in the shortest form, because every release uploads it."""
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
