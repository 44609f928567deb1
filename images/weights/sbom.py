"""The SBOM of a model's weights: the model, and the SHA-256 of every file."""

import json

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.component import Component, ComponentType
from packageurl import PackageURL

from images.errors import ImageError
from images.oci.referrers import Artifact
from images.sbom import SBOM_TYPE, WEIGHTS_SBOM, build_document, encode_document
from images.weights.lock import LockEntry

MODEL_CARD = {
    "modelParameters": {
        "task": "text-generation",
        "architectureFamily": "transformer",
        "modelArchitecture": "Phi3ForCausalLM",
        "inputs": [{"format": "string"}],
        "outputs": [{"format": "string"}],
    }
}


def weights_sbom(entry: LockEntry) -> Artifact:
    """Return the SBOM of a model's weights."""
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
    document = build_document(model, files)
    document["metadata"]["component"]["modelCard"] = MODEL_CARD  # cyclonedx-python-lib has no class for it
    return Artifact(SBOM_TYPE, WEIGHTS_SBOM, encode_document(document))


def file_hashes(document: bytes) -> dict[str, str]:
    """Return the SHA-256 of each file in the SBOM of weights; raises ImageError if the document is malformed."""
    try:
        components = [component for component in json.loads(document)["components"] if component["type"] == "file"]
        return {component["name"]: component["hashes"][0]["content"] for component in components}
    except (ValueError, LookupError, TypeError) as error:
        raise ImageError(f"the SBOM of the weights cannot be read ({error!r}): compose the image again") from error
