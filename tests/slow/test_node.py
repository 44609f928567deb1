"""What a node does with an image: a real containerd pulls it, and keeps the weights when the server changes."""

import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from images import lock, reference, weights
from images.catalogue import find
from images.compose import compose
from images.folder import Folder
from tests.images.conftest import SHARDS, repository
from tests.images.helpers import runtime
from tests.registry import Proxy, registry

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
MODEL = find("mini-4k")
START_SECONDS = 60


class Containerd:
    """containerd with a storage of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._socket = folder / "socket"
        config = folder / "config.toml"
        config.write_text(
            f'version = 2\nroot = "{folder}/root"\nstate = "{folder}/state"\n'
            f'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n[grpc]\naddress = "{self._socket}"\n'
        )
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen(["containerd", "--config", config], stdout=log, stderr=log)
        end = time.monotonic() + START_SECONDS
        while subprocess.run(self._command("version"), capture_output=True, check=False).returncode != 0:
            assert time.monotonic() < end, (folder / "log").read_text()
            time.sleep(0.1)

    def run(self, *arguments: str) -> str:
        """Run ctr and return its output."""
        done = subprocess.run(self._command(*arguments), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def snapshots(self) -> set[str]:
        """Return the names of the snapshots, each of which is a layer above its parents."""
        return set(re.findall(r"^sha256:\w+", self.run("snapshots", "ls"), re.MULTILINE))

    def _command(self, *arguments: str) -> list[str]:
        return ["ctr", "--address", str(self._socket), *arguments]


@pytest.fixture
def node() -> Iterator[Containerd]:
    subprocess.run([ROOT / "scripts/packages", "containerd"], check=True)
    folder = Path(tempfile.mkdtemp(prefix="phi3-containerd-"))
    node = Containerd(folder)
    yield node
    node.process.terminate()
    node.process.wait(30)
    shutil.rmtree(folder)


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
