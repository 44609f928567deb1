"""Check that this machine can run a cluster."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from devcluster.layout import verb
from tools.verb import ROOT

PACKAGES = (
    *("busybox-static", "conntrack", "containernetworking-plugins", "docker-registry"),
    *("iproute2", "iptables", "openssl", "runc"),
)
TOOLS = ("kubernetes", "etcd", "coredns", "containerd", "helm")
DISK_GB = 8
MEMORY_GB = 4
# The kernel features that a cluster needs, each with a command that uses it in new namespaces.
KERNEL_FEATURES = {
    "network, mount and process namespaces": "true",
    "control groups in /sys/fs/cgroup": "test -d /sys/fs/cgroup/memory -o -f /sys/fs/cgroup/cgroup.controllers",
    "virtual network devices": "ip link add trial0 type veth peer name trial1 && ip link add trial2 type bridge",
    "iptables with address translation": "iptables -t nat -A OUTPUT -p tcp -m conntrack --ctstate NEW -j ACCEPT",
    "overlay mounts": "mount -t tmpfs t /mnt && mkdir /mnt/u /mnt/w && "
    "mount -t overlay o -o lowerdir=/var,upperdir=/mnt/u,workdir=/mnt/w /var",
}


def check_user() -> None:
    """Exit if this is not Linux, if the user is not root or if the repository is in /run."""
    if sys.platform != "linux":
        verb.fail("a cluster needs Linux: use kind or minikube instead and point KUBECONFIG to it")
    if os.geteuid() != 0:
        verb.fail("a cluster creates namespaces and mounts: run this command as root")
    if ROOT.is_relative_to("/run"):
        verb.fail(f"{ROOT} is in /run, which the cluster's own /run hides: move the repository")


def check_machine(state: Path) -> None:
    """Exit with a message that lists every kernel feature and resource that is missing."""
    missing = [name for name, command in KERNEL_FEATURES.items() if not _works(command)]
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
        verb.fail("this machine lacks " + "; ".join(missing))


def _works(command: str) -> bool:
    unshare = ["unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "sh", "-c", command]
    return subprocess.run(unshare, capture_output=True).returncode == 0
