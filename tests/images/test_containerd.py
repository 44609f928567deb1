"""Pulls by a real containerd, which keeps the weights when the server changes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from checkpoints.catalogue import get_model
from images.compose import compose_image
from images.oci.reference import parse_reference
from images.weights.directory_source import DirectorySource
from images.weights.lock import lock_model
from images.weights.push import push_weights
from tests.support.repository import SHARDS, write_repository
from tools.harness.containerd import Containerd
from tools.harness.images import push_runtime
from tools.harness.registry import Proxy, registry

pytestmark = pytest.mark.slow

MODEL = get_model("mini-4k")


@pytest.fixture
def node() -> Iterator[Containerd]:
    with Containerd() as node:
        yield node


def test_new_server_leaves_the_weights_on_a_node(tmp_path: Path, node: Containerd) -> None:
    source = DirectorySource(write_repository(tmp_path / "repository", SHARDS))
    entry = lock_model(MODEL, source, 2)
    with registry(tmp_path / "registry") as upstream, Proxy(upstream) as proxy:
        target = parse_reference(f"{proxy.host}/node")
        push_weights(entry, source, target.store)

        def release(tag: str) -> set[str]:
            """Publish and pull a version, and return the snapshots that the pull added."""
            base = parse_reference(f"{proxy.host}/node-runtime:{tag}")
            push_runtime(base.store, tag)
            compose_image(entry, base, parse_reference(f"{proxy.host}/node:{tag}"))
            before = node.snapshots()
            proxy.calls.clear()
            node.run("images", "pull", "--plain-http", f"{proxy.host}/node:{tag}")
            return node.snapshots() - before

        assert len(release("1")) == len(entry.layers) + 2
        view = tmp_path / "view"
        view.mkdir()
        node.run("images", "mount", f"{proxy.host}/node:1", str(view))
        try:
            for name in [*SHARDS, "config.json"]:
                path = view / "models/mini-4k" / name
                assert path.read_bytes() == (tmp_path / "repository" / name).read_bytes()
            assert (view / "models").stat().st_mode & 0o777 == 0o755
        finally:
            node.run("images", "unmount", str(view))

        assert len(release("2")) == 1
        fetched = [call.path for call in proxy.calls if call.method == "GET" and "/blobs/" in call.path]
        assert not any(locked.digest in path for locked in entry.layers for path in fetched)
