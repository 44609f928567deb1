"""What a node does with an image: a real containerd pulls it, and keeps the weights when the server changes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from images.catalogue import find
from images.compose import compose
from images.oci import reference
from images.weights import lock
from images.weights import push as weights
from images.weights.folder import Folder
from tests.images.conftest import SHARDS, repository
from tools.harness.containerd import Containerd
from tools.harness.images import runtime
from tools.harness.registry import Proxy, registry

pytestmark = pytest.mark.slow

MODEL = find("mini-4k")


@pytest.fixture
def node() -> Iterator[Containerd]:
    with Containerd() as node:
        yield node


def test_a_new_server_leaves_the_weights_on_a_node(tmp_path: Path, node: Containerd) -> None:
    source = Folder(repository(tmp_path / "repository", SHARDS))
    entry = lock.make(MODEL, source, 2)
    with registry(tmp_path / "registry") as upstream, Proxy(upstream) as proxy:
        target = reference.parse(f"{proxy.host}/node")
        weights.push(entry, source, target.store)

        def release(tag: str) -> set[str]:
            """Publish a version, pull it, and return the snapshots that it added."""
            base = reference.parse(f"{proxy.host}/node-runtime:{tag}")
            runtime(base.store, tag)
            compose(entry, base, reference.parse(f"{proxy.host}/node:{tag}"))
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
