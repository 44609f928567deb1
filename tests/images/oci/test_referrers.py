"""Artifacts attached to images, in layouts and in registries with and without the referrers API."""

from pathlib import Path

import pytest

from images.errors import ImageError, TransientError
from images.oci.manifest import INDEX, Manifest, encode_json
from images.oci.reference import parse_reference
from images.oci.referrers import Artifact, attach_artifact, get_artifact
from images.oci.registry import Registry
from images.oci.store import Store
from tools.harness.images import push_runtime
from tools.harness.registry import Fault, Proxy

TYPE = "application/vnd.cyclonedx+json"


@pytest.fixture(params=["registry", "layout"])
def store(request: pytest.FixtureRequest, proxy: Proxy, tmp_path: Path) -> Store:
    if request.param == "layout":
        return parse_reference(f"oci:{tmp_path}/layout").store
    return Registry(proxy.host, f"attached/{abs(hash(tmp_path))}")


def test_artifact_is_found_by_image_media_type_and_title(store: Store) -> None:
    image, other = push_runtime(store, "1"), push_runtime(store, "2")
    attach_artifact(store, image, Artifact(TYPE, "a", b"{}"))
    attach_artifact(store, image, Artifact(TYPE, "b", b"[]"))
    assert get_artifact(store, image.digest, TYPE, "a") == b"{}"
    assert get_artifact(store, image.digest, TYPE, "b") == b"[]"
    assert get_artifact(store, image.digest, TYPE, "c") is None
    assert get_artifact(store, image.digest, "text/plain", "a") is None
    assert get_artifact(store, other.digest, TYPE, "a") is None
    # The image itself has not changed.
    assert store.get_manifest("1") == image


def test_second_attachment_sends_nothing(store: Store) -> None:
    image = push_runtime(store)
    attach_artifact(store, image, Artifact(TYPE, "a", b"{}"))
    sent = store.bytes_sent
    attach_artifact(store, image, Artifact(TYPE, "a", b"{}"))
    assert store.bytes_sent == sent
    assert len(store.list_referrers(image.digest)) == 1


def test_registry_with_the_referrers_api_gets_no_tagged_index(proxy: Proxy, tmp_path: Path) -> None:
    store = Registry(proxy.host, f"lists/{abs(hash(tmp_path))}")
    image = push_runtime(store)
    proxy.faults = [Fault("PUT", "/manifests/sha256:", 201, headers={"OCI-Subject": image.digest}, forwarded=True)]
    attach_artifact(store, image, Artifact(TYPE, "a", b"{}"))
    tag = image.digest.replace(":", "-")
    assert store.get_manifest(tag) is None
    # Two pages, for which other tags stand in.
    entries = [push_runtime(store, tag).descriptor for tag in ("one", "two")]
    for entry in entries:
        page = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}
        store.put_manifest(f"page-{entries.index(entry)}", Manifest(encode_json(page), INDEX))
    base = f"/v2/{store.name}/manifests"
    proxy.faults = [
        Fault("GET", "/referrers/", 307, headers={"Location": f"{base}/page-0"}),
        Fault("GET", "page-0", 200, headers={"Link": f'<{base}/page-1>; rel="next"'}, forwarded=True),
    ]
    assert store.list_referrers(image.digest) == entries


def test_index_overwritten_by_another_client_is_written_again(proxy: Proxy, tmp_path: Path) -> None:
    store = Registry(proxy.host, f"race/{abs(hash(tmp_path))}")
    image = push_runtime(store)
    attach_artifact(store, image, Artifact(TYPE, "first", b"{}"))
    tag = image.digest.replace(":", "-")
    alone = store.get_manifest(tag)
    assert alone
    # The write is lost once, as if another client had overwritten the index with its older copy.
    proxy.faults = [Fault("PUT", f"/manifests/{tag}", 201)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "get_manifest", lambda name, real=store.get_manifest: real(name) or alone)
        with pytest.raises(ImageError, match="but returns another one"):
            attach_artifact(store, image, Artifact(TYPE, "second", b"[]"))
    attach_artifact(store, image, Artifact(TYPE, "second", b"[]"))
    assert {one["annotations"]["org.opencontainers.image.title"] for one in store.list_referrers(image.digest)} == {
        "first",
        "second",
    }


def test_registry_that_keeps_losing_the_index_is_named(proxy: Proxy, tmp_path: Path) -> None:
    store = Registry(proxy.host, f"loses/{abs(hash(tmp_path))}")
    image = push_runtime(store)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "_list_tagged_referrers", lambda _: [])
        with pytest.raises(TransientError, match=f"keeps losing sha256:.* from the referrers of {image.digest}"):
            attach_artifact(store, image, Artifact(TYPE, "a", b"{}"))


def test_malformed_index_is_named(proxy: Proxy, tmp_path: Path) -> None:
    store = Registry(proxy.host, f"wrong/{abs(hash(tmp_path))}")
    image = push_runtime(store)
    page = Manifest(b'{"schemaVersion": 2, "mediaType": "%s", "manifests": [{}]}' % INDEX.encode(), INDEX)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "get_manifest", lambda _: page)
        with pytest.raises(ImageError, match="list of referrers cannot be read"):
            store.list_referrers(image.digest)
