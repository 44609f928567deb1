"""A real containerd, Debian's, on this machine: what a node does with an image."""

import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Self

ROOT = Path(__file__).parents[2]
START_SECONDS = 60


class Containerd:
    """containerd with a storage of its own, inside a `with` block."""

    def __enter__(self) -> Self:
        subprocess.run([ROOT / "scripts/packages", "containerd"], check=True)
        # A socket's name may not be long.
        self.folder = folder = Path(tempfile.mkdtemp(prefix="phi3-containerd-"))
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
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(30)
        shutil.rmtree(self.folder)

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
