"""Cases: FEATURES holds valid values by purpose, GUARDS holds invalid values with their error messages."""

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
CONFIG_MAP: Case = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "files"}, "data": {"a": "b"}}
DIGEST = "sha256:" + "a" * 64

FEATURES: dict[str, Case] = {
    "defaults": {},
    "a smaller context": {"maxContext": 2048},
    "a mirrored image": {
        "image": {
            "registry": "registry.example.com/ai",
            "repository": "phi",
            "tag": "1.2.3",
            "digest": DIGEST,
            "pullPolicy": "Always",
            "pullSecrets": [{"name": "registry"}],
        }
    },
    "weights from a volume": {"weights": {"source": "volume"}, "prepull": {"enabled": True}},
    "weights of another release": {"weights": {"source": "volume", "reference": "registry.example.com/weights:1"}},
    "adapters": {
        "adapters": {
            "law": {"image": "registry.example.com/adapters/law:1", "path": "data", "weight": 0.5},
            "tone": {"claimName": "adapters"},
        },
        "prepull": {"enabled": True},
    },
    "GPU selection by product": {
        "gpu": {
            "selector": {
                "mode": "product",
                "productLabel": "cloud.google.com/gke-accelerator",
                "products": ["nvidia-l4", "nvidia-h100-80gb"],
            }
        }
    },
    "GPU selection by another label": {"gpu": {"selector": {"memoryLabel": "karpenter.k8s.aws/instance-gpu-memory"}}},
    "no GPU selection": {"gpu": {"selector": {"mode": "none"}}, "nodeSelector": {"pool": "gpu"}},
    "node affinity": {"affinity": GPU_POOL},
    "pod affinity": {"affinity": ANTI_AFFINITY},
    "placement": {
        "nodeSelector": {"pool": "gpu"},
        "gpu": {"tolerations": []},
        "tolerations": [{"key": "team", "operator": "Equal", "value": "language"}],
        "topologySpreadConstraints": [SPREAD],
        "priorityClassName": "high",
        "runtimeClassName": "nvidia",
    },
    "pod labels and annotations": {
        "podAnnotations": {"sidecar.istio.io/inject": "true"},
        "podLabels": {"team": "language", "app.kubernetes.io/component": "other"},
    },
    "several servers": {"replicaCount": 3},
    "no servers": {"replicaCount": 0},
    "several servers without a disruption budget": {"replicaCount": 3, "podDisruptionBudget": {"enabled": False}},
    "a long drain": {"drainSeconds": 300, "shmSize": "2Gi"},
    "a custom image": {
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
        "extraVolumes": [{"name": "files", "configMap": {"name": "files"}}],
        "extraVolumeMounts": [{"name": "files", "mountPath": "/files", "readOnly": True}],
        "extraObjects": [CONFIG_MAP],
    },
    "API keys from a Secret": {"auth": {"existingSecret": "keys", "secretKey": "list"}},
    "a generated API key": {"auth": {"generate": True}},
    "custom security contexts": {
        "serviceAccountName": "phi3",
        "podSecurityContext": {"runAsUser": 1000, "fsGroup": 1000},
        "securityContext": {"runAsNonRoot": True},
    },
    "no network policy": {"networkPolicy": {"enabled": False}},
    "a restricted network policy": {
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
    "an HPA": {"autoscaling": {"mode": "hpa", "minReplicas": 2, "maxReplicas": 8, "hpaMetric": "waiting"}},
    "an HPA with one server": {"autoscaling": {"mode": "hpa", "maxReplicas": 1}},
    "KEDA": {
        "autoscaling": {"mode": "keda", "queueLength": 8, "prometheusAddress": "http://prometheus.monitoring:9090"}
    },
    "prepulled images": {"prepull": {"enabled": True}},
    "a ServiceMonitor": {"metrics": {"monitor": {"kind": "ServiceMonitor", "interval": "15s"}}},
    "a PodMonitor": {"metrics": {"monitor": {"kind": "PodMonitor"}}},
    "a ServiceMonitor with an API key": {
        "auth": {"existingSecret": "keys"},
        "metrics": {"monitor": {"kind": "ServiceMonitor", "secretKey": "prometheus", "labels": {"release": "kps"}}},
    },
    "a PodMonitor with an API key": {
        "metrics": {"monitor": {"kind": "PodMonitor", "labels": {"release": "kps"}}},
        "auth": {"generate": True},
    },
    "alerts and a dashboard": {"metrics": {"rules": {"enabled": True}, "dashboard": {"enabled": True}}},
    "labels of alerts and dashboard": {
        "metrics": {
            "rules": {"enabled": True, "labels": {"release": "kps"}},
            "dashboard": {"enabled": True, "labels": {"grafana_dashboard": None}},
        }
    },
    "overridden names": {"nameOverride": "language", "fullnameOverride": "chat"},
}

GUARDS: dict[str, tuple[Case, str]] = {
    "an unknown model": (
        {"model": "mini-8k"},
        'model "mini-8k" is unknown. Available models: demo, medium-128k, medium-4k, mini-128k, mini-4k. '
        "Choose one of them, or add an entry to models.",
    ),
    "maxContext above the model's context": (
        {"model": "medium-4k", "maxContext": 8192},
        "maxContext 8192 exceeds the 4096-token context of model medium-4k. Lower maxContext, or choose a 128k model.",
    ),
    "an invalid Service name": (
        {"nameOverride": "Phi_3"},
        '"phi3-Phi_3" is not a valid Service name: use lowercase letters, digits and hyphens, starting with a letter. '
        "Set fullnameOverride.",
    ),
    "mode product without products": (
        {"model": "medium-128k", "gpu": {"selector": {"mode": "product"}}},
        "gpu.selector.mode product requires gpu.selector.products. "
        "List products with at least 56609 MiB, or set the mode to memory.",
    ),
    "products in mode memory": (
        {"gpu": {"selector": {"products": ["NVIDIA-L4"]}}},
        "gpu.selector.products has no effect in mode memory. Set gpu.selector.mode to product, or remove the list.",
    ),
    "an image volume before Kubernetes 1.36": (
        {"weights": {"source": "volume"}},
        "Image volumes require Kubernetes 1.36; this cluster runs v1.35.9. "
        "Set weights.source to baked, and set claimName for adapters.",
    ),
    "an adapter with two sources": (
        {"adapters": {"law": {"image": "law:1", "claimName": "law"}}},
        "adapters.law requires exactly one source of its files. Set either image or claimName.",
    ),
    "weights.reference with baked weights": (
        {"weights": {"reference": "registry.example.com/weights:1"}},
        "weights.reference has no effect when weights.source is baked. "
        "Set weights.source to volume, or remove weights.reference.",
    ),
    "two sources of API keys": (
        {"auth": {"existingSecret": "keys", "generate": True}},
        "auth.existingSecret and auth.generate are mutually exclusive. "
        "Remove auth.existingSecret, or set auth.generate to false.",
    ),
    "an Ingress without hosts": (
        {"ingress": {"enabled": True}},
        "ingress.enabled requires at least one host. "
        "Add a host name to ingress.hosts, or set ingress.enabled to false.",
    ),
    "an HTTPRoute without a Gateway": (
        {"httpRoute": {"enabled": True}},
        "httpRoute.enabled requires a Gateway. "
        "Add its name to httpRoute.parentRefs, or set httpRoute.enabled to false.",
    ),
    "replicaCount with an autoscaler": (
        {"replicaCount": 2, "autoscaling": {"mode": "hpa"}},
        "replicaCount has no effect in autoscaling.mode hpa. "
        "Set autoscaling.minReplicas instead, or set the mode to none.",
    ),
    "minReplicas above maxReplicas": (
        {"autoscaling": {"mode": "hpa", "minReplicas": 4}},
        "autoscaling.minReplicas 4 exceeds autoscaling.maxReplicas 3. Lower the minimum, or raise the maximum.",
    ),
    "KEDA without Prometheus": (
        {"autoscaling": {"mode": "keda"}},
        "autoscaling.mode keda requires a Prometheus server. Set autoscaling.prometheusAddress to its URL.",
    ),
    "a duplicate variable": (
        {"extraEnv": [{"name": "A", "value": "1"}, {"name": "B", "value": "1"}, {"name": "A", "value": "2"}]},
        "extraEnv contains A more than once. Each variable name must be unique: keep one entry.",
    ),
    "a volume name of the chart": (
        {"extraVolumes": [{"name": "tmp", "emptyDir": {}}]},
        "extraVolumes contains tmp, a volume name that is already in use. Choose a different name.",
    ),
    "a mount path of the chart": (
        {"extraVolumeMounts": [{"name": "files", "mountPath": "/weights"}]},
        "extraVolumeMounts contains /weights, a mount path that is already in use. Choose a different path.",
    ),
    "a duplicate object": (
        {"extraObjects": [CONFIG_MAP, CONFIG_MAP]},
        "extraObjects contains ConfigMap files more than once. "
        "Each name must be unique within its kind: keep one object.",
    ),
}
GUARD_FLAGS: dict[str, tuple[str, ...]] = {"an image volume before Kubernetes 1.36": ("--kube-version", "1.35.9")}
