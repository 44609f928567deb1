"""Names of images: `oci:DIR[:TAG]` for a folder on disk, `REGISTRY/REPOSITORY[:TAG]` for a registry."""

import re
from dataclasses import dataclass
from pathlib import Path

from images import VERSION
from images.errors import ImageError
from images.oci.layout import Layout
from images.oci.registry import Registry
from images.oci.store import Store

HOST = r"(?:localhost|[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+|\[[0-9a-fA-F:]+\]|[A-Za-z0-9-]+(?=:))(?::[0-9]+)?"
REPOSITORY = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*"
TAG = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}"
DIGEST = r"sha256:[0-9a-f]{64}"


@dataclass(frozen=True)
class Reference:
    """A store and the tag or digest of an image in it."""

    store: Store
    name: str
    tag: str

    def __str__(self) -> str:
        return f"{self.name}{'@' if ':' in self.tag else ':'}{self.tag}"


def parse(text: str, *, plain_http: bool = False) -> Reference:
    """Return what a name stands for, with this version as the tag where there is none.

    Raises ImageError, which says what is allowed.
    """
    if text.startswith("oci:"):
        found = re.fullmatch(rf"oci:(?P<name>.+?)(?::(?P<tag>{TAG}))?(?:@(?P<digest>{DIGEST}))?", text)
        if found:
            store: Store = Layout(Path(found["name"]))
            return Reference(store, f"oci:{found['name']}", found["digest"] or found["tag"] or VERSION)
    found = re.fullmatch(
        rf"(?P<host>{HOST})/(?P<name>{REPOSITORY})(?::(?P<tag>{TAG}))?(?:@(?P<digest>{DIGEST}))?", text
    )
    if not found:
        raise ImageError(
            f"{text!r} is no name for an image: write oci:FOLDER[:TAG], or REGISTRY/REPOSITORY[:TAG] with the "
            "registry's whole host, such as ghcr.io/somebody/phi-3-mini-4k-instruct:1.0, in lower case but for the tag"
        )
    registry = Registry(found["host"], found["name"], plain_http=plain_http)
    return Reference(registry, f"{found['host']}/{found['name']}", found["digest"] or found["tag"] or VERSION)
