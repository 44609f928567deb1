"""The complete pipeline, from a hub on this machine to a real registry and to a layout on disk."""

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from checkpoints.catalogue import CATALOGUE, CatalogueModel, get_model
from images.compose import compose_image
from images.io.progress import Progress
from images.oci.copy import copy_image
from images.oci.reference import parse_reference
from images.oci.store import get_image_manifest, get_json_blob
from images.verify import verify_image
from images.weights.lock import read_entry
from tests.support.hub import Hub
from tests.support.repository import SHARDS, SKIPPED_FILES, SMALL_FILES, write_repository
from tools.harness.images import bake_image, push_runtime
from tools.harness.registry import ROOT, Proxy

WANTED = {*SHARDS, *SMALL_FILES, "model.safetensors.index.json"}


@pytest.mark.parametrize("name", list(CATALOGUE))
def test_every_catalogue_model_reaches_the_registry_byte_for_byte(
    name: str, tmp_path: Path, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = get_model(name)
    source = write_repository(tmp_path / "repository", SHARDS)
    with Hub(source, model.repository, model.revision) as hub:
        hub.use_in_this_process(monkeypatch)
        destination = f"{proxy.host}/{name}:1"
        digest = bake_image(model, tmp_path / "lock.json", destination)
        assert not any(request.path.endswith(SKIPPED_FILES) for request in hub.requests)
    image = parse_reference(destination)
    assert verify_image(image, tmp_path / "lock.json")[0] == name
    # skopeo verifies every digest while it pulls the image.
    subprocess.run([ROOT / "scripts/packages", "skopeo"], check=True)
    pulled = tmp_path / "pulled"
    copy = ["skopeo", "copy", "--quiet", "--insecure-policy", "--src-tls-verify=false"]
    subprocess.run([*copy, f"docker://{destination}@{digest}".replace(":1@", "@"), f"dir:{pulled}"], check=True)
    found = {}
    for layer in json.loads((pulled / "manifest.json").read_text())["layers"]:
        with tarfile.open(pulled / layer["digest"].removeprefix("sha256:")) as archive:
            for entry in archive:
                content = archive.extractfile(entry)
                found[entry.name] = content.read() if content else b""
    weights = {path: content for path, content in found.items() if path.startswith(f"models/{name}/")}
    assert weights == {f"models/{name}/{file}": (source / file).read_bytes() for file in WANTED}
    assert found["srv/app.py"] == b"1"


def test_bakes_are_reproducible_and_a_second_one_sends_nothing(
    tmp_path: Path, proxy: Proxy, hub: Hub, model: CatalogueModel
) -> None:
    first = bake_image(model, tmp_path / "one.json", f"{proxy.host}/twice:1")
    proxy.calls.clear()
    hub.requests.clear()
    again = bake_image(model, tmp_path / "one.json", f"{proxy.host}/twice:1")
    assert proxy.blob_bytes == 0
    elsewhere = bake_image(model, tmp_path / "two.json", f"oci:{tmp_path}/layout:1")
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()
    assert first == again == elsewhere


def test_release_sends_only_a_manifest_and_the_changed_layer(
    tmp_path: Path, proxy: Proxy, hub: Hub, model: CatalogueModel
) -> None:
    bake_image(model, tmp_path / "lock.json", f"{proxy.host}/release:1", "1")
    hub.requests.clear()
    old = get_image_manifest(parse_reference(f"{proxy.host}/release").store, "1").content
    proxy.calls.clear()
    entry = read_entry(tmp_path / "lock.json", model)
    assert entry
    target, base = (parse_reference(f"{proxy.host}/{name}:2") for name in ("release", "release-runtime"))
    push_runtime(base.store, "2")
    compose_image(entry, base, target)
    new = get_image_manifest(parse_reference(f"{proxy.host}/release").store, "2").content
    assert [layer["digest"] for layer in old["layers"]][:-1] == [layer["digest"] for layer in new["layers"]][:-1]
    sent = sum(call.received for call in proxy.calls if "/release/" in call.path)
    assert sent < 10_000
    assert not any(hub.sent(name) for name in SHARDS)


def test_image_starts_the_runtime_with_the_weights(
    tmp_path: Path, proxy: Proxy, hub: Hub, model: CatalogueModel
) -> None:
    bake_image(model, tmp_path / "lock.json", f"{proxy.host}/started:1")
    store = parse_reference(f"{proxy.host}/started").store
    manifest = get_image_manifest(store, "1").content
    config = get_json_blob(store, manifest["config"]["digest"])
    assert config["config"]["Env"] == ["PATH=/bin", "CHAT_MODEL=/models/mini-4k", "CHAT_NAME=mini-4k"]
    assert config["config"]["User"] == "65532:65532"
    assert config["config"]["Entrypoint"] == ["/opt/phi3/bin/python"]
    assert config["config"]["Labels"]["phi3.weights.revision"] == model.revision == hub.revision
    assert manifest["annotations"]["phi3.weights.repository"] == model.repository
    assert [layer["annotations"]["org.opencontainers.image.title"] for layer in manifest["layers"][:3]] == [
        *SHARDS,
        "7 small files",
    ]
    assert manifest["layers"][0]["mediaType"] == "application/vnd.oci.image.layer.v1.tar"
    assert len(config["rootfs"]["diff_ids"]) == len(manifest["layers"]) == len(config["history"])


def test_memory_and_disk_usage_do_not_grow_with_the_weights(
    tmp_path: Path, upstream: str, model: CatalogueModel
) -> None:
    source = write_repository(tmp_path / "repository", {f"model-{n}-of-2.safetensors": 60_000_000 for n in (1, 2)})
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    path = tmp_path / "lock.json"
    code = """if True:
        import resource, sys
        from images.__main__ import main
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        status = main(sys.argv[1:])
        written = int(open("/proc/self/io").read().split("write_bytes: ")[1].split()[0])
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, written)
        sys.exit(status)
        """
    with Hub(source, model.repository, model.revision) as hub:
        environment = {"PATH": os.environ["PATH"], "HF_ENDPOINT": hub.url, "HOME": str(scratch), "TMPDIR": str(scratch)}

        def run(*arguments: str) -> list[int]:
            command = [sys.executable, "-B", "-c", code, *arguments, "--lock", str(path)]
            done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            return [int(figure) for figure in done.stdout.splitlines()[-1].split()]

        run("lock", "mini-4k")
        memory, disk = run("weights", "mini-4k", f"{upstream}/memory")
    assert memory < 40 * 1024  # KiB
    assert disk < 100_000
    assert list(scratch.iterdir()) == []


def test_runtime_is_copied_from_a_layout_to_a_registry_and_back(tmp_path: Path, proxy: Proxy) -> None:
    layout, remote = parse_reference(f"oci:{tmp_path}/one:1"), parse_reference(f"{proxy.host}/runtime:1")
    manifest = push_runtime(layout.store)
    copy_image(layout, remote, Progress("runtime", "copied"))
    back = parse_reference(f"oci:{tmp_path}/two:1")
    copy_image(remote, back, Progress("runtime", "copied"))
    assert back.store.get_manifest("1") == manifest
