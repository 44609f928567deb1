"""Whether this machine can run a cluster, and what it lacks."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from _work import ROOT

PACKAGES = (
    *("busybox-static", "conntrack", "containernetworking-plugins", "docker-registry"),
    *("iproute2", "iptables", "openssl", "runc"),
)
TOOLS = ("kubernetes", "etcd", "coredns", "containerd", "helm")
DISK_GB = 8
MEMORY_GB = 4
# What a cluster needs of the kernel, each tried in namespaces of its own.
TRIALS = {
    "network, mount and process namespaces": "true",
    "control groups in /sys/fs/cgroup": "test -d /sys/fs/cgroup/memory -o -f /sys/fs/cgroup/cgroup.controllers",
    "virtual network devices": "ip link add trial0 type veth peer name trial1 && ip link add trial2 type bridge",
    "iptables with address translation": "iptables -t nat -A OUTPUT -p tcp -m conntrack --ctstate NEW -j ACCEPT",
    "overlay mounts": "mount -t tmpfs t /mnt && mkdir /mnt/u /mnt/w && "
    "mount -t overlay o -o lowerdir=/var,upperdir=/mnt/u,workdir=/mnt/w /var",
}


def check_user() -> None:
    """End with a message where this is not Linux, or not root, or in a folder that would be hidden inside."""
    if sys.platform != "linux":
        sys.exit("scripts/cluster: a cluster needs Linux; with kind or minikube, set KUBECONFIG to use theirs")
    if os.geteuid() != 0:
        sys.exit("scripts/cluster: a cluster makes namespaces and mounts: run this as root")
    if ROOT.is_relative_to("/run"):
        sys.exit(f"scripts/cluster: {ROOT} is in /run, of which a cluster has its own: move it elsewhere")


def check_kernel(state: Path) -> None:
    """End with a message that names everything that is missing."""
    missing = [name for name, trial in TRIALS.items() if not _works(trial)]
    upper = state / "trial"
    if "overlay mounts" not in missing and not _works(
        f"mkdir -p {upper}/u {upper}/w && mount -t overlay o -o lowerdir=/mnt,upperdir={upper}/u,workdir={upper}/w /mnt"
    ):
        missing.append(f"overlay mounts on the file system of {state}")
    shutil.rmtree(upper, ignore_errors=True)
    free = shutil.disk_usage(state).free / 1e9
    if free < DISK_GB:
        missing.append(f"{DISK_GB} GB of disk ({free:.0f} GB are free)")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    if memory < MEMORY_GB:
        missing.append(f"{MEMORY_GB} GB of memory (it has {memory:.0f} GB)")
    if missing:
        sys.exit("scripts/cluster: this machine lacks " + "; ".join(missing))


def _works(trial: str) -> bool:
    command = ["unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "sh", "-c", trial]
    return subprocess.run(command, capture_output=True).returncode == 0
