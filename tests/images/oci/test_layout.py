"""OCI layouts on disk."""

import json
import subprocess
from pathlib import Path

import pytest

from images.errors import ImageError
from images.oci.digest import digest_of
from images.oci.layout import Layout
from images.oci.manifest import INDEX, Manifest, encode_json
from images.oci.referrers import Artifact, attach_artifact, get_artifact
from images.oci.store import push_bytes
from tools.harness.images import push_runtime, tar_archive
from tools.harness.registry import ROOT

CONTENT = b"a small blob"
DIGEST = digest_of(CONTENT)


def test_skopeo_reads_a_layout(tmp_path: Path) -> None:
    subprocess.run([ROOT / "scripts/packages", "skopeo"], check=True)
    manifest = push_runtime(Layout(tmp_path / "layout"))
    found = subprocess.run(
        ["skopeo", "inspect", "--raw", f"oci:{tmp_path}/layout:1"], capture_output=True, check=True
    ).stdout
    assert found == manifest.body


def test_blob_with_a_wrong_digest_or_size_leaves_no_file(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    for size, content in ((len(CONTENT), b"another blob"), (len(CONTENT) + 1, CONTENT)):
        with pytest.raises(ImageError):
            layout.push_blob(DIGEST, size, lambda content=content: iter([content]))  # type: ignore[misc]
    assert layout.stat_blob(DIGEST) is None
    assert list((tmp_path / "layout/blobs/sha256").iterdir()) == []


def test_blob_damaged_on_disk_is_detected(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    push_bytes(layout, CONTENT)
    (tmp_path / "layout/blobs/sha256" / DIGEST[7:]).write_bytes(b"other")
    with pytest.raises(ImageError, match="the digest of"):
        list(layout.pull_blob(DIGEST))


def test_remains_of_a_killed_process_are_deleted_and_concurrent_writes_are_not(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    push_bytes(layout, b"first")
    left = tmp_path / "layout/blobs/sha256/.left"
    left.write_bytes(b"half")

    def content() -> object:
        yield b"a small"
        push_bytes(layout, b"second, meanwhile")
        yield b" blob"

    layout.push_blob(DIGEST, len(CONTENT), content)  # type: ignore[arg-type]
    assert not left.exists()
    assert layout.stat_blob(DIGEST) == len(CONTENT)


def test_tag_moves_without_changing_others(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    push_runtime(layout, "1")
    push_runtime(layout, "2")
    new = push_runtime(layout, "3")
    layout.put_manifest("1", new)
    assert layout.get_manifest("1") == new
    assert layout.get_manifest("2") != new
    assert len(json.loads((tmp_path / "layout/index.json").read_text())["manifests"]) == 3


def test_blob_is_hard_linked_from_another_layout(tmp_path: Path) -> None:
    one, two = Layout(tmp_path / "one"), Layout(tmp_path / "two")
    push_bytes(one, CONTENT)
    assert two.mount_blob(DIGEST, len(CONTENT), one)
    assert two.mount_blob(DIGEST, len(CONTENT), one)
    paths = [tmp_path / name / "blobs/sha256" / DIGEST[7:] for name in ("one", "two")]
    assert paths[0].samefile(paths[1])


def test_directory_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ImageError, match="holds other files than an OCI layout"):
        push_bytes(Layout(tmp_path), CONTENT)
    (tmp_path / "file").write_text("")
    with pytest.raises(ImageError, match="exists"):
        push_bytes(Layout(tmp_path / "file"), CONTENT)


def test_unreadable_index_is_named(tmp_path: Path) -> None:
    (tmp_path / "index.json").write_text("{}")
    with pytest.raises(ImageError, match=r"index\.json is not the index of an OCI layout"):
        Layout(tmp_path).get_manifest("1")


def test_full_disk_is_reported_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="GB free"):
        Layout(tmp_path / "layout").push_blob(DIGEST, 1 << 60, lambda: iter([CONTENT]))


def test_digest_of_another_algorithm_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="can hold: use sha256"):
        Layout(tmp_path).stat_blob("sha512:../../etc")


def test_untagged_image_is_deleted_without_the_blobs_of_others(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    base = tar_archive({"opt/base": b"base"})
    old = push_runtime(layout, "1", layers=[base, tar_archive({"srv/old": b""})])
    other = push_runtime(layout, "2", layers=[base, tar_archive({"srv/other": b""})])
    # Other tools write these, too: an image for several platforms, and one without a tag.
    nested = push_runtime(layout, "3", layers=[base, tar_archive({"srv/nested": b""})])
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [nested.descriptor]}
    layout.put_manifest("3", Manifest(encode_json(index), INDEX))
    unnamed = push_runtime(layout, "4", layers=[base, tar_archive({"srv/unnamed": b""})])
    layout.put_manifest(unnamed.digest, unnamed)
    attach_artifact(layout, old, Artifact("text/plain", "old", b"old document"))
    before = (tmp_path / "layout/index.json").read_bytes()
    layout.delete_untagged(old)
    assert (tmp_path / "layout/index.json").read_bytes() == before  # it still has its tag
    new = push_runtime(layout, "1", layers=[base, tar_archive({"srv/new": b""})])
    attach_artifact(layout, new, Artifact("text/plain", "new", b"new document"))
    push_runtime(layout, "4")
    layout.delete_untagged(old)
    layer = old.content["layers"][1]["digest"]
    assert [layout.stat_blob(one) for one in (old.digest, layer, digest_of(b"old document"))] == [None] * 3
    assert get_artifact(layout, new.digest, "text/plain", "new") == b"new document"
    for manifest in (new, other, nested, unnamed):
        for blob in [manifest.content["config"], *manifest.content["layers"]]:
            assert layout.stat_blob(blob["digest"]) == blob["size"]
    assert layout.get_manifest("3") == Manifest(encode_json(index), INDEX)
