"""The configuration of the components, with the places that they have inside."""

import json

from _cluster.pause import NAME as PAUSE
from _cluster.place import ADMIN, API_SERVICE, CONTROL_IP, INSIDE, NAME, PODS, REGISTRY, node_ip, node_name

CONTROL = f"https://{CONTROL_IP}:6443"

NODE_DISK_FULL = {"imagefs.available": "1%", "nodefs.available": "1%", "memory.available": "100Mi"}


def registry() -> str:
    """Return the configuration of the registry."""
    return (
        "version: 0.1\n"
        "log: {accesslog: {disabled: false}}\n"
        "storage: {filesystem: {rootdirectory: /run/blobs}, delete: {enabled: true}}\n"
        'http: {addr: ":5000"}\n'
    )


def names() -> str:
    """Return the configuration of CoreDNS, which knows the cluster's names and nobody else's."""
    return (
        f".:53 {{\n  bind {CONTROL_IP}\n"
        f"  kubernetes cluster.local in-addr.arpa {{\n    kubeconfig {ADMIN}\n  }}\n  cache 5\n}}\n"
    )


def proxy() -> str:
    """Return the configuration of kube-proxy."""
    return _document(
        "kubeproxy.config.k8s.io/v1alpha1",
        "KubeProxyConfiguration",
        mode="iptables",
        clientConnection={"kubeconfig": ADMIN},
        clusterCIDR=PODS,
        # The machine's limits are not ours to change.
        conntrack={"maxPerCore": 0, "min": 0},
        hostnameOverride="node1",
    )


def hosts() -> str:
    """Return how containerd reaches the registry: without TLS."""
    return f'server = "http://{REGISTRY}"\n[host."http://{REGISTRY}"]\ncapabilities = ["pull", "resolve"]\n'


def network(number: int) -> str:
    """Return a node's pod network: a wire from each pod, so that all traffic passes kube-proxy's rules."""
    ipam = {
        "type": "host-local",
        "dataDir": "/run/cni",
        "ranges": [[{"subnet": PODS.replace("0.0/16", f"{number}.0/24")}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    plugins = [{"type": "ptp", "ipam": ipam}, {"type": "portmap", "capabilities": {"portMappings": True}}]
    return json.dumps({"cniVersion": "1.0.0", "name": "pods", "plugins": plugins})


def containerd(folder: str) -> str:
    """Return the configuration of a node's containerd, whose layers are in `folder`."""
    return f"""version = 3
root = "{folder}/containerd"
disabled_plugins = ["io.containerd.nri.v1.nri", "io.containerd.image-verifier.v1.bindir"]
[plugins.'io.containerd.internal.v1.opt']
path = "/run/opt"
[plugins.'io.containerd.cri.v1.images']
discard_unpacked_layers = true
[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = "{PAUSE}"
[plugins.'io.containerd.cri.v1.images'.registry]
config_path = "{INSIDE}/hosts"
[plugins.'io.containerd.cri.v1.runtime']
restrict_oom_score_adj = true
[plugins.'io.containerd.cri.v1.runtime'.cni]
bin_dirs = ["/usr/lib/cni"]
conf_dir = "{folder}/cni"
"""


def kubelet(number: int, folder: str) -> str:
    """Return the configuration of a node's kubelet. It works under both versions of control groups."""
    return _document(
        "kubelet.config.k8s.io/v1beta1",
        "KubeletConfiguration",
        address=node_ip(number),
        healthzPort=0,
        authentication={
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": f"{INSIDE}/pki/ca.crt"},
        },
        authorization={"mode": "Webhook"},
        failCgroupV1=False,
        failSwapOn=False,
        cgroupDriver="cgroupfs",
        # All containers in a group of our own, which `down` can find.
        cgroupRoot=f"/{NAME}/{node_name(number)}",
        enforceNodeAllocatable=[],
        containerRuntimeEndpoint="unix:///run/containerd/containerd.sock",
        volumePluginDir=f"{folder}/plugins",
        clusterDNS=[CONTROL_IP],
        clusterDomain="cluster.local",
        resolvConf="",
        # Only a disk that is really full counts, and images stay.
        evictionHard=NODE_DISK_FULL,
        imageGCHighThresholdPercent=100,
        maxOpenFiles=20000,
        makeIPTablesUtilChains=False,
        protectKernelDefaults=False,
        serializeImagePulls=False,
    )


def api_server_names() -> str:
    """Return the names in the API server's certificate, but for that under which this machine reaches it."""
    return f"DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,IP:{CONTROL_IP},IP:{API_SERVICE}"


def _document(version: str, kind: str, **content: object) -> str:
    return json.dumps({"apiVersion": version, "kind": kind, **content}, indent=2)
