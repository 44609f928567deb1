"""Composing by manifest, and holding what was composed against the lock."""

import gzip
import json
from pathlib import Path

import pytest

from images import sbom as bom
from images.catalogue import Model
from images.compose import compose
from images.errors import ImageError
from images.oci import reference
from images.oci.reference import Reference
from images.oci.referrers import attach, attached
from images.oci.store import CONFIG, LAYER, Manifest, dump, get, put, require
from images.runtime.inspect import describe
from images.verify import verify
from images.weights import lock
from images.weights import push as weights
from images.weights.hub import Hub as HubSource
from tests.support.hub import Hub
from tools.harness.images import archive, locked, runtime
from tools.harness.registry import Fault, Proxy


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lock.json"


@pytest.fixture
def entry(hub: Hub, model: Model, path: Path) -> lock.Entry:
    assert hub.url
    return locked(model, path)


@pytest.fixture
def target(entry: lock.Entry, model: Model, tmp_path: Path) -> Reference:
    """A layout that has the weights."""
    target = reference.parse(f"oci:{tmp_path}/target:1")
    weights.push(entry, HubSource(model), target.store)
    return target


@pytest.fixture
def base(tmp_path: Path) -> Reference:
    base = reference.parse(f"oci:{tmp_path}/runtime:1")
    runtime(base.store)
    return base


def test_weights_are_below_and_the_runtime_is_on_top(
    entry: lock.Entry, base: Reference, target: Reference, path: Path
) -> None:
    manifest = compose(entry, base, target)
    below = require(base.store, "1").content["layers"]
    assert [layer["digest"] for layer in manifest.content["layers"]] == [
        *(locked.digest for locked in entry.layers),
        *(layer["digest"] for layer in below),
    ]
    assert verify(target, path) == (entry.model, manifest)
    assert compose(entry, base, target) == manifest


def test_what_is_in_it_is_attached_to_it(entry: lock.Entry, base: Reference, target: Reference) -> None:
    manifest = compose(entry, base, target)
    for title, document in ((bom.RUNTIME, describe(base)), (bom.WEIGHTS, bom.of_weights(entry))):
        assert attached(target.store, manifest.digest, bom.MEDIA_TYPE, title) == document
    weights_alone = require(target.store, entry.tag)
    assert attached(target.store, weights_alone.digest, bom.MEDIA_TYPE, bom.WEIGHTS) == bom.of_weights(entry)


def test_a_runtime_that_was_described_is_not_read_again(
    entry: lock.Entry, base: Reference, target: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = require(base.store, "1")
    attach(base.store, manifest, bom.MEDIA_TYPE, bom.RUNTIME, describe(base))
    monkeypatch.setattr("images.runtime.inspect.examine", None)
    composed = compose(entry, base, target)
    assert attached(target.store, composed.digest, bom.MEDIA_TYPE, bom.RUNTIME) == describe(base)


@pytest.fixture
def remote(entry: lock.Entry, model: Model, proxy: Proxy, tmp_path: Path) -> tuple[Reference, Reference]:
    """A runtime and a repository with the weights, in one registry."""
    name = f"{proxy.host}/compose/{abs(hash(tmp_path))}"
    base, target = reference.parse(f"{name}-runtime:1"), reference.parse(f"{name}:1")
    runtime(base.store)
    weights.push(entry, HubSource(model), target.store)
    return base, target


def test_layers_that_are_said_to_be_mounted_and_are_not_are_copied(
    entry: lock.Entry, remote: tuple[Reference, Reference], proxy: Proxy, path: Path
) -> None:
    base, target = remote
    location = {"Location": f"http://{proxy.host}/v2/{target.store.place}/blobs/uploads/1"}
    proxy.faults = [Fault("POST", "mount=", 201, times=100, headers=location)]
    compose(entry, base, target)
    proxy.faults = []
    assert verify(target, path)


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
def test_a_registry_that_fails_leaves_no_tag_on_something_wrong_and_a_second_try_completes(
    entry: lock.Entry, remote: tuple[Reference, Reference], proxy: Proxy, path: Path, fault: Fault, tagged: bool
) -> None:
    base, target = remote
    proxy.faults = [fault]
    with pytest.raises(ImageError):
        compose(entry, base, target)
    proxy.faults = []
    assert (target.store.manifest("1") is not None) == tagged
    if tagged:
        assert verify(target, path)
    manifest = compose(entry, base, target)
    assert verify(target, path) == (entry.model, manifest)
    assert attached(target.store, manifest.digest, bom.MEDIA_TYPE, bom.RUNTIME)


def test_missing_weights_are_named(entry: lock.Entry, base: Reference, tmp_path: Path) -> None:
    empty = reference.parse(f"oci:{tmp_path}/empty:1")
    with pytest.raises(ImageError, match=r"lacks model-00001-of-00002\.safetensors"):
        compose(entry, base, empty)
    assert empty.store.manifest("1") is None


def test_a_missing_runtime_is_named(entry: lock.Entry, target: Reference, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="nothing has no image 1"):
        compose(entry, reference.parse(f"oci:{tmp_path}/nothing:1"), target)


@pytest.mark.parametrize(
    "name", ["models/mini-4k/config.json", "./models", "/models/other", ".wh.models", ".wh..wh..opq"]
)
def test_a_runtime_that_hides_weights_is_refused(
    entry: lock.Entry, target: Reference, tmp_path: Path, name: str
) -> None:
    base = reference.parse(f"oci:{tmp_path}/hiding:1")
    runtime(base.store, layers=[archive({"opt/models/fine": b""}), archive({name: b"{}"})])
    with pytest.raises(ImageError, match="would hide or change the weights in /models"):
        compose(entry, base, target)
    assert target.store.manifest("1") is None


def test_a_layer_with_gzip_is_read(entry: lock.Entry, target: Reference, tmp_path: Path, path: Path) -> None:
    base = reference.parse(f"oci:{tmp_path}/gzip:1")
    plain = archive({"opt/base": bytes(3_000_000)})
    zipped = gzip.compress(plain, mtime=0)
    manifest = runtime(base.store, layers=[plain])
    content = manifest.content
    digest = put(base.store, zipped)
    content["layers"] = [
        {"mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip", "digest": digest, "size": len(zipped)}
    ]
    base.store.tag("1", Manifest(dump(content), manifest.media_type))
    composed = compose(entry, base, target)
    assert composed.content["layers"][-1]["mediaType"] == f"{LAYER}+gzip"
    assert verify(target, path)


def test_another_compression_is_named_with_the_remedy(entry: lock.Entry, target: Reference, tmp_path: Path) -> None:
    base = reference.parse(f"oci:{tmp_path}/zstd:1")
    runtime(base.store, media_type=f"{LAYER}+zstd")
    with pytest.raises(ImageError, match=r"python -m images runtime"):
        compose(entry, base, target)


def test_a_runtime_that_is_not_what_its_configuration_says_is_refused(
    entry: lock.Entry, base: Reference, target: Reference
) -> None:
    manifest = require(base.store, "1")
    config = get(base.store, manifest.content["config"]["digest"])
    config["rootfs"]["diff_ids"][1] = "sha256:" + "0" * 64
    body = dump(config)
    content = manifest.content
    content["config"] = {"mediaType": CONFIG, "digest": put(base.store, body), "size": len(body)}
    base.store.tag("1", Manifest(dump(content), manifest.media_type))
    with pytest.raises(ImageError, match=r"is not the sha256:0+ of its configuration"):
        compose(entry, base, target)


def test_an_index_of_several_platforms_is_refused(entry: lock.Entry, base: Reference, target: Reference) -> None:
    kind = "application/vnd.oci.image.index.v1+json"
    base.store.tag("1", Manifest(dump({"schemaVersion": 2, "mediaType": kind, "manifests": []}), kind))
    with pytest.raises(ImageError, match="an image for one platform is needed"):
        compose(entry, base, target)


def changed(target: Reference, change: str) -> None:
    """Change a composed image as somebody might."""
    manifest = require(target.store, "1")
    content = manifest.content
    config = get(target.store, content["config"]["digest"])
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
    body = dump(config)
    content["config"] = {"mediaType": CONFIG, "digest": put(target.store, body), "size": len(body)}
    target.store.tag("1", Manifest(dump(content), manifest.media_type))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("order", "and the lock has"),
        ("layer", "layer 1 is sha256:"),
        ("user", "its user is 'root', and a number other than 0 is needed"),
        ("model", "it does not set CHAT_MODEL=/models/mini-4k"),
        ("label", "does not name its model"),
        ("diff_id", "the diff_id of layer 1 is not its digest"),
    ],
)
def test_an_image_that_was_changed_is_not_verified(
    entry: lock.Entry, base: Reference, target: Reference, path: Path, change: str, problem: str
) -> None:
    compose(entry, base, target)
    changed(target, change)
    with pytest.raises(ImageError, match=problem):
        verify(target, path)


def test_a_bill_of_materials_of_other_weights_is_noticed_and_a_missing_one_said(
    entry: lock.Entry, base: Reference, target: Reference, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = compose(entry, base, target)
    bare = Reference(target.store, target.name, "bare")
    content = manifest.content | {"annotations": {}}
    target.store.tag("bare", Manifest(dump(content), manifest.media_type))
    assert verify(bare, path)
    assert "has no bill of materials" in capsys.readouterr().err
    wrong = bom.of_weights(entry).replace((entry.files[0].sha256 or "").encode(), b"0" * 64)
    attach(target.store, require(target.store, "bare"), bom.MEDIA_TYPE, bom.WEIGHTS, wrong)
    with pytest.raises(ImageError, match="the bill of materials of its weights is not the lock's"):
        verify(bare, path)


def test_a_layer_that_is_gone_is_named(
    entry: lock.Entry, base: Reference, target: Reference, path: Path, tmp_path: Path
) -> None:
    compose(entry, base, target)
    (tmp_path / "target/blobs/sha256" / entry.layers[0].digest[7:]).unlink()
    with pytest.raises(ImageError, match=f"does not have the layer {entry.layers[0].digest}"):
        verify(target, path)


def test_an_image_of_weights_alone_is_verified(entry: lock.Entry, target: Reference, path: Path) -> None:
    assert verify(Reference(target.store, target.name, entry.tag), path)[0] == "mini-4k"


def test_a_model_that_is_not_locked_is_named(entry: lock.Entry, base: Reference, target: Reference, path: Path) -> None:
    compose(entry, base, target)
    path.write_text(json.dumps({}))
    with pytest.raises(ImageError, match="has no entry for mini-4k: run `scripts/lock mini-4k`"):
        verify(target, path)
