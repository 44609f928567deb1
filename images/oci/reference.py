"""Image references: `oci:DIR[:TAG]` for a directory on disk, `REGISTRY/REPOSITORY[:TAG]` for a registry.

Source of the grammar: https://github.com/distribution/reference/blob/main/reference.go
"""

import re
from dataclasses import dataclass
from pathlib import Path

from images import VERSION
from images.errors import ImageError
from images.oci.digest import DIGEST
from images.oci.layout import Layout
from images.oci.registry import Registry
from images.oci.store import Store

HOST = r"(?:localhost|[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+|\[[0-9a-fA-F:]+\]|[A-Za-z0-9-]+(?=:))(?::[0-9]+)?"
REPOSITORY = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*"
TAG = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}"


@dataclass(frozen=True)
class Reference:
    """A store, and the tag or digest of an image in it."""

    store: Store
    name: str
    tag: str

    def __str__(self) -> str:
        return f"{self.name}{'@' if ':' in self.tag else ':'}{self.tag}"


def parse_reference(text: str, *, plain_http: bool = False) -> Reference:
    """Parse an image reference; this version is the default tag.

    Raises ImageError, which gives the allowed forms.
    """
    suffix = rf"(?::(?P<tag>{TAG}))?(?:@(?P<digest>{DIGEST.pattern}))?"
    if text.startswith("oci:"):
        found = re.fullmatch(rf"oci:(?P<name>.+?){suffix}", text)
        if found:
            store: Store = Layout(Path(found["name"]))
            return Reference(store, f"oci:{found['name']}", found["digest"] or found["tag"] or VERSION)
    found = re.fullmatch(rf"(?P<host>{HOST})/(?P<name>{REPOSITORY}){suffix}", text)
    if not found:
        raise ImageError(
            f"{text!r} is not an image reference: write oci:DIR[:TAG], or REGISTRY/REPOSITORY[:TAG] with the full "
            "host of the registry and in lower case except for the tag, for example ghcr.io/somebody/phi-3-demo:1.0"
        )
    registry = Registry(found["host"], found["name"], plain_http=plain_http)
    return Reference(registry, f"{found['host']}/{found['name']}", found["digest"] or found["tag"] or VERSION)
