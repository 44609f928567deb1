"""scripts/cluster on a copy of the repository, whose cluster is independent of the cluster of the other tests."""

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
    """A copy of the repository that has the built tools but no cluster."""

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
    """Yield the processes that were started from a copy, or are in a control group of its cluster."""
    group = f"/phi3-{hashlib.sha256(os.fsencode(copy.root)).hexdigest()[:6]}/".encode()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            started = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
            if os.fsencode(copy.root) in started or group in (process / "cgroup").read_bytes():
                yield f"{process.name} {(process / 'comm').read_text()}"
        except OSError:
            continue  # the process has exited


def machine_state(copy: Copy) -> dict[str, set[str]]:
    """Return what a cluster could leave behind: mounts, network devices, control groups, files and processes."""
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


def leftovers(copy: Copy, before: dict[str, set[str]]) -> dict[str, set[str]]:
    """Return what has been added since `before`, except for the directory of the registry."""
    after = machine_state(copy)
    return {kind: found for kind in before if (found := after[kind] - before[kind] - {".images"})}


@pytest.fixture
def copy(tmp_path: Path) -> Iterator[Copy]:
    subprocess.run([ROOT / "scripts/tools", "kubernetes", "etcd", "coredns", "containerd", "helm"], check=True)
    made = Copy(tmp_path / "phi3")
    yield made
    made.run("down")


def test_a_second_up_does_nothing_and_down_leaves_nothing_behind(copy: Copy) -> None:
    before = machine_state(copy)
    copy.run("up")
    assert "is already running" in copy.run("up").stderr
    nodes = copy.kubectl("get", "nodes", "--output=name").split()
    assert nodes == ["node/kwok-a10", "node/kwok-a100", "node/kwok-h100", "node/kwok-t4", "node/node1"]
    copy.kubectl("run", "asleep", f"--image={IMAGE}", "--image-pull-policy=Never")
    copy.kubectl("wait", "--for=condition=Ready", "pod/asleep", "--timeout=60s")
    running = "\n".join(processes(copy))
    assert all(name in running for name in ("etcd", "kubelet", "containerd-shim", "busybox")), running
    assert set(leftovers(copy, before)) == {"links", "groups", "files", "processes"}
    copy.run("down")
    assert not leftovers(copy, before)
    assert "no cluster was running" in copy.run("down").stderr


@pytest.mark.parametrize("seconds", [0.5, 2, 4, 7])
def test_down_removes_everything_of_a_killed_up(copy: Copy, seconds: float) -> None:
    before = machine_state(copy)
    with subprocess.Popen(copy.command("up"), stderr=subprocess.DEVNULL) as process:
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
    copy.run("down")
    assert not leftovers(copy, before)


def test_up_after_a_killed_up_starts_a_cluster(copy: Copy) -> None:
    with subprocess.Popen(copy.command("up"), stderr=subprocess.DEVNULL) as process:
        time.sleep(3)
        process.send_signal(signal.SIGKILL)
    copy.run("up")
    assert copy.kubectl("get", "--raw", "/readyz") == "ok"


def test_a_pod_reaches_nothing_outside_the_cluster(copy: Copy) -> None:
    copy.run("up")
    with socket.create_server(("0.0.0.0", 0)) as listening:  # noqa: S104 - the device to the cluster too
        port = listening.getsockname()[1]
        address = re.search(r"198\.18\.\d+\.(\d+)", (copy.root / ".cluster/kubeconfig").read_text())
        assert address
        this_machine = address[0].removesuffix(address[1]) + str(int(address[1]) - 1)
        socket.create_connection((this_machine, port), timeout=5).close()
        for target in (f"{this_machine} {port}", "1.1.1.1 443"):
            attempt = f"/busybox nc -w 3 {target} </dev/null && echo reached || echo refused"
            flags = ["--rm", "--attach", "--quiet", "--restart=Never", "--image-pull-policy=Never"]
            output = copy.kubectl(
                "run", "tries", f"--image={IMAGE}", *flags, "--command", "--", "/busybox", "sh", "-c", attempt
            )
            assert "refused" in output
            assert "reached" not in output


def test_env_without_a_cluster_names_the_command_that_starts_one(copy: Copy) -> None:
    done = copy.run("env", check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "scripts/cluster: no cluster is running: start one with `scripts/cluster up`\n"


def test_the_error_of_up_names_the_kernel_features_that_are_missing(copy: Copy) -> None:
    before = machine_state(copy)
    hidden = f"mount -t tmpfs none /sys/fs/cgroup && exec {copy.root}/scripts/cluster up"
    done = subprocess.run(["unshare", "--mount", "sh", "-c", hidden], capture_output=True, text=True, env=os.environ)
    assert done.returncode == 1
    assert "this machine lacks control groups in /sys/fs/cgroup\n" in done.stderr
    assert not leftovers(copy, before)
