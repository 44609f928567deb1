"""What `scripts/cluster` does on this machine: starts a cluster, ends it, and says how to reach it."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from _work import ROOT, alone, say

from _cluster import check, files, nodes, pki, processes
from _cluster.place import (
    ADMIN,
    BIN,
    BLOBS,
    CLUSTER_IP,
    HOST_IP,
    INSIDE,
    KUBECONFIG,
    NAME,
    READY,
    REGISTRY,
    SERVER,
    STATE,
    node_name,
)

START_SECONDS = 180
INSIDE_LOG = STATE / "log/inside.log"
UP = STATE / "up"
"""There once all is done; it holds the number of real nodes."""


def up(count: int) -> None:
    """Start a cluster with so many real nodes, unless it is there."""
    check.check_user()
    subprocess.run([ROOT / "scripts/packages", *check.PACKAGES], check=True)
    subprocess.run([ROOT / "scripts/tools", *check.TOOLS], check=True)
    STATE.mkdir(exist_ok=True)
    BLOBS.mkdir(parents=True, exist_ok=True)
    with alone(BLOBS):
        if _healthy(count):
            say('it is up already; `eval "$(scripts/cluster env)"` to use it')
            return
        _end()
        STATE.mkdir()
        begin = time.monotonic()
        try:
            check.check_kernel(STATE)
            _configure(count)
            pid = processes.start(count, INSIDE_LOG)
            _connect(pid)
            processes.wait(lambda: READY.exists() or _failed(), f"it has not started:\n{_said()}", START_SECONDS)
            _join(pid, count)
        except SystemExit as error:
            failure = f"{error}\n{_said()}" if _said() and _failed() else error
            _end()
            sys.exit(str(failure))
        UP.write_text(str(count))
        say(f'up in {time.monotonic() - begin:.0f} s; `eval "$(scripts/cluster env)"` to use it')


def down() -> None:
    """End the cluster, and remove all that it made but what its registry holds."""
    check.check_user()
    BLOBS.mkdir(parents=True, exist_ok=True)
    with alone(BLOBS):
        say("it is down" if _end() else "there was none")


def environment() -> dict[str, str]:
    """Return the variables with which kubectl, helm and scripts/bake reach the cluster."""
    if not UP.exists() or processes.first() is None:
        sys.exit("scripts/cluster: there is no cluster; `scripts/cluster up` starts one")
    return {"KUBECONFIG": str(KUBECONFIG), "REGISTRY": REGISTRY, "PATH": f"{BIN}:{os.environ['PATH']}"}


def _healthy(count: int) -> bool:
    """Tell whether a whole cluster of the same size is up and every node of it is ready."""
    if not UP.exists() or UP.read_text() != str(count) or processes.first() is None:
        return False
    query: list[str | Path] = [
        BIN / "kubectl",
        "--kubeconfig",
        KUBECONFIG,
        "--request-timeout=5s",
        "get",
        "--raw",
        "/readyz",
    ]
    return subprocess.run(query, capture_output=True).returncode == 0 and not _failed()


def _end() -> bool:
    ran = processes.stop()
    if STATE.exists():
        shutil.rmtree(STATE)
        ran = True
    return ran


def _configure(count: int) -> None:
    folder = STATE / "pki"
    for made in (folder, STATE / "log", STATE / "hosts" / REGISTRY):
        made.mkdir(parents=True)
    folder.chmod(0o700)
    pki.authority(folder)
    pki.certificate(folder, "server", "kube-apiserver", addresses=f"{files.api_server_names()},IP:{CLUSTER_IP}")
    pki.certificate(folder, "admin", "admin", "system:masters")
    _secret(KUBECONFIG, pki.kubeconfig(folder, "admin", SERVER))
    _secret(STATE / "admin.kubeconfig", pki.kubeconfig(folder, "admin", files.CONTROL))
    (STATE / "registry.yaml").write_text(files.registry())
    (STATE / "Corefile").write_text(files.names())
    (STATE / "proxy.json").write_text(files.proxy())
    (STATE / "hosts" / REGISTRY / "hosts.toml").write_text(files.hosts())
    for number in range(1, count + 1):
        name = node_name(number)
        node, inside = STATE / name, f"{INSIDE}/{name}"
        for part in ("cni", "containerd", "kubelet", "plugins"):
            (node / part).mkdir(parents=True)
        pki.certificate(folder, name, f"system:node:{name}", "system:nodes")
        _secret(node / "kubeconfig", pki.kubeconfig(folder, name, files.CONTROL))
        (node / "kubelet.json").write_text(files.kubelet(number, inside))
        (node / "containerd.toml").write_text(files.containerd(inside))
        (node / "cni/pods.conflist").write_text(files.network(number))


def _secret(path: Path, content: str) -> None:
    path.touch(0o600)
    path.write_text(content)


def _connect(pid: int) -> None:
    """Lay a wire between this machine and the cluster, which goes when the cluster goes."""
    _run("ip", "link", "add", NAME, "type", "veth", "peer", "name", "wire", "netns", str(pid))
    _run("ip", "address", "add", f"{HOST_IP}/30", "dev", NAME)
    _run("ip", "link", "set", NAME, "up")
    _run(*processes.enter(pid, "ip", "address", "add", f"{CLUSTER_IP}/30", "dev", "wire"))
    _run(*processes.enter(pid, "ip", "link", "set", "wire", "up"))


def _join(pid: int, count: int) -> None:
    """Wait for the real nodes, give them a GPU, and add those that kwok plays."""
    for name, patch in nodes.patches(count).items():
        processes.wait(lambda: bool(_kubectl(pid, "get", "node", name, "--ignore-not-found")), f"{name} does not join")  # noqa: B023
        pairs = [f"{key}={value}" for key, value in nodes.labels(nodes.REAL).items()]
        _kubectl(pid, "label", "node", name, "--overwrite", *pairs)
        _kubectl(pid, "patch", "node", name, "--subresource=status", "--type=merge", f"--patch={json.dumps(patch)}")
    _kubectl(pid, "apply", "--server-side", "-f", "-", given=nodes.played())
    processes.wait(lambda: _ready(pid) or _failed(), "not every node is ready", START_SECONDS)
    # Without it no pod is admitted.
    account = ("get", "serviceaccount", "default", "--ignore-not-found")
    processes.wait(lambda: bool(_kubectl(pid, *account)) or _failed(), "there is no service account", START_SECONDS)
    if _failed():
        sys.exit("scripts/cluster: it did not start:")


def _kubectl(pid: int, *arguments: str, given: object = None) -> str:
    """Run kubectl inside, where it ends with the cluster, with an object on its standard input; return its output."""
    done = subprocess.run(
        processes.enter(pid, "/run/bin/kubectl", "--kubeconfig", ADMIN, *arguments),
        input=json.dumps(given) if given is not None else None,
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        sys.exit(f"scripts/cluster: `kubectl {' '.join(arguments)}` failed: {done.stderr.strip()}")
    return done.stdout


def _ready(pid: int) -> bool:
    """Tell whether every node is."""
    template = '{range .items[*]}{.status.conditions[?(@.type=="Ready")].status}{"\\n"}{end}'
    return set(_kubectl(pid, "get", "nodes", f"--output=jsonpath={template}").split("\n")) == {"True", ""}


def _failed() -> bool:
    """Tell whether a component has ended."""
    return " ended with " in _said() or processes.first() is None


def _said() -> str:
    """Return what the first process and those of the nodes have said."""
    logs = [INSIDE_LOG, *sorted((STATE / "log").glob("node?.log"))]
    return "".join(log.read_text() for log in logs if log.exists())


def _run(*command: str | Path) -> None:
    done: subprocess.CompletedProcess[str] = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"scripts/cluster: `{' '.join(map(str, command))}` failed: {done.stderr.strip()}")
