"""The cluster's processes, found by what they run and not by a file that says so, which a kill could leave behind."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from _work import ROOT

from _cluster.place import NAME, node_name

COMMAND = ("-m", "_cluster.inside", str(ROOT))
WAIT_SECONDS = 60


def find() -> dict[int, bool]:
    """Return the ids of the cluster's first process and of its starter, and whether each is inside."""
    found = {}
    ours = Path("/proc/self/ns/pid").readlink()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (folder / "cmdline").read_bytes().split(b"\0")
            if arguments[-5:-2] == [os.fsencode(argument) for argument in COMMAND]:
                found[int(folder.name)] = (folder / "ns/pid").readlink() != ours
        except OSError:
            continue  # it has ended
    return found


def first() -> int | None:
    """Return the id of the first process inside, with which all others end."""
    return next((pid for pid, inside in find().items() if inside), None)


def start(nodes: int, log: Path) -> int:
    """Start the first process, in namespaces of its own, and return its id."""
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
            env=os.environ | {"PYTHONPATH": str(ROOT / "scripts")},
        )
    wait(lambda: first() is not None, f"nothing started; see {log}")
    return first() or 0


def enter(pid: int, *command: str | Path) -> list[str | Path]:
    """Return a command as it is run inside."""
    return ["nsenter", f"--target={pid}", "--net", "--mount", "--pid", *command]


def stop() -> bool:
    """End every process, and wait until network and control groups are gone; tells whether there was one."""
    ran = False
    while found := find():
        ran = True
        for pid in found:
            _kill(pid)
        wait(lambda: not any(pid in find() for pid in found), f"processes {sorted(found)} do not end")
    wait(lambda: not Path(f"/sys/class/net/{NAME}").exists(), f"the network device {NAME} does not go")
    for group in _groups():
        wait(lambda: _removed(group), f"the control group {group} is not empty")  # noqa: B023
    return ran


def wait(done: Callable[[], bool], otherwise: str, seconds: float = WAIT_SECONDS) -> None:
    """Wait for something to be true, or end with a message."""
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            sys.exit(f"scripts/cluster: after {seconds:.0f} s, {otherwise}")
        time.sleep(0.05)


def _groups() -> list[Path]:
    """Return the control groups of the containers: one under version 2, one in each hierarchy under version 1."""
    top = Path("/sys/fs/cgroup")
    hierarchies = [top] if (top / "cgroup.controllers").exists() else [path for path in top.iterdir() if path.is_dir()]
    return [hierarchy / NAME for hierarchy in hierarchies]


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _removed(group: Path) -> bool:
    """Remove a control group and those in it; the kernel refuses as long as one has a process."""
    try:
        for folder, _, _ in os.walk(group, topdown=False):
            Path(folder).rmdir()
    except OSError:
        pass
    return not group.exists()
