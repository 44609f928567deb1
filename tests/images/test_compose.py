"""Composition by manifest, and verification of the result against the lock file."""

import gzip
import json
from pathlib import Path

import pytest

from checkpoints.catalogue import CatalogueModel
from images.compose import compose_image
from images.errors import ImageError
from images.oci.manifest import CONFIG, LAYER, Manifest, encode_json
from images.oci.reference import Reference, parse_reference
from images.oci.referrers import Artifact, attach_artifact, get_artifact
from images.oci.store import get_image_manifest, get_json_blob, push_bytes
from images.runtime.inspect import inspect_runtime
from images.sbom import RUNTIME_SBOM, SBOM_TYPE, WEIGHTS_SBOM
from images.verify import verify_image
from images.weights.hub_source import HubSource
from images.weights.lock import LockEntry
from images.weights.push import push_weights
from images.weights.sbom import weights_sbom
from tests.support.hub import Hub
from tools.harness.images import lock_from_hub, push_runtime, tar_archive
from tools.harness.registry import Fault, Proxy


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lock.json"


@pytest.fixture
def entry(hub: Hub, model: CatalogueModel, path: Path) -> LockEntry:
    assert hub.url
    return lock_from_hub(model, path)


@pytest.fixture
def target(entry: LockEntry, model: CatalogueModel, tmp_path: Path) -> Reference:
    """A layout that has the weights."""
    target = parse_reference(f"oci:{tmp_path}/target:1")
    push_weights(entry, HubSource(model), target.store)
    return target


@pytest.fixture
def base(tmp_path: Path) -> Reference:
    base = parse_reference(f"oci:{tmp_path}/runtime:1")
    push_runtime(base.store)
    return base


def test_runtime_layers_are_on_top_of_the_weights(
    entry: LockEntry, base: Reference, target: Reference, path: Path
) -> None:
    manifest = compose_image(entry, base, target)
    below = get_image_manifest(base.store, "1").content["layers"]
    assert [layer["digest"] for layer in manifest.content["layers"]] == [
        *(locked.digest for locked in entry.layers),
        *(layer["digest"] for layer in below),
    ]
    assert verify_image(target, path) == (entry.model, manifest)
    assert compose_image(entry, base, target) == manifest


def test_sboms_are_attached_to_the_image(entry: LockEntry, base: Reference, target: Reference) -> None:
    manifest = compose_image(entry, base, target)
    for title, document in ((RUNTIME_SBOM, inspect_runtime(base).content), (WEIGHTS_SBOM, weights_sbom(entry).content)):
        assert get_artifact(target.store, manifest.digest, SBOM_TYPE, title) == document
    weights_alone = get_image_manifest(target.store, entry.tag)
    assert get_artifact(target.store, weights_alone.digest, SBOM_TYPE, WEIGHTS_SBOM) == weights_sbom(entry).content


def test_runtime_with_an_sbom_is_not_read_again(
    entry: LockEntry, base: Reference, target: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = get_image_manifest(base.store, "1")
    attach_artifact(base.store, manifest, inspect_runtime(base))
    monkeypatch.setattr("images.runtime.inspect.scan_layer", None)
    composed = compose_image(entry, base, target)
    assert get_artifact(target.store, composed.digest, SBOM_TYPE, RUNTIME_SBOM) == inspect_runtime(base).content


@pytest.fixture
def remote(entry: LockEntry, model: CatalogueModel, proxy: Proxy, tmp_path: Path) -> tuple[Reference, Reference]:
    """A runtime and a repository with the weights, in one registry."""
    name = f"{proxy.host}/compose/{abs(hash(tmp_path))}"
    base, target = parse_reference(f"{name}-runtime:1"), parse_reference(f"{name}:1")
    push_runtime(base.store)
    push_weights(entry, HubSource(model), target.store)
    return base, target


def test_layers_are_copied_if_the_registry_only_claims_to_mount_them(
    entry: LockEntry, remote: tuple[Reference, Reference], proxy: Proxy, path: Path
) -> None:
    base, target = remote
    location = {"Location": f"http://{proxy.host}/v2/{target.store.location}/blobs/uploads/1"}
    proxy.faults = [Fault("POST", "mount=", 201, times=100, headers=location)]
    compose_image(entry, base, target)
    proxy.faults = []
    assert verify_image(target, path)


@pytest.mark.parametrize(
    ("fault", "tagged"),
    [
        (Fault("PUT", "/manifests/1$", 500, times=100), False),
        (Fault("PUT", "/manifests/1$", 0, times=100), False),
        (Fault("PUT", "/blobs/uploads/", 201, times=1000, after=10), False),
        (Fault("GET", "/blobs/sha256", 0, times=1000), False),
        (Fault("PUT", "/manifests/sha256-", 500, times=100), True),
    ],
)
def test_failing_registry_leaves_no_tag_on_an_invalid_image_and_a_second_run_completes(
    entry: LockEntry, remote: tuple[Reference, Reference], proxy: Proxy, path: Path, fault: Fault, tagged: bool
) -> None:
    base, target = remote
    proxy.faults = [fault]
    with pytest.raises(ImageError):
        compose_image(entry, base, target)
    proxy.faults = []
    assert (target.store.get_manifest("1") is not None) == tagged
    if tagged:
        assert verify_image(target, path)
    manifest = compose_image(entry, base, target)
    assert verify_image(target, path) == (entry.model, manifest)
    assert get_artifact(target.store, manifest.digest, SBOM_TYPE, RUNTIME_SBOM)


def test_missing_weights_are_named(entry: LockEntry, base: Reference, tmp_path: Path) -> None:
    empty = parse_reference(f"oci:{tmp_path}/empty:1")
    with pytest.raises(ImageError, match=r"lacks model-00001-of-00002\.safetensors"):
        compose_image(entry, base, empty)
    assert empty.store.get_manifest("1") is None


def test_missing_runtime_is_named(entry: LockEntry, target: Reference, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="nothing has no image 1"):
        compose_image(entry, parse_reference(f"oci:{tmp_path}/nothing:1"), target)


@pytest.mark.parametrize(
    "name", ["models/mini-4k/config.json", "./models", "/models/other", ".wh.models", ".wh..wh..opq"]
)
def test_runtime_that_hides_weights_is_refused(entry: LockEntry, target: Reference, tmp_path: Path, name: str) -> None:
    base = parse_reference(f"oci:{tmp_path}/hiding:1")
    push_runtime(base.store, layers=[tar_archive({"opt/models/fine": b""}), tar_archive({name: b"{}"})])
    with pytest.raises(ImageError, match="would hide or change the weights in /models"):
        compose_image(entry, base, target)
    assert target.store.get_manifest("1") is None


def test_layer_with_gzip_is_read(entry: LockEntry, target: Reference, tmp_path: Path, path: Path) -> None:
    base = parse_reference(f"oci:{tmp_path}/gzip:1")
    plain = tar_archive({"opt/base": bytes(3_000_000)})
    zipped = gzip.compress(plain, mtime=0)
    manifest = push_runtime(base.store, layers=[plain])
    content = manifest.content
    digest = push_bytes(base.store, zipped)
    content["layers"] = [
        {"mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip", "digest": digest, "size": len(zipped)}
    ]
    base.store.put_manifest("1", Manifest(encode_json(content), manifest.media_type))
    composed = compose_image(entry, base, target)
    assert composed.content["layers"][-1]["mediaType"] == f"{LAYER}+gzip"
    assert verify_image(target, path)


def test_other_compression_is_refused_with_the_remedy(entry: LockEntry, target: Reference, tmp_path: Path) -> None:
    base = parse_reference(f"oci:{tmp_path}/zstd:1")
    push_runtime(base.store, media_type=f"{LAYER}+zstd")
    with pytest.raises(ImageError, match=r"python -m images runtime"):
        compose_image(entry, base, target)


def test_runtime_that_contradicts_its_configuration_is_refused(
    entry: LockEntry, base: Reference, target: Reference
) -> None:
    manifest = get_image_manifest(base.store, "1")
    config = get_json_blob(base.store, manifest.content["config"]["digest"])
    config["rootfs"]["diff_ids"][1] = "sha256:" + "0" * 64
    body = encode_json(config)
    content = manifest.content
    content["config"] = {"mediaType": CONFIG, "digest": push_bytes(base.store, body), "size": len(body)}
    base.store.put_manifest("1", Manifest(encode_json(content), manifest.media_type))
    with pytest.raises(ImageError, match=r"is not the sha256:0+ of its configuration"):
        compose_image(entry, base, target)


def test_index_for_several_platforms_is_refused(entry: LockEntry, base: Reference, target: Reference) -> None:
    kind = "application/vnd.oci.image.index.v1+json"
    base.store.put_manifest("1", Manifest(encode_json({"schemaVersion": 2, "mediaType": kind, "manifests": []}), kind))
    with pytest.raises(ImageError, match="give the digest of an image for one platform"):
        compose_image(entry, base, target)


def tamper_with(target: Reference, change: str) -> None:
    """Change one property of a composed image."""
    manifest = get_image_manifest(target.store, "1")
    content = manifest.content
    config = get_json_blob(target.store, content["config"]["digest"])
    if change == "order":
        content["layers"].reverse()
    elif change == "layer":
        del content["layers"][0]
    elif change == "user":
        config["config"]["User"] = "root"
    elif change == "model":
        config["config"]["Env"] = []
    elif change == "label":
        config["config"]["Labels"] = {}
    else:
        config["rootfs"]["diff_ids"][0] = "sha256:" + "0" * 64
    body = encode_json(config)
    content["config"] = {"mediaType": CONFIG, "digest": push_bytes(target.store, body), "size": len(body)}
    target.store.put_manifest("1", Manifest(encode_json(content), manifest.media_type))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("order", "in the lock file"),
        ("layer", "layer 1 is sha256:"),
        ("user", "its user is 'root' instead of a number other than 0"),
        ("model", "it does not set CHAT_MODEL=/models/mini-4k"),
        ("label", "has no label phi3.model"),
        ("diff_id", "the diff_id of layer 1 is not its digest"),
    ],
)
def test_modified_image_fails_verification(
    entry: LockEntry, base: Reference, target: Reference, path: Path, change: str, problem: str
) -> None:
    compose_image(entry, base, target)
    tamper_with(target, change)
    with pytest.raises(ImageError, match=problem):
        verify_image(target, path)


def test_sbom_of_other_weights_fails_verification_and_a_missing_one_is_reported(
    entry: LockEntry, base: Reference, target: Reference, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = compose_image(entry, base, target)
    bare = Reference(target.store, target.name, "bare")
    content = manifest.content | {"annotations": {}}
    target.store.put_manifest("bare", Manifest(encode_json(content), manifest.media_type))
    assert verify_image(bare, path)
    assert "has no SBOM" in capsys.readouterr().err
    wrong = weights_sbom(entry).content.replace((entry.files[0].sha256 or "").encode(), b"0" * 64)
    attach_artifact(target.store, get_image_manifest(target.store, "bare"), Artifact(SBOM_TYPE, WEIGHTS_SBOM, wrong))
    with pytest.raises(ImageError, match="the SBOM of its weights does not match the lock file"):
        verify_image(bare, path)


def test_missing_layer_is_named(
    entry: LockEntry, base: Reference, target: Reference, path: Path, tmp_path: Path
) -> None:
    compose_image(entry, base, target)
    (tmp_path / "target/blobs/sha256" / entry.layers[0].digest[7:]).unlink()
    with pytest.raises(ImageError, match=f"does not have the layer {entry.layers[0].digest}"):
        verify_image(target, path)


def test_image_of_weights_only_is_verified(entry: LockEntry, target: Reference, path: Path) -> None:
    assert verify_image(Reference(target.store, target.name, entry.tag), path)[0] == "mini-4k"


def test_model_without_a_lock_entry_is_named(entry: LockEntry, base: Reference, target: Reference, path: Path) -> None:
    compose_image(entry, base, target)
    path.write_text(json.dumps({}))
    with pytest.raises(ImageError, match="has no entry for mini-4k: run `scripts/lock mini-4k`"):
        verify_image(target, path)
