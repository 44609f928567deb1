"""Compares this pipeline with a bare copy, buildah and oras: the same weights from a hub into a registry.

Then measures a new version of the server on the same weights: its publication, and its pull by a node.
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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy
import psutil

from benchmarks import images_release
from benchmarks.machine import describe_run
from benchmarks.page import write_section
from checkpoints.catalogue import get_model
from images.oci.reference import parse_reference
from images.oci.store import get_image_manifest
from tools.harness.registry import registry

ROOT = Path(__file__).resolve().parents[1]
MODEL = get_model("mini-4k")
CONNECTIONS = "2"


@dataclass
class Result:
    """Seconds, the peak memory of all processes in MiB, the peak disk usage in GB, and the data sent in MB."""

    name: str
    seconds: float
    memory: float
    disk: float
    sent: float


def main() -> None:
    """Measure, and write the section of the page."""
    parser = argparse.ArgumentParser(prog="scripts/bench images", description=__doc__)
    parser.add_argument("--shards", type=int, default=4, help="number of shards (%(default)s)")
    parser.add_argument("--shard-mb", type=int, default=512, help="size of a shard in MB (%(default)s)")
    parser.add_argument("--runs", type=int, default=2, help="runs of each tool; the fastest counts (%(default)s)")
    options = parser.parse_args()
    description = describe_run("images", packages=("httpx", "huggingface-hub"))
    subprocess.run([ROOT / "scripts/packages", "buildah", "docker-registry"], check=True)
    subprocess.run([ROOT / "scripts/tools", "oras"], check=True)
    with tempfile.TemporaryDirectory(prefix="phi3-bench-") as directory:
        results, pulls = measure(Path(directory), options.shards, options.shard_mb * 1_000_000, options.runs)
    about_nodes = images_release.table(pulls)
    write_section("images", f"{description}\n\n{table(results, options.shards, options.shard_mb)}\n\n{about_nodes}")


def measure(directory: Path, shards: int, size: int, runs: int) -> tuple[list[Result], list[images_release.Pull]]:
    """Run all tools against one hub and one registry."""
    weights = directory / "weights"
    write_shards(weights, shards, size)
    with hub(weights) as address, registry(directory / "registry") as host:
        bench = Bench(directory, address, host)
        bench.images("lock", MODEL.name)
        actions: dict[str, Callable[[], None]] = {
            "phi3": bench.phi3,
            "a bare copy through SHA-256 twice": bench.bare,
            "buildah build + push": bench.buildah,
            "oras push": bench.oras,
        }
        results = [
            min((run(bench, name, action) for _ in range(runs)), key=lambda result: result.seconds)
            for name, action in actions.items()
        ]
        bench.clear()
        bench.phi3()
        results.append(run(bench, "phi3, again", bench.phi3, clear=False))
        images_release.make_runtimes(host)
        bench.compose("1")
        results.append(run(bench, "phi3, a new version of the server", lambda: bench.compose("2"), clear=False))
        for tag in ("1", "2"):
            image, target = (parse_reference(f"{host}/{name}:{tag}") for name in ("phi3", "runtime-first"))
            blobs = [parse_reference(f"{host}/phi3").store, target.store]
            for layer in get_image_manifest(image.store, tag).content["layers"]:
                blobs[1].mount_blob(layer["digest"], layer["size"], blobs[0])
            images_release.reorder(image, target, shards + 1)
        pulls = [
            images_release.pull(name, f"{host}/{repository}", size_of)
            for name, repository in (("weights first", "phi3"), ("runtime first", "runtime-first"))
        ]
        # Last, because it fills the disk.
        bench.buildah_release("1")
        name = "buildah build + push, a new version of the server"
        results.append(run(bench, name, lambda: bench.buildah_release("2"), clear=False))
        return results, pulls


def run(bench: "Bench", name: str, action: Callable[[], None], *, clear: bool = True) -> Result:
    """Measure one way to copy the weights into the registry."""
    if clear:
        bench.clear()
    before = bench.stored()
    os.sync()
    watch = Watch(bench.work)
    begin = time.monotonic()
    action()
    seconds = time.monotonic() - begin
    memory, disk = watch.stop()
    result = Result(name, seconds, memory, disk, (bench.stored() - before) / 1e6)
    print(result, file=sys.stderr, flush=True)
    return result


class Bench:
    """The tools to compare, and the directory that they work in."""

    def __init__(self, directory: Path, hub: str, host: str) -> None:
        self.work = directory / "work"
        self._directory, self._hub, self._host = directory, hub, host
        self._lock = directory / "lock.json"
        self._base = [sys.executable, "-m"]

    def clear(self) -> None:
        """Delete the files of earlier runs, here and in the registry."""
        for path in (self.work, self._directory / "registry/files/docker"):
            shutil.rmtree(path, ignore_errors=True)
        self.work.mkdir()

    def stored(self) -> int:
        """Return the bytes that the registry stores."""
        return size_of(self._directory / "registry/files")

    def images(self, *arguments: str) -> None:
        """Run a verb of the pipeline."""
        self._run([*self._base, "images", *arguments, "--lock", str(self._lock), "--connections", CONNECTIONS])

    def phi3(self) -> None:
        """Stream the weights with this pipeline."""
        self.images("weights", MODEL.name, f"{self._host}/phi3")

    def compose(self, tag: str) -> None:
        """Compose a version of the server with the weights."""
        image, server = f"{self._host}/phi3:{tag}", f"{self._host}/runtime:{tag}"
        self._run([*self._base, "images", "compose", MODEL.name, image, "--runtime", server, "--lock", str(self._lock)])

    def bare(self) -> None:
        """Stream the weights with hashing only."""
        hub = self._hub.removeprefix("http://")
        self._run([*self._base, "benchmarks.bare_copy", hub, self._host, str(self._lock), CONNECTIONS])

    def buildah(self) -> None:
        """Download with the hub's client, then build and push with a layer for each shard."""
        self._download()
        self._build("scratch", "buildah:1")

    def buildah_release(self, tag: str) -> None:
        """Build and push the weights on top of a version of the server; only the first call downloads them."""
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
        """Download with the hub's client, then push the files as an artifact, which cannot be run."""
        self._download()
        directory = self.work / "model"
        files = sorted(path.name for path in directory.iterdir() if path.is_file())
        self._run([str(ROOT / ".tools/bin/oras"), "push", "--plain-http", f"{self._host}/oras:1", *files], directory)

    def _download(self) -> None:
        code = "import sys; from huggingface_hub import snapshot_download as d; d(sys.argv[1], local_dir=sys.argv[2])"
        self._run([sys.executable, "-c", code, MODEL.repository, str(self.work / "model")])

    def _run(self, command: list[str], directory: Path = ROOT) -> None:
        variables = {"HF_ENDPOINT": self._hub, "HF_HOME": str(self.work / "hub"), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        environment = os.environ | variables
        done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            sys.exit(f"scripts/bench: {command[0]} failed:\n{done.stderr}")


class Watch:
    """Records the peak usage of memory and disk."""

    def __init__(self, directory: Path) -> None:
        self._directory, self._memory, self._disk = directory, 0.0, 0.0
        self._stopped = threading.Event()
        self._others = {process.pid for process in psutil.Process().children(recursive=True)}
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def stop(self) -> tuple[float, float]:
        """Stop recording, and return MiB of memory and GB of disk."""
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
            self._disk = max(self._disk, size_of(self._directory) / 1e9)


def size_of(directory: Path) -> int:
    """Return the disk usage of a directory in bytes, with hard-linked files counted once."""
    seen: dict[int, int] = {}
    for parent, _, names in os.walk(directory):
        for name in names:
            try:
                found = os.lstat(os.path.join(parent, name))  # noqa: PTH118 - several times faster
            except OSError:
                continue
            seen[found.st_ino] = found.st_blocks * 512
    return sum(seen.values())


def write_shards(directory: Path, shards: int, size: int) -> None:
    """Write shards of normally distributed bfloat16, which compress like real weights."""
    directory.mkdir()
    random = numpy.random.default_rng(0)
    for number in range(1, shards + 1):
        header = json.dumps({"w": {"dtype": "BF16", "shape": [size // 2], "data_offsets": [0, size]}}).encode()
        with (directory / f"model-{number:05d}-of-{shards:05d}.safetensors").open("wb") as output:
            output.write(struct.pack("<Q", len(header)) + header)
            for _ in range(size // 2_000_000):
                values = random.normal(0, 0.02, 1_000_000).astype(numpy.float32)
                output.write((values.view(numpy.uint32) >> 16).astype(numpy.uint16).tobytes())
    for name in ("config.json", "tokenizer.json", "model.safetensors.index.json"):
        (directory / name).write_text("{}")


@contextmanager
def hub(directory: Path) -> Iterator[str]:
    """Run the hub, and yield its address."""
    command = [sys.executable, "-m", "benchmarks.weights_hub", str(directory), MODEL.repository, MODEL.revision]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout  # noqa: S101 - for the type checker
            yield re.sub(r"\s", "", process.stdout.readline())
        finally:
            process.kill()


def table(results: list[Result], shards: int, shard_mb: int) -> str:
    """Return the table of results."""
    ours = results[0].seconds
    lines = [
        f"{shards} shards of {shard_mb} MB of random bfloat16, {CONNECTIONS} at a time, from a hub to a registry "
        "(docker-registry 2.8.2), all on this machine. Each row is the fastest of several runs.",
        "",
        "| | seconds | of phi3's | memory, MiB | disk, GB | sent, MB |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for one in results:
        figures = f"{one.seconds:.1f} | {one.seconds / ours:.2f} | {one.memory:.0f} | {one.disk:.1f} | {one.sent:,.2f}"
        lines.append(f"| {one.name} | {figures} |")
    lines += [
        "",
        "The times of `buildah` and `oras` include the download with the hub's own client, which their users need. "
        "`phi3` verifies every file and layer against the lock file, queries the registry for existing layers, and "
        "tags an image; the bare copy only computes the two hashes. Memory is the peak sum of the resident sets of all "
        "processes, including 15 MiB of Python itself.",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
