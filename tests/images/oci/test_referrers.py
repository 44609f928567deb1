"""Documents attached to images, in registries that list them and in those that do not."""

from pathlib import Path

import pytest

from images.errors import ImageError, TransientError
from images.oci import reference
from images.oci.referrers import attach, attached
from images.oci.registry import Registry
from images.oci.store import INDEX, Manifest, Store, descriptor, dump
from tools.harness.images import runtime
from tools.harness.registry import Fault, Proxy

TYPE = "application/vnd.cyclonedx+json"


@pytest.fixture(params=["registry", "layout"])
def store(request: pytest.FixtureRequest, proxy: Proxy, tmp_path: Path) -> Store:
    if request.param == "layout":
        return reference.parse(f"oci:{tmp_path}/layout").store
    return Registry(proxy.host, f"attached/{abs(hash(tmp_path))}")


def test_a_document_is_found_by_the_image_its_type_and_its_title(store: Store) -> None:
    image, other = runtime(store, "1"), runtime(store, "2")
    attach(store, image, TYPE, "a", b"{}")
    attach(store, image, TYPE, "b", b"[]")
    assert attached(store, image.digest, TYPE, "a") == b"{}"
    assert attached(store, image.digest, TYPE, "b") == b"[]"
    assert attached(store, image.digest, TYPE, "c") is None
    assert attached(store, image.digest, "text/plain", "a") is None
    assert attached(store, other.digest, TYPE, "a") is None
    # The image is what it was.
    assert store.manifest("1") == image


def test_attaching_again_sends_nothing(store: Store) -> None:
    image = runtime(store)
    attach(store, image, TYPE, "a", b"{}")
    sent = store.sent
    attach(store, image, TYPE, "a", b"{}")
    assert store.sent == sent
    assert len(store.referrers(image.digest)) == 1


def test_a_registry_that_lists_referrers_is_asked_and_not_helped(proxy: Proxy, tmp_path: Path) -> None:
    store = Registry(proxy.host, f"lists/{abs(hash(tmp_path))}")
    image = runtime(store)
    proxy.faults = [Fault("PUT", "/manifests/sha256:", 201, headers={"OCI-Subject": image.digest}, forwarded=True)]
    attach(store, image, TYPE, "a", b"{}")
    tag = image.digest.replace(":", "-")
    assert store.manifest(tag) is None
    # Two pages, which other tags play here.
    entries = [descriptor(runtime(store, tag)) for tag in ("one", "two")]
    for entry in entries:
        page = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}
        store.tag(f"page-{entries.index(entry)}", Manifest(dump(page), INDEX))
    base = f"/v2/{store.name}/manifests"
    proxy.faults = [
        Fault("GET", "/referrers/", 307, headers={"Location": f"{base}/page-0"}),
        Fault("GET", "page-0", 200, headers={"Link": f'<{base}/page-1>; rel="next"'}, forwarded=True),
    ]
    assert store.referrers(image.digest) == entries


def test_a_list_that_another_overwrites_is_written_again(proxy: Proxy, tmp_path: Path) -> None:
    store = Registry(proxy.host, f"race/{abs(hash(tmp_path))}")
    image = runtime(store)
    attach(store, image, TYPE, "first", b"{}")
    tag = image.digest.replace(":", "-")
    alone = store.manifest(tag)
    assert alone
    # The write is lost once, as when another client wrote the list that it had read before.
    proxy.faults = [Fault("PUT", f"/manifests/{tag}", 201)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "manifest", lambda name, real=store.manifest: real(name) or alone)
        with pytest.raises(ImageError, match="does not give it back unchanged"):
            attach(store, image, TYPE, "second", b"[]")
    attach(store, image, TYPE, "second", b"[]")
    assert {one["annotations"]["org.opencontainers.image.title"] for one in store.referrers(image.digest)} == {
        "first",
        "second",
    }


def test_a_registry_that_keeps_losing_the_list_is_named(proxy: Proxy, tmp_path: Path) -> None:
    store = Registry(proxy.host, f"loses/{abs(hash(tmp_path))}")
    image = runtime(store)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "_listed", lambda _: [])
        with pytest.raises(TransientError, match=f"keeps losing sha256:.* from the referrers of {image.digest}"):
            attach(store, image, TYPE, "a", b"{}")


def test_a_list_that_cannot_be_read_is_named(proxy: Proxy, tmp_path: Path) -> None:
    store = Registry(proxy.host, f"wrong/{abs(hash(tmp_path))}")
    image = runtime(store)
    page = Manifest(b'{"schemaVersion": 2, "mediaType": "%s", "manifests": [{}]}' % INDEX.encode(), INDEX)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "manifest", lambda _: page)
        with pytest.raises(ImageError, match="list of referrers cannot be read"):
            store.referrers(image.digest)
