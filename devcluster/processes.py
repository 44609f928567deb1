"""Processes of a cluster, found by their command lines, since a killed process would leave a stale PID file behind."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from devcluster.layout import NAME, node_name, verb
from tools.verb import ROOT

COMMAND = ("-m", "devcluster.init", str(ROOT))
WAIT_SECONDS = 60


def find_init() -> dict[int, bool]:
    """Return the PIDs of the init process and of the process that started it, and whether each is in the namespaces."""
    found = {}
    own_namespace = Path("/proc/self/ns/pid").readlink()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (process / "cmdline").read_bytes().split(b"\0")
            if arguments[-5:-2] == [os.fsencode(argument) for argument in COMMAND]:
                found[int(process.name)] = (process / "ns/pid").readlink() != own_namespace
        except OSError:
            continue  # the process has exited
    return found


def init_pid() -> int | None:
    """Return the PID of the init process, or None. All other processes of the cluster end with it."""
    return next((pid for pid, inside in find_init().items() if inside), None)


def start_init(nodes: int, log: Path) -> int:
    """Start the init process in new namespaces, and return its PID."""
    for group in _groups():
        for number in range(1, nodes + 1):
            (group / node_name(number)).mkdir(parents=True, exist_ok=True)
    command: list[str | Path] = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    with log.open("wb") as output:
        subprocess.Popen(
            [*command, sys.executable, *COMMAND, str(nodes)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            cwd="/",
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
    wait_until(lambda: init_pid() is not None, f"the init process has not started: see {log}")
    return init_pid() or 0


def in_namespaces(pid: int, *command: str | Path) -> list[str | Path]:
    """Return the command line that runs a command in the namespaces of a process."""
    return ["nsenter", f"--target={pid}", "--net", "--mount", "--pid", *command]


def stop_all() -> bool:
    """Kill every process, wait until the network and control groups are gone, and return whether one was running."""
    ran = False
    while found := find_init():
        ran = True
        for pid in found:
            _kill(pid)
        wait_until(lambda: not any(pid in find_init() for pid in found), f"processes {sorted(found)} are still running")
    wait_until(lambda: not Path(f"/sys/class/net/{NAME}").exists(), f"the network device {NAME} still exists")
    for group in _groups():
        wait_until(lambda: _remove_group(group), f"the control group {group} is not empty")  # noqa: B023
    return ran


def wait_until(condition: Callable[[], bool], problem: str, seconds: float = WAIT_SECONDS) -> None:
    """Wait until a condition holds, or exit with the message `problem` after a timeout."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            verb.fail(f"after {seconds:.0f} s, {problem}")
        time.sleep(0.05)


def _groups() -> list[Path]:
    """Return the control groups of the containers: one for version 2, one in each hierarchy for version 1."""
    top = Path("/sys/fs/cgroup")
    hierarchies = [top] if (top / "cgroup.controllers").exists() else [path for path in top.iterdir() if path.is_dir()]
    return [hierarchy / NAME for hierarchy in hierarchies]


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _remove_group(group: Path) -> bool:
    """Remove a control group and its children, which the kernel refuses while one has a process."""
    try:
        for directory, _, _ in os.walk(group, topdown=False):
            Path(directory).rmdir()
    except OSError:
        pass
    return not group.exists()
