"""Images in a folder."""

import json
import subprocess
from pathlib import Path

import pytest

from images.errors import ImageError
from images.oci.layout import Layout
from images.oci.referrers import attach, attached
from images.oci.store import INDEX, Manifest, descriptor, digest_of, dump, put
from tools.harness.images import archive, runtime
from tools.harness.registry import ROOT

CONTENT = b"a small blob"
DIGEST = digest_of(CONTENT)


def test_other_tools_read_it(tmp_path: Path) -> None:
    subprocess.run([ROOT / "scripts/packages", "skopeo"], check=True)
    manifest = runtime(Layout(tmp_path / "layout"))
    found = subprocess.run(
        ["skopeo", "inspect", "--raw", f"oci:{tmp_path}/layout:1"], capture_output=True, check=True
    ).stdout
    assert found == manifest.body


def test_a_blob_that_is_wrong_leaves_nothing(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    for size, content in ((len(CONTENT), b"another blob"), (len(CONTENT) + 1, CONTENT)):
        with pytest.raises(ImageError):
            layout.write(DIGEST, size, lambda content=content: iter([content]))  # type: ignore[misc]
    assert layout.size(DIGEST) is None
    assert list((tmp_path / "layout/blobs/sha256").iterdir()) == []


def test_a_blob_that_was_damaged_since_is_noticed(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    put(layout, CONTENT)
    (tmp_path / "layout/blobs/sha256" / DIGEST[7:]).write_bytes(b"other")
    with pytest.raises(ImageError, match="the digest of"):
        list(layout.read(DIGEST))


def test_what_a_killed_process_left_is_removed_and_what_another_writes_is_not(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    put(layout, b"first")
    left = tmp_path / "layout/blobs/sha256/.left"
    left.write_bytes(b"half")

    def content() -> object:
        yield b"a small"
        put(layout, b"second, meanwhile")
        yield b" blob"

    layout.write(DIGEST, len(CONTENT), content)  # type: ignore[arg-type]
    assert not left.exists()
    assert layout.size(DIGEST) == len(CONTENT)


def test_a_tag_moves_and_others_stay(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    runtime(layout, "1")
    runtime(layout, "2")
    new = runtime(layout, "3")
    layout.tag("1", new)
    assert layout.manifest("1") == new
    assert layout.manifest("2") != new
    assert len(json.loads((tmp_path / "layout/index.json").read_text())["manifests"]) == 3


def test_a_blob_is_linked_from_another_layout_on_the_disk(tmp_path: Path) -> None:
    one, two = Layout(tmp_path / "one"), Layout(tmp_path / "two")
    put(one, CONTENT)
    assert two.borrow(DIGEST, len(CONTENT), one)
    assert two.borrow(DIGEST, len(CONTENT), one)
    paths = [tmp_path / name / "blobs/sha256" / DIGEST[7:] for name in ("one", "two")]
    assert paths[0].samefile(paths[1])


def test_a_folder_with_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ImageError, match="holds something else than an OCI layout"):
        put(Layout(tmp_path), CONTENT)
    (tmp_path / "file").write_text("")
    with pytest.raises(ImageError, match="exists"):
        put(Layout(tmp_path / "file"), CONTENT)


def test_an_index_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "index.json").write_text("{}")
    with pytest.raises(ImageError, match=r"index\.json is not that of an OCI layout"):
        Layout(tmp_path).manifest("1")


def test_too_small_a_disk_is_named_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="GB free"):
        Layout(tmp_path / "layout").write(DIGEST, 1 << 60, lambda: iter([CONTENT]))


def test_a_digest_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="sha256 alone is known"):
        Layout(tmp_path).size("sha512:../../etc")


def test_an_image_that_lost_its_tag_is_discarded_and_all_that_others_hold_stays(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    base = archive({"opt/base": b"base"})
    old = runtime(layout, "1", layers=[base, archive({"srv/old": b""})])
    other = runtime(layout, "2", layers=[base, archive({"srv/other": b""})])
    # As other tools write them: an image of several platforms, and one without a name.
    nested = runtime(layout, "3", layers=[base, archive({"srv/nested": b""})])
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [descriptor(nested)]}
    layout.tag("3", Manifest(dump(index), INDEX))
    unnamed = runtime(layout, "4", layers=[base, archive({"srv/unnamed": b""})])
    layout.tag(unnamed.digest, unnamed)
    attach(layout, old, "text/plain", "old", b"old document")
    before = (tmp_path / "layout/index.json").read_bytes()
    layout.discard(old)
    assert (tmp_path / "layout/index.json").read_bytes() == before  # it has its tag yet
    new = runtime(layout, "1", layers=[base, archive({"srv/new": b""})])
    attach(layout, new, "text/plain", "new", b"new document")
    runtime(layout, "4")
    layout.discard(old)
    layer = old.content["layers"][1]["digest"]
    assert [layout.size(one) for one in (old.digest, layer, digest_of(b"old document"))] == [None] * 3
    assert attached(layout, new.digest, "text/plain", "new") == b"new document"
    for manifest in (new, other, nested, unnamed):
        for blob in [manifest.content["config"], *manifest.content["layers"]]:
            assert layout.size(blob["digest"]) == blob["size"]
    assert layout.manifest("3") == Manifest(dump(index), INDEX)
