"""Start and stop a cluster, and return the variables with which clients reach it."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from devcluster import component_config, gpu_nodes, pki, preflight, processes
from devcluster.layout import (
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
    UPLINK,
    node_name,
    verb,
)
from tools.verb import ROOT

START_SECONDS = 180
INIT_LOG = STATE / "log/init.log"
# Holds the number of real nodes; `up` writes it last.
UP = STATE / "up"


def up(count: int) -> None:
    """Start a cluster with `count` real nodes, unless it is running."""
    preflight.check_user()
    subprocess.run([ROOT / "scripts/packages", *preflight.PACKAGES], check=True)
    subprocess.run([ROOT / "scripts/tools", *preflight.TOOLS], check=True)
    STATE.mkdir(exist_ok=True)
    BLOBS.mkdir(parents=True, exist_ok=True)
    with verb.exclusive(BLOBS):
        if _is_healthy(count):
            verb.log('the cluster is already running; run `eval "$(scripts/cluster env)"` to use it')
            return
        _remove()
        STATE.mkdir()
        begin = time.monotonic()
        try:
            preflight.check_machine(STATE)
            _configure(count)
            pid = processes.start_init(count, INIT_LOG)
            _connect(pid)
            processes.wait_until(
                lambda: READY.exists() or _has_failed(), f"the cluster has not started:\n{_read_logs()}", START_SECONDS
            )
            _join(pid, count)
        except SystemExit as error:
            failure = f"{error}\n{_read_logs()}" if _read_logs() and _has_failed() else error
            _remove()
            sys.exit(str(failure))
        UP.write_text(str(count))
        verb.log(
            f'the cluster started in {time.monotonic() - begin:.0f} s; run `eval "$(scripts/cluster env)"` to use it'
        )


def down() -> None:
    """Stop the cluster, and remove everything but the content of its registry."""
    preflight.check_user()
    BLOBS.mkdir(parents=True, exist_ok=True)
    with verb.exclusive(BLOBS):
        verb.log("the cluster is stopped" if _remove() else "no cluster was running")


def environment() -> dict[str, str]:
    """Return the variables with which kubectl, helm and scripts/bake reach the cluster."""
    if not UP.exists() or processes.init_pid() is None:
        verb.fail("no cluster is running: start one with `scripts/cluster up`")
    return {"KUBECONFIG": str(KUBECONFIG), "REGISTRY": REGISTRY, "PATH": f"{BIN}:{os.environ['PATH']}"}


def _is_healthy(count: int) -> bool:
    """Return whether a cluster of the same size is running and its API server is ready."""
    if not UP.exists() or UP.read_text() != str(count) or processes.init_pid() is None:
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
    return subprocess.run(query, capture_output=True).returncode == 0 and not _has_failed()


def _remove() -> bool:
    """Stop the cluster and remove its files; return whether there was one."""
    ran = processes.stop_all()
    if STATE.exists():
        shutil.rmtree(STATE)
        ran = True
    return ran


def _configure(count: int) -> None:
    directory = STATE / "pki"
    for made in (directory, STATE / "log", STATE / "hosts" / REGISTRY):
        made.mkdir(parents=True)
    directory.chmod(0o700)
    pki.make_authority(directory)
    pki.make_certificate(directory, "server", "kube-apiserver", sans=f"{component_config.SANS},IP:{CLUSTER_IP}")
    pki.make_certificate(directory, "admin", "admin", "system:masters")
    _write_secret(KUBECONFIG, pki.kubeconfig(directory, "admin", SERVER))
    _write_secret(STATE / "admin.kubeconfig", pki.kubeconfig(directory, "admin", component_config.CONTROL))
    (STATE / "registry.yaml").write_text(component_config.registry_config())
    (STATE / "Corefile").write_text(component_config.corefile())
    (STATE / "proxy.json").write_text(component_config.kube_proxy_config())
    (STATE / "hosts" / REGISTRY / "hosts.toml").write_text(component_config.registry_hosts())
    for number in range(1, count + 1):
        name = node_name(number)
        node, inside = STATE / name, f"{INSIDE}/{name}"
        for part in ("cni", "containerd", "kubelet", "plugins"):
            (node / part).mkdir(parents=True)
        pki.make_certificate(directory, name, f"system:node:{name}", "system:nodes")
        _write_secret(node / "kubeconfig", pki.kubeconfig(directory, name, component_config.CONTROL))
        (node / "kubelet.json").write_text(component_config.kubelet_config(number, inside))
        (node / "containerd.toml").write_text(component_config.containerd_config(inside))
        (node / "cni/pods.conflist").write_text(component_config.pod_network(number))


def _write_secret(path: Path, content: str) -> None:
    path.touch(0o600)
    path.write_text(content)


def _connect(pid: int) -> None:
    """Connect this machine and the cluster with a veth pair, which the kernel removes with the cluster."""
    _run("ip", "link", "add", NAME, "type", "veth", "peer", "name", UPLINK, "netns", str(pid))
    _run("ip", "address", "add", f"{HOST_IP}/30", "dev", NAME)
    _run("ip", "link", "set", NAME, "up")
    _run(*processes.in_namespaces(pid, "ip", "address", "add", f"{CLUSTER_IP}/30", "dev", UPLINK))
    _run(*processes.in_namespaces(pid, "ip", "link", "set", UPLINK, "up"))


def _join(pid: int, count: int) -> None:
    """Wait for the real nodes, add a GPU to their status, and create the nodes that kwok simulates."""
    for name, patch in gpu_nodes.status_patches(count).items():
        processes.wait_until(lambda: _node_exists(pid, name), f"{name} has not joined")  # noqa: B023
        pairs = [f"{key}={value}" for key, value in gpu_nodes.gpu_labels(gpu_nodes.GPU_OF_REAL_NODES).items()]
        _kubectl(pid, "label", "node", name, "--overwrite", *pairs)
        _kubectl(pid, "patch", "node", name, "--subresource=status", "--type=merge", f"--patch={json.dumps(patch)}")
    _kubectl(pid, "apply", "--server-side", "-f", "-", stdin=gpu_nodes.kwok_nodes())
    processes.wait_until(lambda: _all_nodes_ready(pid) or _has_failed(), "some nodes are not ready", START_SECONDS)
    # Kubernetes admits no pod before its namespace has a service account.
    account = ("get", "serviceaccount", "default", "--ignore-not-found")
    processes.wait_until(
        lambda: bool(_kubectl(pid, *account)) or _has_failed(), "there is no service account", START_SECONDS
    )
    if _has_failed():
        verb.fail("the cluster did not start:")


def _kubectl(pid: int, *arguments: str, stdin: object = None) -> str:
    """Run kubectl in the namespaces, with `stdin` as JSON on its standard input, and return its output."""
    done = subprocess.run(
        processes.in_namespaces(pid, "/run/bin/kubectl", "--kubeconfig", ADMIN, *arguments),
        input=json.dumps(stdin) if stdin is not None else None,
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        verb.fail(f"`kubectl {' '.join(arguments)}` failed: {done.stderr.strip()}")
    return done.stdout


def _node_exists(pid: int, name: str) -> bool:
    return bool(_kubectl(pid, "get", "node", name, "--ignore-not-found"))


def _all_nodes_ready(pid: int) -> bool:
    template = '{range .items[*]}{.status.conditions[?(@.type=="Ready")].status}{"\\n"}{end}'
    return set(_kubectl(pid, "get", "nodes", f"--output=jsonpath={template}").split("\n")) == {"True", ""}


def _has_failed() -> bool:
    """Return whether a component has exited."""
    return " ended with " in _read_logs() or processes.init_pid() is None


def _read_logs() -> str:
    """Return the logs of the init process and of the nodes."""
    logs = [INIT_LOG, *sorted((STATE / "log").glob("node?.log"))]
    return "".join(log.read_text() for log in logs if log.exists())


def _run(*command: str | Path) -> None:
    done: subprocess.CompletedProcess[str] = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        verb.fail(f"`{' '.join(map(str, command))}` failed: {done.stderr.strip()}")
