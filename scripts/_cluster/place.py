"""Where a cluster is: its folder, its addresses and its names, which differ between two copies of the repository."""

import hashlib

from _work import ROOT

STATE = ROOT / ".cluster"
BIN = ROOT / ".tools/bin"
BLOBS = ROOT / ".images/registry"
"""What the registry holds: kept when the cluster goes, like all that scripts/bake made."""
KUBECONFIG = STATE / "kubeconfig"
READY = STATE / "ready"
"""There once everything is started."""

_DIGEST = hashlib.sha256(str(ROOT).encode()).digest()
NAME = f"phi3-{_DIGEST.hex()[:6]}"
"""The name of the network device on this machine, and of the control group that holds the containers."""
# Out of 198.18.0.0/15, which nobody routes (RFC 2544), four addresses for a wire from this machine to the cluster.
_WIRE = f"198.18.{_DIGEST[3]}.{_DIGEST[4] & 0xFC:d}"
_PREFIX, _, _LAST = _WIRE.rpartition(".")
HOST_IP = f"{_PREFIX}.{int(_LAST) + 1}"
CLUSTER_IP = f"{_PREFIX}.{int(_LAST) + 2}"
REGISTRY = f"{CLUSTER_IP}:5000"
SERVER = f"https://{CLUSTER_IP}:6443"

# Inside, everything has the same place in every cluster.
INSIDE = "/run/cluster"
ADMIN = f"{INSIDE}/admin.kubeconfig"
CONTROL_IP = "10.245.0.1"
SERVICES = "10.96.0.0/16"
API_SERVICE = "10.96.0.1"
PODS = "10.244.0.0/16"


def node_name(number: int) -> str:
    """Return the name of a real node, counted from 1."""
    return f"node{number}"


def node_ip(number: int) -> str:
    """Return the address of a real node."""
    return f"10.245.0.{number}"
