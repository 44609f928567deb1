"""The first process inside the cluster's namespaces: makes the network, starts the components, and reaps.

Everything below it, mounts and links included, is gone once it is. `python -m _cluster.inside ROOT NODES` starts it,
and `python -m _cluster.inside ROOT node NUMBER` a node, whose containerd and kubelet have /run and /var to themselves.
"""

import os
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

from _work import ROOT

from _cluster import pause
from _cluster.place import ADMIN, BIN, BLOBS, CONTROL_IP, INSIDE, READY, SERVICES, STATE, node_ip, node_name

LOGS = Path(INSIDE) / "log"
PKI = f"{INSIDE}/pki"
ETCD = "http://127.0.0.1:2379"
PATH = f"/run/bin:{os.defpath}:/usr/sbin:/sbin"
START_SECONDS = 120
WIRE = "wire"
"""The network device that leads to this machine; the API server and the registry may be asked over it, no more."""


def mount() -> None:
    """Give this mount namespace its own /run and /var, with the cluster's folder at one place in it."""
    _run("mount", "--make-rprivate", "/")
    _run("mount", "-t", "tmpfs", "tmpfs", "/run")
    for source, name in ((STATE, "cluster"), (BIN, "bin"), (BLOBS, "blobs")):
        Path("/run", name).mkdir()
        _run("mount", "--bind", str(source), f"/run/{name}")
    for name in ("upper", "work", "tmp"):
        Path("/run", name).mkdir()
    _run("mount", "-t", "overlay", "overlay", "-o", "lowerdir=/var,upperdir=/run/upper,workdir=/run/work", "/var")
    _run("mount", "--make-rshared", "/")


def network(nodes: int) -> None:
    """Make the network: the nodes' addresses, no way out, and a wire to this machine that answers only."""
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    _run("ip", "link", "set", "lo", "up")
    # A bridge carries the addresses, since not every kernel has dummy devices.
    _run("ip", "link", "add", "nodes", "type", "bridge")
    for number in range(1, nodes + 1):
        _run("ip", "address", "add", f"{node_ip(number)}/24", "dev", "nodes")
    _run("ip", "link", "set", "nodes", "up")
    _run("ip", "route", "add", "unreachable", "default")
    answers = ("-m", "conntrack", "--ctstate", "ESTABLISHED,RELATED", "-j", "ACCEPT")
    for port in ("6443", "5000"):
        _run("iptables", "-A", "INPUT", "-i", WIRE, "-p", "tcp", "--dport", port, "-j", "ACCEPT")
    for rule in (
        ("INPUT", "-i", WIRE, "-j", "DROP"),
        ("OUTPUT", "-o", WIRE, *answers),
        ("OUTPUT", "-o", WIRE, "-j", "REJECT"),
        ("FORWARD", "-i", WIRE, "-j", "DROP"),
        ("FORWARD", "-o", WIRE, "-j", "REJECT"),
    ):
        _run("iptables", "-A", *rule)


def control(nodes: int) -> None:
    """Start what a cluster has once."""
    _start("registry", "docker-registry", "serve", f"{INSIDE}/registry.yaml")
    peers = ["--listen-peer-urls", "http://127.0.0.1:2380"]
    clients = ["--listen-client-urls", ETCD, "--advertise-client-urls", ETCD]
    _start("etcd", "etcd", "--data-dir", f"{INSIDE}/etcd", *clients, *peers, "--unsafe-no-fsync")
    _wait("etcd", lambda: _answers(f"{ETCD}/readyz"))
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
    _wait("kube-apiserver", lambda: _answers(f"https://{CONTROL_IP}:6443/readyz"))
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
        f"--config={Path(__file__).with_name('stages.yaml')}",
        "--node-lease-duration-seconds=40",
        "--manage-all-nodes=false",
        "--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake",
    )
    for number in range(1, nodes + 1):
        _start(node_name(number), "unshare", "--mount", sys.executable, "-m", "_cluster.inside", ROOT, "node", number)


def node(number: int) -> None:
    """Start a node, and wait for its end."""
    mount()
    folder = f"{INSIDE}/{node_name(number)}"
    Path(f"{folder}/pause.tar").write_bytes(pause.archive(pause.BUSYBOX.read_bytes()))
    _start(f"{node_name(number)}-containerd", "containerd", "--config", f"{folder}/containerd.toml")
    _wait(f"{node_name(number)}-containerd", lambda: _succeeds("ctr", "--namespace=k8s.io", "images", "list"))
    pinned = "--label=io.cri-containerd.pinned=pinned"
    _run("ctr", "--namespace=k8s.io", "images", "import", "--local", pinned, f"{folder}/pause.tar")
    _start(
        f"{node_name(number)}-kubelet",
        "kubelet",
        f"--kubeconfig={folder}/kubeconfig",
        f"--config={folder}/kubelet.json",
        f"--root-dir={folder}/kubelet",
        f"--cert-dir={folder}/certificates",
        f"--hostname-override={node_name(number)}",
        f"--node-ip={node_ip(number)}",
    )
    reap()


def reap() -> None:
    """Wait for processes that end, for ever, and say which of ours did."""
    while True:
        try:
            pid, status = os.wait()
        except ChildProcessError:
            return
        if pid in _started:
            _say(_ended(_started[pid][0], os.waitstatus_to_exitcode(status)))


_started: dict[int, tuple[str, subprocess.Popen[bytes]]] = {}


def _start(name: str, *command: object) -> None:
    _say(f"starting {name}")
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
    """Return what the components see of ours: no proxy, no account, no secret."""
    ours = {"PYTHONPATH": str(ROOT / "scripts"), "OTEL_TRACES_EXPORTER": "none"}
    return {"PATH": PATH, "TMPDIR": "/run/tmp", "HOME": "/run/tmp"} | ours


def _run(*command: str) -> None:
    done = subprocess.run(command, env=_environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        raise OSError(f"`{' '.join(command)}` failed: {done.stdout.strip()}")


def _succeeds(*command: str) -> bool:
    return subprocess.run(command, env=_environment(), capture_output=True).returncode == 0


def _answers(url: str) -> bool:
    context = ssl.create_default_context(cafile=f"{PKI}/ca.crt") if url.startswith("https") else None
    try:
        with urllib.request.urlopen(url, timeout=5, context=context):  # noqa: S310 - our own addresses
            return True
    except OSError:
        return False


def _wait(name: str, done: Callable[[], bool]) -> None:
    (process,) = (process for started, process in _started.values() if started == name)
    end = time.monotonic() + START_SECONDS
    while not done():
        if (code := process.poll()) is not None:
            sys.exit(_ended(name, code))
        if time.monotonic() > end:
            sys.exit(_ended(name, f"no answer after {START_SECONDS} s"))
        time.sleep(0.1)


def _ended(name: str, how: object) -> str:
    last = (LOGS / f"{name}.log").read_text(errors="replace").splitlines()[-5:]
    return "\n  ".join([f"{name} ended with {how}:", *last])


def _say(line: str) -> None:
    print(line, flush=True)


def main(arguments: list[str]) -> None:
    """Start what the command line says."""
    if arguments[1] == "node":
        node(int(arguments[2]))
        return
    nodes = int(arguments[1])
    mount()
    network(nodes)
    control(nodes)
    (Path(INSIDE) / READY.name).touch()
    reap()
    sys.exit("every process has ended")


if __name__ == "__main__":
    main(sys.argv[1:])
