"""The demo image, baked without hub and registry, and run with the rights of a restricted pod."""

import json
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
READY_SECONDS = 180
QUESTION = "<|user|>\nWhat is the capital of France?<|end|>\n<|assistant|>\n"


class Podman:
    """Podman with a temporary storage."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._command: list[str | Path] = ["podman", "--root", directory / "root", "--runroot", directory / "run"]
        self._command += ["--cgroup-manager", "cgroupfs", "--runtime", "runc"]

    def run(self, *arguments: str) -> str:
        """Run a command and return its output."""
        done = subprocess.run([*self._command, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def status(self, *arguments: str) -> int:
        """Run a command and return its exit code."""
        return subprocess.run([*self._command, *arguments], capture_output=True, check=False).returncode


@pytest.fixture(scope="module")
def podman() -> Iterator[Podman]:
    subprocess.run([ROOT / "scripts/packages", "podman", "runc"], check=True)
    directory = Path(tempfile.mkdtemp(prefix="phi3-podman-"))
    podman = Podman(directory)
    yield podman
    podman.status("rm", "--all", "--force")
    podman.status("rmi", "--all", "--force")
    subprocess.run(["umount", directory / "root/overlay"], capture_output=True, check=False)
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="module")
def image(demo: Path) -> Iterator[tuple[Path, str]]:
    """The layout that `scripts/bake demo` writes, and its output."""
    assert demo.is_dir()
    # On the disk of the repository, so that layers are hard-linked; podman accepts no dot in the name.
    directory = ROOT / "dist/test"
    shutil.rmtree(directory, ignore_errors=True)
    printed = subprocess.run(
        [ROOT / "scripts/bake", "demo", f"oci:{directory}"], stdout=subprocess.PIPE, text=True, check=True
    ).stdout.strip()
    yield directory, printed
    shutil.rmtree(directory)


@pytest.fixture(scope="module")
def container(podman: Podman, image: tuple[Path, str]) -> Iterator[str]:
    """The address of the server in the image, which runs with the rights of a restricted pod."""
    directory, printed = image
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    tag = printed.split("@")[0].rpartition(":")[2]
    rights = ["--read-only", "--tmpfs", "/tmp", "--cap-drop", "all", "--security-opt", "no-new-privileges"]  # noqa: S108
    limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096", "--network", "host"]
    podman.run(
        "run", "--detach", "--name", "demo", *rights, *limits, "--env", f"CHAT_PORT={port}", f"oci:{directory}:{tag}"
    )
    url = f"http://127.0.0.1:{port}"
    end = time.monotonic() + READY_SECONDS
    with httpx.Client(base_url=url) as client:
        while True:
            try:
                if client.get("/readyz").status_code == 200:
                    break
            except httpx.TransportError:
                pass
            assert time.monotonic() < end, podman.run("logs", "demo")
            time.sleep(0.5)
    yield url
    podman.run("stop", "--time", "10", "demo")


def test_bake_prints_the_reference_and_the_digest(image: tuple[Path, str]) -> None:
    directory, printed = image
    digests = [entry["digest"] for entry in json.loads((directory / "index.json").read_text())["manifests"]]
    assert re.fullmatch(rf"oci:{re.escape(str(directory))}:[\d.]+@sha256:[0-9a-f]{{64}}", printed)
    assert printed.split("@")[1] in digests


def test_image_serves_chat(container: str) -> None:
    body = {"prompt": QUESTION, "return_full_text": False, "generate_kwargs": {"do_sample": False}}
    response = httpx.post(f"{container}/chat", json=body, timeout=120)
    assert response.json() == {"Result": "The capital of France is Paris."}


def test_container_runs_unprivileged_on_a_read_only_root(container: str, podman: Podman) -> None:
    assert container
    assert podman.run("exec", "demo", "id", "-u") == podman.run("exec", "demo", "id", "-g") == "65532\n"
    assert podman.status("exec", "demo", "touch", "/srv/changed") != 0
    assert podman.status("exec", "demo", "touch", "/models/demo/config.json") != 0
    assert podman.status("exec", "demo", "touch", "/tmp/scratch") == 0  # noqa: S108


def test_image_has_no_build_tools(container: str, podman: Podman) -> None:
    assert container
    for program in ("gcc", "cc", "pip", "pip3", "make"):
        assert podman.status("exec", "demo", "sh", "-c", f"command -v {program}") != 0
    assert podman.status("exec", "demo", "/opt/phi3/bin/python", "-c", "import pip") != 0


def test_second_bake_builds_and_copies_nothing(image: tuple[Path, str]) -> None:
    directory, printed = image
    before = {path.name: path.stat().st_mtime_ns for path in (directory / "blobs/sha256").iterdir()}
    done = subprocess.run(
        [ROOT / "scripts/bake", "demo", f"oci:{directory}"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == printed
    assert "is already built from the same inputs" in done.stderr
    assert {path.name: path.stat().st_mtime_ns for path in (directory / "blobs/sha256").iterdir()} == before
