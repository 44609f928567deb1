"""The whole way, from a hub that speaks its protocol to the real client, to a real registry and to a folder."""

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from images import verify
from images.catalogue import Model, find, read
from images.compose import compose
from images.oci import reference
from images.oci.store import get, require
from images.runtime import build as runtime
from images.weights import lock
from tests.images.conftest import LEFT_OUT, SHARDS, SMALL, repository
from tests.support.hub import Hub
from tools.harness.images import bake
from tools.harness.images import runtime as make_runtime
from tools.harness.registry import ROOT, Proxy

WANTED = {*SHARDS, *SMALL, "model.safetensors.index.json"}


@pytest.mark.parametrize("name", list(read()))
def test_every_model_of_the_catalogue_goes_from_the_hub_to_a_registry_byte_for_byte(
    name: str, tmp_path: Path, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = find(name)
    source = repository(tmp_path / "repository", SHARDS)
    with Hub(source, model.repository, model.revision) as hub:
        address = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", address)
        destination = f"{proxy.host}/{name}:1"
        digest = bake(model, tmp_path / "lock.json", destination)
        assert not any(request.path.endswith(LEFT_OUT) for request in hub.requests)
    image = reference.parse(destination)
    assert verify.verify(image, tmp_path / "lock.json")[0] == name
    # Another's client reads it too, and checks every digest on the way.
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


def test_two_bakes_to_different_places_are_the_same_and_the_second_sends_nothing(
    tmp_path: Path, proxy: Proxy, hub: Hub, model: Model
) -> None:
    first = bake(model, tmp_path / "one.json", f"{proxy.host}/twice:1")
    proxy.calls.clear()
    hub.requests.clear()
    again = bake(model, tmp_path / "one.json", f"{proxy.host}/twice:1")
    assert proxy.bytes_of_blobs == 0
    elsewhere = bake(model, tmp_path / "two.json", f"oci:{tmp_path}/layout:1")
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()
    assert first == again == elsewhere


def test_a_release_of_the_server_sends_a_manifest_and_the_layer_that_changed(
    tmp_path: Path, proxy: Proxy, hub: Hub, model: Model
) -> None:
    bake(model, tmp_path / "lock.json", f"{proxy.host}/release:1", "1")
    hub.requests.clear()
    old = require(reference.parse(f"{proxy.host}/release").store, "1").content
    proxy.calls.clear()
    entry = lock.find(tmp_path / "lock.json", model)
    assert entry
    target, base = (reference.parse(f"{proxy.host}/{name}:2") for name in ("release", "release-runtime"))
    make_runtime(base.store, "2")
    compose(entry, base, target)
    new = require(reference.parse(f"{proxy.host}/release").store, "2").content
    assert [layer["digest"] for layer in old["layers"]][:-1] == [layer["digest"] for layer in new["layers"]][:-1]
    sent = sum(call.received for call in proxy.calls if "/release/" in call.path)
    assert sent < 10_000
    assert not any(hub.sent(name) for name in SHARDS)


def test_the_image_starts_the_runtime_with_the_weights(tmp_path: Path, proxy: Proxy, hub: Hub, model: Model) -> None:
    bake(model, tmp_path / "lock.json", f"{proxy.host}/started:1")
    store = reference.parse(f"{proxy.host}/started").store
    manifest = require(store, "1").content
    config = get(store, manifest["config"]["digest"])
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


def test_the_memory_and_the_disk_that_it_takes_do_not_grow_with_the_weights(
    tmp_path: Path, upstream: str, model: Model
) -> None:
    source = repository(tmp_path / "repository", {f"model-{n}-of-2.safetensors": 60_000_000 for n in (1, 2)})
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


def test_a_runtime_goes_from_a_folder_to_a_registry_and_back(tmp_path: Path, proxy: Proxy) -> None:
    layout, remote = reference.parse(f"oci:{tmp_path}/one:1"), reference.parse(f"{proxy.host}/runtime:1")
    manifest = make_runtime(layout.store)
    runtime.copy(layout, remote)
    back = reference.parse(f"oci:{tmp_path}/two:1")
    runtime.copy(remote, back)
    assert back.store.manifest("1") == manifest
