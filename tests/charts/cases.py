"""Values that people set, by what they are for, and values that cannot work, by what is said of them."""

from typing import Any

Case = dict[str, Any]

GPU_POOL: Case = {
    "nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [
                {"matchExpressions": [{"key": "pool", "operator": "In", "values": ["a"]}]},
                {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["node-1"]}]},
            ]
        }
    }
}
ANTI_AFFINITY: Case = {
    "podAntiAffinity": {
        "preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 1, "podAffinityTerm": {"topologyKey": "kubernetes.io/hostname", "labelSelector": {}}}
        ]
    }
}
SPREAD: Case = {
    "maxSkew": 1,
    "topologyKey": "topology.kubernetes.io/zone",
    "whenUnsatisfiable": "DoNotSchedule",
    "labelSelector": {"matchLabels": {"app.kubernetes.io/instance": "phi3"}},
}
CONFIG_MAP: Case = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "more"}, "data": {"a": "b"}}
DIGEST = "sha256:" + "a" * 64

FEATURES: dict[str, Case] = {
    "defaults": {},
    "less context": {"maxContext": 2048},
    "a mirror": {
        "image": {
            "registry": "registry.example.com/ai",
            "repository": "phi",
            "tag": "1.2.3",
            "digest": DIGEST,
            "pullPolicy": "Always",
            "pullSecrets": [{"name": "registry"}],
        }
    },
    "weights in a volume": {"weights": {"source": "volume"}, "prepull": {"enabled": True}},
    "weights of another release": {"weights": {"source": "volume", "reference": "registry.example.com/weights:1"}},
    "adapters": {
        "adapters": {
            "law": {"image": "registry.example.com/adapters/law:1", "path": "data", "weight": 0.5},
            "tone": {"claimName": "adapters"},
        },
        "prepull": {"enabled": True},
    },
    "GPUs by product": {
        "gpu": {
            "selector": {
                "mode": "product",
                "productLabel": "cloud.google.com/gke-accelerator",
                "products": ["nvidia-l4", "nvidia-h100-80gb"],
            }
        }
    },
    "GPUs by another label": {"gpu": {"selector": {"memoryLabel": "karpenter.k8s.aws/instance-gpu-memory"}}},
    "GPUs by nothing": {"gpu": {"selector": {"mode": "none"}}, "nodeSelector": {"pool": "gpu"}},
    "affinity to nodes": {"affinity": GPU_POOL},
    "affinity to pods": {"affinity": ANTI_AFFINITY},
    "placement": {
        "nodeSelector": {"pool": "gpu"},
        "gpu": {"tolerations": []},
        "tolerations": [{"key": "team", "operator": "Equal", "value": "language"}],
        "topologySpreadConstraints": [SPREAD],
        "priorityClassName": "high",
        "runtimeClassName": "nvidia",
    },
    "marked pods": {
        "podAnnotations": {"sidecar.istio.io/inject": "true"},
        "podLabels": {"team": "language", "app.kubernetes.io/component": "other"},
    },
    "several servers": {"replicaCount": 3},
    "no servers": {"replicaCount": 0},
    "several servers without a budget": {"replicaCount": 3, "podDisruptionBudget": {"enabled": False}},
    "long answers": {"drainSeconds": 300, "shmSize": "2Gi"},
    "another program": {
        "command": ["python", "-m", "app"],
        "args": ["--log-level", "debug"],
        "containerPort": 8080,
        "probes": {"startupPath": "/healthz", "livenessPath": "/healthz", "readinessPath": "/healthz"},
    },
    "extras": {
        "extraEnv": [
            {"name": "CHAT_MAX_QUEUE", "value": "128"},
            {"name": "CHAT_HOST", "value": "::"},
            {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "tokens", "key": "token"}}},
        ],
        "extraVolumes": [{"name": "files", "configMap": {"name": "more"}}],
        "extraVolumeMounts": [{"name": "files", "mountPath": "/files", "readOnly": True}],
        "extraObjects": [CONFIG_MAP],
    },
    "keys from a Secret": {"auth": {"existingSecret": "keys", "secretKey": "list"}},
    "a generated key": {"auth": {"generate": True}},
    "another identity": {
        "serviceAccountName": "phi3",
        "podSecurityContext": {"runAsUser": 1000, "fsGroup": 1000},
        "securityContext": {"runAsNonRoot": True},
    },
    "no network policy": {"networkPolicy": {"enabled": False}},
    "a narrow network policy": {
        "networkPolicy": {
            "from": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "web"}}}],
            "egress": [{"ports": [{"port": 53, "protocol": "UDP"}]}],
        }
    },
    "a load balancer": {"service": {"type": "LoadBalancer", "port": 8080, "annotations": {"internal": "true"}}},
    "an Ingress": {"ingress": {"enabled": True, "hosts": ["phi3.example.com"]}},
    "an Ingress with TLS": {
        "ingress": {
            "enabled": True,
            "className": "nginx",
            "annotations": {"nginx.ingress.kubernetes.io/proxy-read-timeout": "600"},
            "hosts": ["phi3.example.com", "phi.example.com"],
            "tlsSecret": "certificate",
        }
    },
    "an HTTPRoute": {"httpRoute": {"enabled": True, "parentRefs": [{"name": "public"}]}},
    "an HTTPRoute with hosts": {
        "httpRoute": {
            "enabled": True,
            "parentRefs": [{"name": "public", "namespace": "gateways", "sectionName": "https", "port": 443}],
            "hostnames": ["phi3.example.com"],
            "timeout": "30m",
        }
    },
    "an autoscaler": {"autoscaling": {"mode": "hpa", "minReplicas": 2, "maxReplicas": 8, "hpaMetric": "waiting"}},
    "one server at most": {"autoscaling": {"mode": "hpa", "maxReplicas": 1}},
    "KEDA": {
        "autoscaling": {"mode": "keda", "queueLength": 8, "prometheusAddress": "http://prometheus.monitoring:9090"}
    },
    "pulled ahead": {"prepull": {"enabled": True}},
    "a ServiceMonitor": {"metrics": {"monitor": {"kind": "ServiceMonitor", "interval": "15s"}}},
    "a PodMonitor": {"metrics": {"monitor": {"kind": "PodMonitor"}}},
    "monitors that need a key": {
        "auth": {"existingSecret": "keys"},
        "metrics": {"monitor": {"kind": "ServiceMonitor", "secretKey": "prometheus", "labels": {"release": "kps"}}},
    },
    "a PodMonitor with labels": {
        "metrics": {"monitor": {"kind": "PodMonitor", "labels": {"release": "kps"}}},
        "auth": {"generate": True},
    },
    "alerts and a dashboard": {"metrics": {"rules": {"enabled": True}, "dashboard": {"enabled": True}}},
    "labels for Prometheus and Grafana": {
        "metrics": {
            "rules": {"enabled": True, "labels": {"release": "kps"}},
            "dashboard": {"enabled": True, "labels": {"grafana_dashboard": None}},
        }
    },
    "other names": {"nameOverride": "language", "fullnameOverride": "chat"},
}

GUARDS: dict[str, tuple[Case, str]] = {
    "an unknown model": (
        {"model": "mini-8k"},
        'model "mini-8k" is not one of demo, medium-128k, medium-4k, mini-128k, mini-4k: pick one of these',
    ),
    "more context than the model has": (
        {"model": "medium-4k", "maxContext": 8192},
        "maxContext 8192 is more than the 4096 tokens of model medium-4k: lower it",
    ),
    "a name that a Service cannot have": (
        {"nameOverride": "Phi_3"},
        '"phi3-Phi_3" cannot be the name',
    ),
    "products without a list": (
        {"model": "medium-128k", "gpu": {"selector": {"mode": "product"}}},
        "list in gpu.selector.products those with at least 56609 MiB",
    ),
    "products in another mode": (
        {"gpu": {"selector": {"products": ["NVIDIA-L4"]}}},
        "gpu.selector.products has no effect with mode memory: set gpu.selector.mode to product",
    ),
    "an image volume before Kubernetes 1.36": (
        {"weights": {"source": "volume"}},
        "volumes of images need Kubernetes 1.36, and this is v1.35.9: set weights.source to baked",
    ),
    "an adapter from two places": (
        {"adapters": {"law": {"image": "law:1", "claimName": "law"}}},
        "adapters.law needs its files from one place: set either its image or its claimName",
    ),
    "a reference for baked weights": (
        {"weights": {"reference": "registry.example.com/weights:1"}},
        "weights.reference has no effect with baked weights",
    ),
    "two sources of keys": (
        {"auth": {"existingSecret": "keys", "generate": True}},
        "auth.existingSecret and auth.generate exclude each other: keep one",
    ),
    "an Ingress without hosts": ({"ingress": {"enabled": True}}, "list it in ingress.hosts"),
    "an HTTPRoute without a Gateway": ({"httpRoute": {"enabled": True}}, "name it in httpRoute.parentRefs"),
    "replicas beside an autoscaler": (
        {"replicaCount": 2, "autoscaling": {"mode": "hpa"}},
        "replicaCount has no effect with autoscaling.mode hpa",
    ),
    "fewest above most": (
        {"autoscaling": {"mode": "hpa", "minReplicas": 4}},
        "autoscaling.minReplicas 4 is more than maxReplicas 3",
    ),
    "KEDA without Prometheus": ({"autoscaling": {"mode": "keda"}}, "set autoscaling.prometheusAddress"),
    "a variable twice": (
        {"extraEnv": [{"name": "A", "value": "1"}, {"name": "B", "value": "1"}, {"name": "A", "value": "2"}]},
        "extraEnv has two of A: keep one",
    ),
    "a volume's name that is taken": (
        {"extraVolumes": [{"name": "tmp", "emptyDir": {}}]},
        "extraVolumes has a name that is taken, tmp: choose another",
    ),
    "a mount's path that is taken": (
        {"extraVolumeMounts": [{"name": "files", "mountPath": "/weights"}]},
        "extraVolumeMounts has a path that is taken, /weights: choose another",
    ),
    "an object twice": (
        {"extraObjects": [CONFIG_MAP, CONFIG_MAP]},
        "extraObjects has two of ConfigMap more: keep one",
    ),
}
GUARD_FLAGS: dict[str, tuple[str, ...]] = {"an image volume before Kubernetes 1.36": ("--kube-version", "1.35.9")}
