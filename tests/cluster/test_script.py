"""scripts/cluster on a copy of the repository, whose cluster is beside that of the other tests."""

import hashlib
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
IMAGE = "phi3.example/pause:1"


class Copy:
    """A copy of the repository with the built tools and no cluster."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("scripts", "tools", "devcluster"):
            shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        (root / ".tools").symlink_to(ROOT / ".tools")

    def command(self, *arguments: str) -> list[str | Path]:
        return [self.root / "scripts/cluster", *arguments]

    def run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(self.command(*arguments), capture_output=True, text=True)
        assert not check or done.returncode == 0, done.stderr
        return done

    def kubectl(self, *arguments: str) -> str:
        command: list[str | Path] = [
            ROOT / ".tools/bin/kubectl",
            "--kubeconfig",
            self.root / ".cluster/kubeconfig",
            *arguments,
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout


def processes(copy: Copy) -> Iterator[str]:
    """Return those that were started from a copy, or are in a control group of its cluster."""
    group = f"/phi3-{hashlib.sha256(os.fsencode(copy.root)).hexdigest()[:6]}/".encode()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            started = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
            if os.fsencode(copy.root) in started or group in (process / "cgroup").read_bytes():
                yield f"{process.name} {(process / 'comm').read_text()}"
        except OSError:
            continue  # it has ended


def machine(copy: Copy) -> dict[str, set[str]]:
    """Return what a cluster could leave behind: mounts, network, control groups, files, processes."""
    links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
    named = subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout
    return {
        "mounts": set(Path("/proc/mounts").read_text().splitlines()),
        "links": set(re.findall(r"^\d+: ([^:@]+)", links, re.MULTILINE)),
        "netns": set(named.splitlines()),
        "groups": {str(path) for depth in ("*", "*/*") for path in Path("/sys/fs/cgroup").glob(depth) if path.is_dir()},
        "files": {str(path.relative_to(copy.root)) for path in copy.root.iterdir()},
        "processes": set(processes(copy)),
    }


def left(copy: Copy, before: dict[str, set[str]]) -> dict[str, set[str]]:
    """Return what is there now and was not, but for the registry's folder."""
    after = machine(copy)
    return {kind: found for kind in before if (found := after[kind] - before[kind] - {".images"})}


@pytest.fixture
def copy(tmp_path: Path) -> Iterator[Copy]:
    subprocess.run([ROOT / "scripts/tools", "kubernetes", "etcd", "coredns", "containerd", "helm"], check=True)
    made = Copy(tmp_path / "phi3")
    yield made
    made.run("down")


def test_up_is_up_again_at_once_and_down_leaves_nothing(copy: Copy) -> None:
    before = machine(copy)
    copy.run("up")
    assert "is already running" in copy.run("up").stderr
    nodes = copy.kubectl("get", "nodes", "--output=name").split()
    assert nodes == ["node/kwok-a10", "node/kwok-a100", "node/kwok-h100", "node/kwok-t4", "node/node1"]
    copy.kubectl("run", "asleep", f"--image={IMAGE}", "--image-pull-policy=Never")
    copy.kubectl("wait", "--for=condition=Ready", "pod/asleep", "--timeout=60s")
    running = "\n".join(processes(copy))
    assert all(name in running for name in ("etcd", "kubelet", "containerd-shim", "busybox")), running
    assert set(left(copy, before)) == {"links", "groups", "files", "processes"}
    copy.run("down")
    assert not left(copy, before)
    assert "no cluster was running" in copy.run("down").stderr


@pytest.mark.parametrize("seconds", [0.5, 2, 4, 7])
def test_a_killed_up_leaves_nothing_that_down_does_not_find(copy: Copy, seconds: float) -> None:
    before = machine(copy)
    with subprocess.Popen(copy.command("up"), stderr=subprocess.DEVNULL) as process:
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
    copy.run("down")
    assert not left(copy, before)


def test_up_after_a_killed_up_is_up(copy: Copy) -> None:
    with subprocess.Popen(copy.command("up"), stderr=subprocess.DEVNULL) as process:
        time.sleep(3)
        process.send_signal(signal.SIGKILL)
    copy.run("up")
    assert copy.kubectl("get", "--raw", "/readyz") == "ok"


def test_what_runs_in_it_reaches_nothing_outside(copy: Copy) -> None:
    copy.run("up")
    with socket.create_server(("0.0.0.0", 0)) as listening:  # noqa: S104 - on the cluster's wire too
        port = listening.getsockname()[1]
        wire = re.search(r"198\.18\.\d+\.(\d+)", (copy.root / ".cluster/kubeconfig").read_text())
        assert wire
        this_machine = wire[0].removesuffix(wire[1]) + str(int(wire[1]) - 1)
        socket.create_connection((this_machine, port), timeout=5).close()
        for target in (f"{this_machine} {port}", "1.1.1.1 443"):
            tried = f"/busybox nc -w 3 {target} </dev/null && echo reached || echo refused"
            flags = ["--rm", "--attach", "--quiet", "--restart=Never", "--image-pull-policy=Never"]
            said = copy.kubectl(
                "run", "tries", f"--image={IMAGE}", *flags, "--command", "--", "/busybox", "sh", "-c", tried
            )
            assert "refused" in said
            assert "reached" not in said


def test_without_a_cluster_env_says_how_to_start_one(copy: Copy) -> None:
    done = copy.run("env", check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "scripts/cluster: no cluster is running: start one with `scripts/cluster up`\n"


def test_what_is_missing_is_named(copy: Copy) -> None:
    before = machine(copy)
    hidden = f"mount -t tmpfs none /sys/fs/cgroup && exec {copy.root}/scripts/cluster up"
    done = subprocess.run(["unshare", "--mount", "sh", "-c", hidden], capture_output=True, text=True, env=os.environ)
    assert done.returncode == 1
    assert "this machine lacks control groups in /sys/fs/cgroup\n" in done.stderr
    assert not left(copy, before)
