"""Configuration files of the components, with the paths that they have inside the namespaces."""

import json

from devcluster.layout import ADMIN, API_SERVICE, CONTROL_IP, INSIDE, NAME, PODS, REGISTRY, node_ip, node_name
from devcluster.pause_image import PAUSE_IMAGE

# Subject alternative names that every API server certificate has.
SANS = f"DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,IP:{CONTROL_IP},IP:{API_SERVICE}"
CONTROL = f"https://{CONTROL_IP}:6443"

EVICTION_THRESHOLDS = {"imagefs.available": "1%", "nodefs.available": "1%", "memory.available": "100Mi"}


def registry_config() -> str:
    """Return the configuration of the registry, in YAML."""
    return (
        "version: 0.1\n"
        "log: {accesslog: {disabled: false}}\n"
        "storage: {filesystem: {rootdirectory: /run/blobs}, delete: {enabled: true}}\n"
        'http: {addr: ":5000"}\n'
    )


def corefile() -> str:
    """Return the configuration of CoreDNS, which resolves cluster names only."""
    return (
        f".:53 {{\n  bind {CONTROL_IP}\n"
        f"  kubernetes cluster.local in-addr.arpa {{\n    kubeconfig {ADMIN}\n  }}\n  cache 5\n}}\n"
    )


def kube_proxy_config() -> str:
    """Return the configuration of kube-proxy, in JSON."""
    return _document(
        "kubeproxy.config.k8s.io/v1alpha1",
        "KubeProxyConfiguration",
        mode="iptables",
        clientConnection={"kubeconfig": ADMIN},
        clusterCIDR=PODS,
        # Leaves the connection tracking limits of this machine as they are.
        conntrack={"maxPerCore": 0, "min": 0},
        hostnameOverride="node1",
    )


def registry_hosts() -> str:
    """Return the hosts.toml with which containerd reaches the registry without TLS."""
    return f'server = "http://{REGISTRY}"\n[host."http://{REGISTRY}"]\ncapabilities = ["pull", "resolve"]\n'


def pod_network(number: int) -> str:
    """Return the CNI configuration of a node: a veth pair per pod, so that all traffic passes kube-proxy's rules."""
    ipam = {
        "type": "host-local",
        "dataDir": "/run/cni",
        "ranges": [[{"subnet": PODS.replace("0.0/16", f"{number}.0/24")}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    plugins = [{"type": "ptp", "ipam": ipam}, {"type": "portmap", "capabilities": {"portMappings": True}}]
    return json.dumps({"cniVersion": "1.0.0", "name": "pods", "plugins": plugins})


def containerd_config(directory: str) -> str:
    """Return the configuration of a node's containerd, which keeps its layers in `directory`."""
    return f"""version = 3
root = "{directory}/containerd"
disabled_plugins = ["io.containerd.nri.v1.nri", "io.containerd.image-verifier.v1.bindir"]
[plugins.'io.containerd.internal.v1.opt']
path = "/run/opt"
[plugins.'io.containerd.cri.v1.images']
discard_unpacked_layers = true
[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = "{PAUSE_IMAGE}"
[plugins.'io.containerd.cri.v1.images'.registry]
config_path = "{INSIDE}/hosts"
[plugins.'io.containerd.cri.v1.runtime']
restrict_oom_score_adj = true
[plugins.'io.containerd.cri.v1.runtime'.cni]
bin_dirs = ["/usr/lib/cni"]
conf_dir = "{directory}/cni"
"""


def kubelet_config(number: int, directory: str) -> str:
    """Return the configuration of a node's kubelet, which works with both versions of control groups."""
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
        # `scripts/cluster down` finds the containers by this group.
        cgroupRoot=f"/{NAME}/{node_name(number)}",
        enforceNodeAllocatable=[],
        containerRuntimeEndpoint="unix:///run/containerd/containerd.sock",
        volumePluginDir=f"{directory}/plugins",
        clusterDNS=[CONTROL_IP],
        clusterDomain="cluster.local",
        resolvConf="",
        # Evict pods only when the disk is full, and keep images.
        evictionHard=EVICTION_THRESHOLDS,
        imageGCHighThresholdPercent=100,
        maxOpenFiles=20000,
        makeIPTablesUtilChains=False,
        protectKernelDefaults=False,
        serializeImagePulls=False,
    )


def _document(version: str, kind: str, **content: object) -> str:
    return json.dumps({"apiVersion": version, "kind": kind, **content}, indent=2)
