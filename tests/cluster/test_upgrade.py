"""Upgrades of the server: on a single GPU, and without pulling the weights again."""

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from images.io.progress import Progress
from images.oci.copy import copy_image
from images.oci.reference import parse_reference
from images.oci.store import get_image_manifest
from tests.cluster.cluster import CHART, RELEASE, ROOT, Namespace
from tests.cluster.release import push_release

GPU: dict[str, Any] = {
    "model": "demo",
    # The scheduler counts a GPU for the demo model, but the server runs on the CPU.
    "models": {"demo": {"gpu": {"count": 1, "weightsMiB": 325, "kvKiBPerToken": 46}}},
}


def real_node(namespace: Namespace) -> str:
    """Return a node that runs containers and simulates one GPU."""
    nodes = json.loads(namespace.cluster.kubectl("get", "nodes", "--selector=type!=kwok", "--output=json"))["items"]
    found = [node for node in nodes if node["status"]["allocatable"].get("nvidia.com/gpu") == "1"]
    assert found, "no real node simulates one GPU"
    return str(found[0]["metadata"]["name"])


def test_upgrade_on_the_only_gpu_does_not_deadlock(namespace: Namespace, capsys: pytest.CaptureFixture[str]) -> None:
    values = GPU | {"nodeSelector": {"kubernetes.io/hostname": real_node(namespace)}}
    namespace.install(values=values)
    (old,) = namespace.servers()
    begin = time.monotonic()
    namespace.install("--set=drainSeconds=7", values=values)
    with capsys.disabled():
        print(f"\nupgraded on one GPU in {time.monotonic() - begin:.0f} s")
    (new,) = (pod for pod in namespace.servers() if not pod["metadata"].get("deletionTimestamp"))
    assert new["metadata"]["uid"] != old["metadata"]["uid"]
    assert new["spec"]["nodeName"] == old["spec"]["nodeName"]
    assert new["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"


def pulled_bytes(log: Path, offset: int) -> dict[str, int]:
    """Return the bytes of each blob that the registry has sent since its log had `offset` bytes."""
    sent: dict[str, int] = {}
    line = re.compile(r'"GET /v2/\S+/blobs/(sha256:\w+) HTTP/1.1" 20[06] (\d+) "[^"]*" "containerd/')
    for digest, size in line.findall(log.read_text()[offset:]):
        sent[digest] = sent.get(digest, 0) + int(size)
    return sent


def snapshots(node: str) -> dict[Path, int]:
    """Return the size in bytes of each snapshot on a node of scripts/cluster."""
    directory = ROOT / ".cluster" / node / "containerd/io.containerd.snapshotter.v1.overlayfs/snapshots"
    return {
        path: sum(file.lstat().st_size for file in path.rglob("*") if file.is_file() and not file.is_symlink())
        for path in directory.iterdir()
    }


def test_release_of_the_server_pulls_and_unpacks_no_weights(
    namespace: Namespace, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster, node = namespace.cluster, real_node(namespace)
    log = ROOT / ".cluster/log/registry.log"
    assert cluster.kubeconfig.parent == ROOT / ".cluster", "this test reads the log of the registry of scripts/cluster"
    values = {"model": "demo", "nodeSelector": {"kubernetes.io/hostname": node}}
    namespace.install(values=values)

    old = parse_reference(cluster.image, plain_http=True)
    new = parse_reference(f"{cluster.image}-next", plain_http=True)
    push_release(old, new, {"app/released": str(time.time()).encode()})
    before, layers = snapshots(node), get_image_manifest(old.store, old.tag).content["layers"]
    next_manifest = get_image_manifest(new.store, new.tag)
    offset = len(log.read_text())
    begin = time.monotonic()
    image = {"tag": new.tag, "digest": next_manifest.digest}
    namespace.install(*(f"--set-string=image.{key}={value}" for key, value in image.items()), values=values)
    seconds = time.monotonic() - begin

    sent = pulled_bytes(log, offset)
    unpacked = {path: size for path, size in snapshots(node).items() if path not in before}
    unchanged = {layer["digest"] for layer in layers} & {layer["digest"] for layer in next_manifest.content["layers"]}
    weights = sum(size for digest, size in sent.items() if digest in unchanged)
    with capsys.disabled():
        print(
            f"\nupgraded to another server in {seconds:.0f} s: {sum(sent.values()):,} bytes pulled, {weights:,} of "
            f"them in unchanged layers, {sum(unpacked.values()):,} bytes in {len(unpacked)} snapshots"
        )
    assert weights == 0
    top = next_manifest.content["layers"][-1]
    assert sent[top["digest"]] == top["size"]
    # The new layer, and the writable layers of one or two containers.
    assert len(unpacked) <= 4
    assert sum(unpacked.values()) < top["size"] + 1_000_000


def test_server_reads_weights_from_an_image_volume(namespace: Namespace) -> None:
    cluster = namespace.cluster
    # The bare runtime image of `python -m images runtime`, from layers that the registry has.
    runtime = parse_reference(f"oci:{ROOT}/.images/runtime")
    whole = parse_reference(cluster.image, plain_http=True)
    bare = parse_reference(f"{cluster.registry}/phi-3-runtime:{cluster.tag}", plain_http=True)
    manifest = get_image_manifest(runtime.store, runtime.tag)
    for layer in manifest.content["layers"]:
        assert bare.store.mount_blob(layer["digest"], layer["size"], whole.store)
    copy_image(runtime, bare, Progress("runtime", "copied"))

    namespace.helm(
        *("install", RELEASE, CHART, "--wait", "--timeout=300s"),
        values={
            "model": "demo",
            "image": {"registry": cluster.registry, "tag": cluster.tag, "digest": manifest.digest},
            "weights": {"source": "volume", "reference": str(whole)},
            "nodeSelector": {"kubernetes.io/hostname": real_node(namespace)},
        },
    )
    (pod,) = namespace.servers()
    assert pod["spec"]["volumes"][-1]["image"]["reference"] == str(whole)
    listed = namespace.kubectl(
        "exec", pod["metadata"]["name"], "--", "ls", "/weights/models/demo", "/models", check=False
    )
    assert "model.safetensors" in listed
    assert "The capital of France is Paris." in namespace.helm("test", RELEASE, "--logs")
