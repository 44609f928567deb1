"""A real containerd from Debian's packages, which pulls images like a node."""

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
    """containerd with a temporary storage, inside a `with` block."""

    def __enter__(self) -> Self:
        subprocess.run([ROOT / "scripts/packages", "containerd"], check=True)
        # The path of a Unix socket is limited to 107 bytes.
        self.directory = directory = Path(tempfile.mkdtemp(prefix="phi3-containerd-"))
        self._socket = directory / "socket"
        config = directory / "config.toml"
        config.write_text(
            f'version = 2\nroot = "{directory}/root"\nstate = "{directory}/state"\n'
            f'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n[grpc]\naddress = "{self._socket}"\n'
        )
        with (directory / "log").open("wb") as log:
            self.process = subprocess.Popen(["containerd", "--config", config], stdout=log, stderr=log)
        end = time.monotonic() + START_SECONDS
        while subprocess.run(self._command("version"), capture_output=True, check=False).returncode != 0:
            assert time.monotonic() < end, (directory / "log").read_text()
            time.sleep(0.1)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(30)
        shutil.rmtree(self.directory)

    def run(self, *arguments: str) -> str:
        """Run ctr and return its output."""
        done = subprocess.run(self._command(*arguments), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def snapshots(self) -> set[str]:
        """Return the names of the snapshots: a layer on top of its parents is one snapshot."""
        return set(re.findall(r"^sha256:\w+", self.run("snapshots", "ls"), re.MULTILINE))

    def _command(self, *arguments: str) -> list[str]:
        return ["ctr", "--address", str(self._socket), *arguments]
