"""The init process of the cluster's namespaces: it makes the network, starts the components and reaps processes.

When it exits, the kernel removes its processes, mounts and network devices. `python -m devcluster.init ROOT NODES`
starts it. `python -m devcluster.init ROOT node NUMBER` starts a node, whose containerd and kubelet have their own /run
and /var.
"""

import os
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

from devcluster import pause_image
from devcluster.layout import (
    ADMIN,
    BIN,
    BLOBS,
    CONTROL_IP,
    INSIDE,
    READY,
    SERVICES,
    STATE,
    UPLINK,
    node_ip,
    node_name,
)
from tools.verb import ROOT

LOGS = Path(INSIDE) / "log"
PKI = f"{INSIDE}/pki"
ETCD = "http://127.0.0.1:2379"
PATH = f"/run/bin:{os.defpath}:/usr/sbin:/sbin"
START_SECONDS = 120


def mount_directories() -> None:
    """Mount a /run and /var of this namespace's own, with the cluster's files in /run."""
    _run("mount", "--make-rprivate", "/")
    _run("mount", "-t", "tmpfs", "tmpfs", "/run")
    for source, name in ((STATE, "cluster"), (BIN, "bin"), (BLOBS, "blobs")):
        Path("/run", name).mkdir()
        _run("mount", "--bind", str(source), f"/run/{name}")
    for name in ("upper", "work", "tmp"):
        Path("/run", name).mkdir()
    _run("mount", "-t", "overlay", "overlay", "-o", "lowerdir=/var,upperdir=/run/upper,workdir=/run/work", "/var")
    _run("mount", "--make-rshared", "/")


def make_network(nodes: int) -> None:
    """Set the nodes' addresses, and drop all traffic to the outside but answers to requests from this machine."""
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    _run("ip", "link", "set", "lo", "up")
    # A bridge holds the addresses, since some kernels lack dummy devices.
    _run("ip", "link", "add", "nodes", "type", "bridge")
    for number in range(1, nodes + 1):
        _run("ip", "address", "add", f"{node_ip(number)}/24", "dev", "nodes")
    _run("ip", "link", "set", "nodes", "up")
    _run("ip", "route", "add", "unreachable", "default")
    answers = ("-m", "conntrack", "--ctstate", "ESTABLISHED,RELATED", "-j", "ACCEPT")
    for port in ("6443", "5000"):
        _run("iptables", "-A", "INPUT", "-i", UPLINK, "-p", "tcp", "--dport", port, "-j", "ACCEPT")
    for rule in (
        ("INPUT", "-i", UPLINK, "-j", "DROP"),
        ("OUTPUT", "-o", UPLINK, *answers),
        ("OUTPUT", "-o", UPLINK, "-j", "REJECT"),
        ("FORWARD", "-i", UPLINK, "-j", "DROP"),
        ("FORWARD", "-o", UPLINK, "-j", "REJECT"),
    ):
        _run("iptables", "-A", *rule)


def start_control_plane(nodes: int) -> None:
    """Start the registry, the control plane, DNS, kube-proxy and kwok, then the nodes."""
    _start("registry", "docker-registry", "serve", f"{INSIDE}/registry.yaml")
    peers = ["--listen-peer-urls", "http://127.0.0.1:2380"]
    clients = ["--listen-client-urls", ETCD, "--advertise-client-urls", ETCD]
    _start("etcd", "etcd", "--data-dir", f"{INSIDE}/etcd", *clients, *peers, "--unsafe-no-fsync")
    _wait("etcd", lambda: _responds(f"{ETCD}/readyz"))
    _start(
        "kube-apiserver",
        "kube-apiserver",
        f"--etcd-servers={ETCD}",
        f"--advertise-address={CONTROL_IP}",
        "--secure-port=6443",
        f"--service-cluster-ip-range={SERVICES}",
        f"--client-ca-file={PKI}/ca.crt",
        f"--tls-cert-file={PKI}/server.crt",
        f"--tls-private-key-file={PKI}/server.key",
        f"--kubelet-client-certificate={PKI}/admin.crt",
        f"--kubelet-client-key={PKI}/admin.key",
        "--kubelet-preferred-address-types=InternalIP",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={PKI}/accounts.pub",
        f"--service-account-signing-key-file={PKI}/accounts.key",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
    )
    _wait("kube-apiserver", lambda: _responds(f"https://{CONTROL_IP}:6443/readyz"))
    _start(
        "kube-controller-manager",
        "kube-controller-manager",
        f"--kubeconfig={ADMIN}",
        "--leader-elect=false",
        f"--service-account-private-key-file={PKI}/accounts.key",
        f"--root-ca-file={PKI}/ca.crt",
        "--use-service-account-credentials",
    )
    _start("kube-scheduler", "kube-scheduler", f"--kubeconfig={ADMIN}", "--leader-elect=false")
    _start("coredns", "coredns", "-conf", f"{INSIDE}/Corefile")
    _start("kube-proxy", "kube-proxy", f"--config={INSIDE}/proxy.json")
    _start(
        "kwok",
        "kwok",
        f"--kubeconfig={ADMIN}",
        f"--config={Path(__file__).with_name('kwok_stages.yaml')}",
        "--node-lease-duration-seconds=40",
        "--manage-all-nodes=false",
        "--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake",
    )
    for number in range(1, nodes + 1):
        _start(node_name(number), "unshare", "--mount", sys.executable, "-m", "devcluster.init", ROOT, "node", number)


def run_node(number: int) -> None:
    """Start a node's containerd and kubelet, and reap processes until they exit."""
    mount_directories()
    directory = f"{INSIDE}/{node_name(number)}"
    Path(f"{directory}/pause.tar").write_bytes(pause_image.pause_archive(pause_image.BUSYBOX.read_bytes()))
    _start(f"{node_name(number)}-containerd", "containerd", "--config", f"{directory}/containerd.toml")
    _wait(f"{node_name(number)}-containerd", lambda: _succeeds("ctr", "--namespace=k8s.io", "images", "list"))
    pinned = "--label=io.cri-containerd.pinned=pinned"
    _run("ctr", "--namespace=k8s.io", "images", "import", "--local", pinned, f"{directory}/pause.tar")
    _start(
        f"{node_name(number)}-kubelet",
        "kubelet",
        f"--kubeconfig={directory}/kubeconfig",
        f"--config={directory}/kubelet.json",
        f"--root-dir={directory}/kubelet",
        f"--cert-dir={directory}/certificates",
        f"--hostname-override={node_name(number)}",
        f"--node-ip={node_ip(number)}",
    )
    reap()


def reap() -> None:
    """Reap processes until there are none, and log each component that exits."""
    while True:
        try:
            pid, status = os.wait()
        except ChildProcessError:
            return
        if pid in _started:
            _log(_exit_message(_started[pid][0], os.waitstatus_to_exitcode(status)))


_started: dict[int, tuple[str, subprocess.Popen[bytes]]] = {}


def _start(name: str, *command: object) -> None:
    _log(f"starting {name}")
    with (LOGS / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=_environment(),
            cwd="/",
        )
    _started[process.pid] = name, process


def _environment() -> dict[str, str]:
    """Return the environment of the components, which has no proxy, account or secret of the user's."""
    fixed = {"PYTHONPATH": str(ROOT), "OTEL_TRACES_EXPORTER": "none"}
    return {"PATH": PATH, "TMPDIR": "/run/tmp", "HOME": "/run/tmp"} | fixed


def _run(*command: str) -> None:
    done = subprocess.run(command, env=_environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        raise OSError(f"`{' '.join(command)}` failed: {done.stdout.strip()}")


def _succeeds(*command: str) -> bool:
    return subprocess.run(command, env=_environment(), capture_output=True).returncode == 0


def _responds(url: str) -> bool:
    context = ssl.create_default_context(cafile=f"{PKI}/ca.crt") if url.startswith("https") else None
    try:
        with urllib.request.urlopen(url, timeout=5, context=context):  # noqa: S310 - an address of the cluster
            return True
    except OSError:
        return False


def _wait(name: str, is_ready: Callable[[], bool]) -> None:
    (process,) = (process for started, process in _started.values() if started == name)
    end = time.monotonic() + START_SECONDS
    while not is_ready():
        if (code := process.poll()) is not None:
            sys.exit(_exit_message(name, code))
        if time.monotonic() > end:
            sys.exit(_exit_message(name, f"no response after {START_SECONDS} s"))
        time.sleep(0.1)


def _exit_message(name: str, reason: object) -> str:
    last = (LOGS / f"{name}.log").read_text(errors="replace").splitlines()[-5:]
    return "\n  ".join([f"{name} ended with {reason}:", *last])


def _log(line: str) -> None:
    print(line, flush=True)


def main(arguments: list[str]) -> None:
    """Start the cluster or a node."""
    if arguments[1] == "node":
        run_node(int(arguments[2]))
        return
    nodes = int(arguments[1])
    mount_directories()
    make_network(nodes)
    start_control_plane(nodes)
    (Path(INSIDE) / READY.name).touch()
    reap()
    sys.exit("every process has exited")


if __name__ == "__main__":
    main(sys.argv[1:])
