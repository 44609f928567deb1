"""Manifests and their media types: https://github.com/opencontainers/image-spec/blob/main/media-types.md."""

import json
from dataclasses import dataclass
from typing import Any

from images.oci.digest import digest_of

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_MANIFEST_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_LAYERS = {
    "application/vnd.docker.image.rootfs.diff.tar": LAYER,
    "application/vnd.docker.image.rootfs.diff.tar.gzip": f"{LAYER}+gzip",
}
"""Docker's media types for layers, and the OCI's for the same format."""


@dataclass(frozen=True)
class Manifest:
    """A manifest, byte for byte as stored."""

    body: bytes
    media_type: str

    @property
    def digest(self) -> str:
        """The digest of the body ("sha256:…")."""
        return digest_of(self.body)

    @property
    def content(self) -> dict[str, Any]:
        """The parsed body."""
        content: dict[str, Any] = json.loads(self.body)
        return content

    @property
    def oci_layers(self) -> list[dict[str, Any]]:
        """The descriptors of the layers, with the OCI's media types in place of Docker's."""
        return [
            {
                "mediaType": DOCKER_LAYERS.get(layer["mediaType"], layer["mediaType"]),
                "digest": layer["digest"],
                "size": layer["size"],
            }
            for layer in self.content["layers"]
        ]

    @property
    def descriptor(self) -> dict[str, Any]:
        """The descriptor of this manifest, as an index or a list of referrers holds it."""
        content = self.content
        found = {"mediaType": self.media_type, "digest": self.digest, "size": len(self.body)}
        return found | {key: content[key] for key in ("artifactType", "annotations") if key in content}


def encode_json(content: dict[str, Any]) -> bytes:
    """Return `content` as JSON, with the same bytes for equal content."""
    return json.dumps(content, indent=2, sort_keys=True).encode()
