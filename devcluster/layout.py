"""Paths, addresses and names of a cluster; they differ between two copies of the repository."""

import hashlib

from tools.verb import ROOT, Verb

verb = Verb("scripts/cluster")

STATE = ROOT / ".cluster"
BIN = ROOT / ".tools/bin"
# The content of the registry, which outlives the cluster like everything that scripts/bake makes.
BLOBS = ROOT / ".images/registry"
KUBECONFIG = STATE / "kubeconfig"
# The init process makes this file when every component has started.
READY = STATE / "ready"

_DIGEST = hashlib.sha256(str(ROOT).encode()).digest()
# The name of the network device on this machine and of the control group of the containers.
NAME = f"phi3-{_DIGEST.hex()[:6]}"
# Four addresses out of 198.18.0.0/15, which RFC 2544 reserves, for the veth pair between this machine and the cluster.
_SUBNET = f"198.18.{_DIGEST[3]}.{_DIGEST[4] & 0xFC:d}"
_PREFIX, _, _LAST = _SUBNET.rpartition(".")
HOST_IP = f"{_PREFIX}.{int(_LAST) + 1}"
CLUSTER_IP = f"{_PREFIX}.{int(_LAST) + 2}"
REGISTRY = f"{CLUSTER_IP}:5000"
SERVER = f"https://{CLUSTER_IP}:6443"

# Paths and addresses inside the namespaces, the same in every cluster.
INSIDE = "/run/cluster"
ADMIN = f"{INSIDE}/admin.kubeconfig"
CONTROL_IP = "10.245.0.1"
SERVICES = "10.96.0.0/16"
API_SERVICE = "10.96.0.1"
PODS = "10.244.0.0/16"
# The network device that leads to this machine; the firewall admits only requests to the API server and the registry.
UPLINK = "uplink"


def node_name(number: int) -> str:
    """Return the name of a real node; the first has number 1."""
    return f"node{number}"


def node_ip(number: int) -> str:
    """Return the address of a real node."""
    return f"10.245.0.{number}"
