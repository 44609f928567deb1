"""Weights from a hub into a registry: this pipeline beside a bare copy, buildah and oras, on the same shards.

Then the next version of the server on the same weights: to publish, and on a node.
"""

import argparse
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy
import psutil

from benchmarks import images_release
from benchmarks.machine import about
from benchmarks.page import put
from images.catalogue import find
from images.oci import reference
from images.oci.store import require
from tools.harness.registry import registry

ROOT = Path(__file__).resolve().parents[1]
MODEL = find("mini-4k")
CONNECTIONS = "2"


@dataclass
class Result:
    """Seconds, most MiB of memory of all processes, GB that were on the disk at once, and MB that were sent."""

    name: str
    seconds: float
    memory: float
    disk: float
    sent: float


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(prog="scripts/bench images", description=__doc__)
    parser.add_argument("--shards", type=int, default=4, help="number of shards (%(default)s)")
    parser.add_argument("--shard-mb", type=int, default=512, help="MB of each (%(default)s)")
    parser.add_argument("--runs", type=int, default=2, help="of each; the fastest counts (%(default)s)")
    options = parser.parse_args()
    machine = about("images", packages=("httpx", "huggingface-hub"))
    subprocess.run([ROOT / "scripts/packages", "buildah", "docker-registry"], check=True)
    subprocess.run([ROOT / "scripts/tools", "oras"], check=True)
    with tempfile.TemporaryDirectory(prefix="phi3-bench-") as folder:
        results, pulls = measure(Path(folder), options.shards, options.shard_mb * 1_000_000, options.runs)
    about_nodes = images_release.table(pulls)
    put("images", f"{machine}\n\n{table(results, options.shards, options.shard_mb)}\n\n{about_nodes}")


def measure(folder: Path, shards: int, size: int, runs: int) -> tuple[list[Result], list[images_release.Pull]]:
    """Run everything against one hub and one registry."""
    weights = folder / "weights"
    make(weights, shards, size)
    with hub(weights) as address, registry(folder / "registry") as host:
        bench = Bench(folder, address, host)
        bench.images("lock", MODEL.name)
        ways = {
            "phi3": bench.phi3,
            "a bare copy through SHA-256 twice": bench.bare,
            "buildah build + push": bench.buildah,
            "oras push": bench.oras,
        }
        results = [
            min((run(bench, name, way) for _ in range(runs)), key=lambda one: one.seconds) for name, way in ways.items()
        ]
        bench.clear()
        bench.phi3()
        results.append(run(bench, "phi3, again", bench.phi3, clear=False))
        images_release.make_runtimes(host)
        bench.compose("1")
        results.append(run(bench, "phi3, a new version of the server", lambda: bench.compose("2"), clear=False))
        for tag in ("1", "2"):
            image, target = (reference.parse(f"{host}/{name}:{tag}") for name in ("phi3", "runtime-first"))
            blobs = [reference.parse(f"{host}/phi3").store, target.store]
            for layer in require(image.store, tag).content["layers"]:
                blobs[1].borrow(layer["digest"], layer["size"], blobs[0])
            images_release.reorder(image, target, shards + 1)
        pulls = [
            images_release.pull(name, f"{host}/{repository}", size_of)
            for name, repository in (("weights first", "phi3"), ("runtime first", "runtime-first"))
        ]
        # Last, since it fills the disk.
        bench.buildah_release("1")
        name = "buildah build + push, a new version of the server"
        results.append(run(bench, name, lambda: bench.buildah_release("2"), clear=False))
        return results, pulls


def run(bench: "Bench", name: str, way: object, *, clear: bool = True) -> Result:
    """Measure one way to bring the weights into the registry."""
    if clear:
        bench.clear()
    before = bench.stored()
    os.sync()
    watch = Watch(bench.work)
    begin = time.monotonic()
    way()  # type: ignore[operator]
    seconds = time.monotonic() - begin
    memory, disk = watch.stop()
    result = Result(name, seconds, memory, disk, (bench.stored() - before) / 1e6)
    print(result, file=sys.stderr, flush=True)
    return result


class Bench:
    """The ways, and the folder that they may fill."""

    def __init__(self, folder: Path, hub: str, host: str) -> None:
        self.work = folder / "work"
        self._folder, self._hub, self._host = folder, hub, host
        self._lock = folder / "lock.json"
        self._base = [sys.executable, "-m"]

    def clear(self) -> None:
        """Begin anew, on either side."""
        for path in (self.work, self._folder / "registry/files/docker"):
            shutil.rmtree(path, ignore_errors=True)
        self.work.mkdir()

    def stored(self) -> int:
        """Return the bytes that the registry has."""
        return size_of(self._folder / "registry/files")

    def images(self, *arguments: str) -> None:
        """Run a verb of the pipeline."""
        self._run([*self._base, "images", *arguments, "--lock", str(self._lock), "--connections", CONNECTIONS])

    def phi3(self) -> None:
        """Stream."""
        self.images("weights", MODEL.name, f"{self._host}/phi3")

    def compose(self, tag: str) -> None:
        """Put a version of the server on top of the weights."""
        image, server = f"{self._host}/phi3:{tag}", f"{self._host}/runtime:{tag}"
        self._run([*self._base, "images", "compose", MODEL.name, image, "--runtime", server, "--lock", str(self._lock)])

    def bare(self) -> None:
        """Stream with nothing but the hashes."""
        hub = self._hub.removeprefix("http://")
        self._run([*self._base, "benchmarks.bare_copy", hub, self._host, str(self._lock), CONNECTIONS])

    def buildah(self) -> None:
        """Download with the hub's client, then build and push, a layer for each shard."""
        self._download()
        self._build("scratch", "buildah:1")

    def buildah_release(self, tag: str) -> None:
        """Build and push the weights, which are there after the first time, on top of a version of the server."""
        if not (self.work / "model").exists():
            self._download()
        self._build(f"{self._host}/runtime:{tag}", f"buildah:{tag}")

    def _build(self, base: str, image: str) -> None:
        files = sorted(path.name for path in (self.work / "model").iterdir() if path.is_file())
        lines = [f"FROM {base}", *(f"COPY {name} /models/" for name in files)]
        (self.work / "Dockerfile").write_text("\n".join(lines))
        command = ["buildah", "--root", str(self.work / "storage"), "--runroot", str(self.work / "run")]
        build = ["build", "--quiet", "--layers", "--isolation", "chroot", "--tls-verify=false"]
        build += ["--file", str(self.work / "Dockerfile"), "--tag", "weights", str(self.work / "model")]
        try:
            self._run([*command, *build])
            self._run([*command, "push", "--quiet", "--tls-verify=false", "weights", f"docker://{self._host}/{image}"])
        finally:
            unmount = ["umount", str(self.work / "storage/overlay")]
            for clean in ([*command, "rm", "--all"], unmount):
                subprocess.run(clean, capture_output=True, check=False)

    def oras(self) -> None:
        """Download with the hub's client, then push the files as an artifact, which is no image to run."""
        self._download()
        folder = self.work / "model"
        files = sorted(path.name for path in folder.iterdir() if path.is_file())
        self._run([str(ROOT / ".tools/bin/oras"), "push", "--plain-http", f"{self._host}/oras:1", *files], folder)

    def _download(self) -> None:
        code = "import sys; from huggingface_hub import snapshot_download as d; d(sys.argv[1], local_dir=sys.argv[2])"
        self._run([sys.executable, "-c", code, MODEL.repository, str(self.work / "model")])

    def _run(self, command: list[str], folder: Path = ROOT) -> None:
        variables = {"HF_ENDPOINT": self._hub, "HF_HOME": str(self.work / "hub"), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        environment = os.environ | variables
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            sys.exit(f"scripts/bench: {command[0]} failed:\n{done.stderr}")


class Watch:
    """Takes the most memory and disk while something runs."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._memory, self._disk = folder, 0.0, 0.0
        self._stopped = threading.Event()
        self._others = {process.pid for process in psutil.Process().children(recursive=True)}
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def stop(self) -> tuple[float, float]:
        """Return MiB and GB."""
        self._stopped.set()
        self._thread.join()
        return self._memory, self._disk

    def _watch(self) -> None:
        while not self._stopped.wait(0.1):
            total = 0
            for process in psutil.Process().children(recursive=True):
                if process.pid not in self._others:
                    try:
                        total += process.memory_info().rss
                    except psutil.NoSuchProcess:
                        continue
            self._memory = max(self._memory, total / 2**20)
            self._disk = max(self._disk, size_of(self._folder) / 1e9)


def size_of(folder: Path) -> int:
    """Return the bytes of all files in a folder, each once."""
    seen: dict[int, int] = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                found = os.lstat(os.path.join(parent, name))  # noqa: PTH118 - several times faster
            except OSError:
                continue
            seen[found.st_ino] = found.st_blocks * 512
    return sum(seen.values())


def make(folder: Path, shards: int, size: int) -> None:
    """Write shards of normally distributed bfloat16, which compress as real weights do."""
    folder.mkdir()
    random = numpy.random.default_rng(0)
    for number in range(1, shards + 1):
        header = json.dumps({"w": {"dtype": "BF16", "shape": [size // 2], "data_offsets": [0, size]}}).encode()
        with (folder / f"model-{number:05d}-of-{shards:05d}.safetensors").open("wb") as output:
            output.write(struct.pack("<Q", len(header)) + header)
            for _ in range(size // 2_000_000):
                values = random.normal(0, 0.02, 1_000_000).astype(numpy.float32)
                output.write((values.view(numpy.uint32) >> 16).astype(numpy.uint16).tobytes())
    for name in ("config.json", "tokenizer.json", "model.safetensors.index.json"):
        (folder / name).write_text("{}")


@contextmanager
def hub(folder: Path) -> Iterator[str]:
    """Run the hub; yields its address."""
    command = [sys.executable, "-m", "benchmarks.weights_hub", str(folder), MODEL.repository, MODEL.revision]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout  # noqa: S101 - for the type checker
            yield re.sub(r"\s", "", process.stdout.readline())
        finally:
            process.kill()


def table(results: list[Result], shards: int, shard_mb: int) -> str:
    """Return the section."""
    ours = results[0].seconds
    lines = [
        f"{shards} shards of {shard_mb} MB of random bfloat16, {CONNECTIONS} at a time, from a hub to a registry "
        "(docker-registry 2.8.2), all on this machine. The fastest of the runs of each.",
        "",
        "| | seconds | of phi3's | memory, MiB | disk, GB | sent, MB |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for one in results:
        figures = f"{one.seconds:.1f} | {one.seconds / ours:.2f} | {one.memory:.0f} | {one.disk:.1f} | {one.sent:,.2f}"
        lines.append(f"| {one.name} | {figures} |")
    lines += [
        "",
        "`buildah` and `oras` have what their users do before: a download with the hub's own client, which is in their "
        "time. `phi3` checks every file and layer against the lock, asks the registry what it has, and tags an image; "
        "the bare copy does the two hashes and nothing else. Memory is the highest sum of the resident sets of the "
        "processes of each, Python's own 15 MiB included.",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
