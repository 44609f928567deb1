"""The objects of each feature, and the combination of every feature with every model."""

import base64
import json
from collections import Counter
from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
import yaml

from images import VERSION
from tests.charts.cases import DIGEST, FEATURES
from tests.charts.helm import CHART, MODELS, Manifest, environment, failure, helm, one, pod, render, server, text

# Schema validation takes a third of the time and has its own tests.
UNCHECKED = "--skip-schema-validation"
# Source: x-kubernetes-list-map-keys in the API's schema.
LIST_KEYS = {
    "env": ("name",),
    "containers": ("name",),
    "volumes": ("name",),
    "volumeMounts": ("mountPath",),
    "imagePullSecrets": ("name",),
    "topologySpreadConstraints": ("topologyKey", "whenUnsatisfiable"),
    "ports": ("containerPort", "port", "protocol"),
}


def lists(node: Any, name: str = "") -> Iterator[tuple[str, list[Any]]]:
    """Yield every list in a manifest with its key."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from lists(value, key)
    if isinstance(node, list):
        yield name, node
        for value in node:
            yield from lists(value)


def check(manifest: Manifest) -> None:
    """Check the rules of the API server that the schemas do not contain: lengths of names, unique keys of lists."""
    name = manifest["metadata"]["name"]
    assert len(name) <= 63
    for key, value in manifest["metadata"].get("labels", {}).items():
        assert isinstance(value, str), key
        assert len(value) <= 63, key
    for key, found in lists(manifest):
        names = [tuple(item.get(part) for part in LIST_KEYS[key]) for item in found] if key in LIST_KEYS else []
        assert all(count == 1 for count in Counter(names).values()), f"{key} of {name} has a duplicate: {names}"


@pytest.mark.parametrize(("model", "feature"), list(product(MODELS, FEATURES)))
def test_every_feature_renders_with_every_model(model: str, feature: str) -> None:
    values = {"model": model, **FEATURES[feature]}
    manifests = render(values, UNCHECKED)
    for manifest in manifests:
        check(manifest)
    names = Counter((manifest["kind"], manifest["metadata"]["name"]) for manifest in manifests)
    assert all(count == 1 for count in names.values()), names
    selected = one("Service", values, UNCHECKED)["spec"]["selector"]
    for manifest in manifests:
        if manifest["kind"] in ("Deployment", "DaemonSet"):
            component = "server" if manifest["kind"] == "Deployment" else "prepull"
            labels = {"name": values.get("nameOverride", "phi3"), "instance": "phi3", "component": component}
            # Selector labels are immutable, so they depend only on names.
            fixed = {f"app.kubernetes.io/{key}": value for key, value in labels.items()}
            assert manifest["spec"]["selector"] == {"matchLabels": fixed}
            extra = values.get("podLabels", {}) if component == "server" else {}
            assert manifest["spec"]["template"]["metadata"]["labels"] == extra | fixed
            assert (fixed == selected) == (component == "server")


def test_rendering_is_deterministic() -> None:
    values = {key: value for feature in FEATURES.values() for key, value in feature.items() if key != "auth"}
    values |= {"replicaCount": 1, "gpu": {}, "weights": {}, "autoscaling": {}}
    assert text(values, "--namespace", "models") == text(values, "--namespace", "models", "--skip-tests=false")


@pytest.mark.parametrize(
    "given",
    [
        ["replicaCount=3", "maxContext=2048", "drainSeconds=40", "containerPort=8080", "service.port=8080"],
        [f"autoscaling.{value}" for value in ("mode=hpa", "minReplicas=2", "maxReplicas=4", "queueLength=8")],
        [
            f"models.mini-4k.{value}"
            for value in ("context=8192", "gpu.count=1", "gpu.weightsMiB=100", "gpu.kvKiBPerToken=20")
        ],
        [f"models.mini-4k.startup.{value}" for value in ("pullSeconds=99", "loadSeconds=99")],
    ],
)
def test_numbers_from_the_command_line_render_like_those_from_a_file(given: list[str]) -> None:
    # Helm parses them as another type.
    values: dict[str, Any] = {}
    for setting in given:
        *above, last = setting.partition("=")[0].split(".")
        node = values
        for key in above:
            node = node.setdefault(key, {})
        node[last] = yaml.safe_load(setting.partition("=")[2])
    done = helm("template", "phi3", CHART, "--namespace", "models", "--set", ",".join(given))
    assert done.stdout == text(values), done.stderr


def test_strings_that_yaml_reads_as_other_types_stay_strings() -> None:
    values = {
        "nameOverride": "phi3",
        "fullnameOverride": "chat",
        "serviceAccountName": "1e3",
        "priorityClassName": "no",
        "runtimeClassName": "off",
        "auth": {"existingSecret": "on", "secretKey": "yes"},
        "shmSize": "1000000",
        "prepull": {"enabled": True},
        "ingress": {"enabled": True, "className": "true", "hosts": ["1.5"], "tlsSecret": "null"},
        "metrics": {"monitor": {"kind": "ServiceMonitor", "secretKey": "12"}},
    }
    for manifest in render(values, release="on"):
        check(manifest)
        assert manifest["metadata"]["labels"]["app.kubernetes.io/instance"] == "on"
    spec = one("Deployment", values, release="on")["spec"]["template"]["spec"]
    assert [spec[f"{key}Name"] for key in ("serviceAccount", "priorityClass", "runtimeClass")] == ["1e3", "no", "off"]
    assert spec["volumes"][-1]["secret"]["secretName"] == "on"
    assert spec["volumes"][-1]["secret"]["items"][0]["key"] == "yes"


def test_names_of_long_releases_stay_within_limits() -> None:
    values = {"prepull": {"enabled": True}, "metrics": {"dashboard": {"enabled": True}}, "auth": {"generate": True}}
    manifests = render(values, release="a" * 53)
    for manifest in manifests:
        check(manifest)
    assert {manifest["metadata"]["name"] for manifest in manifests} == {
        "a" * 52 + suffix for suffix in ("", "-prepull", "-dashboard", "-api-keys", "-test")
    }


def test_overridden_names_reach_names_and_labels() -> None:
    deployment = one("Deployment", FEATURES["overridden names"])
    assert deployment["metadata"]["name"] == "chat"
    assert deployment["metadata"]["labels"]["app.kubernetes.io/name"] == "language"


def test_release_name_that_contains_the_chart_name_is_not_repeated() -> None:
    assert one("Service", {}, release="my-phi3")["metadata"]["name"] == "my-phi3"
    assert one("Service", {}, release="language")["metadata"]["name"] == "language-phi3"


def test_image_values_set_the_whole_reference() -> None:
    values = FEATURES["a mirrored image"]
    assert server(values)["image"] == f"registry.example.com/ai/phi:1.2.3@{DIGEST}"
    assert server(values)["imagePullPolicy"] == "Always"
    assert pod(values)["imagePullSecrets"] == [{"name": "registry"}]


def test_weights_volume_is_mounted_next_to_the_bare_runtime() -> None:
    values = FEATURES["weights from a volume"]
    assert server(values)["image"] == f"ghcr.io/phi3/phi-3-runtime:{VERSION}"
    image = {"reference": f"ghcr.io/phi3/phi-3-mini-4k-instruct:{VERSION}", "pullPolicy": "IfNotPresent"}
    volume, mount = {"name": "weights", "image": image}, {"name": "weights", "mountPath": "/weights", "readOnly": True}
    assert volume in pod(values)["volumes"]
    assert mount in server(values)["volumeMounts"]
    assert environment(values)["CHAT_MODEL"] == "/weights/models/mini-4k"
    assert environment(values)["CHAT_NAME"] == "mini-4k"
    prepull = one("DaemonSet", values)["spec"]["template"]["spec"]
    assert prepull["volumes"] == [volume]
    assert prepull["containers"][0]["volumeMounts"] == [mount]


def test_weights_reference_selects_the_mounted_image() -> None:
    volumes = pod(FEATURES["weights of another release"])["volumes"]
    assert volumes[-1]["image"]["reference"] == "registry.example.com/weights:1"


def test_adapters_are_mounted_and_passed_to_the_server() -> None:
    values = FEATURES["adapters"]
    image = {"reference": "registry.example.com/adapters/law:1", "pullPolicy": "IfNotPresent"}
    law, claim = {"name": "adapter-law", "image": image}, {"claimName": "adapters", "readOnly": True}
    assert pod(values)["volumes"][-2:] == [law, {"name": "adapter-tone", "persistentVolumeClaim": claim}]
    mounts = [
        {"name": "adapter-law", "mountPath": "/adapters/law", "subPath": "data", "readOnly": True},
        {"name": "adapter-tone", "mountPath": "/adapters/tone", "readOnly": True},
    ]
    assert server(values)["volumeMounts"][-2:] == mounts
    variables = environment(values)
    assert (variables["CHAT_ADAPTERS_DIR"], variables["CHAT_ADAPTER_WEIGHTS"]) == ("/adapters", "law=0.5,tone=1")
    # A claim may be bound to one node, so only images are prepulled.
    prepull = one("DaemonSet", values)["spec"]["template"]["spec"]
    assert (prepull["volumes"], prepull["containers"][0]["volumeMounts"]) == ([law], mounts[:1])


@pytest.mark.parametrize(
    "values",
    [
        {"adapters": {"law": {"image": "law:1"}}},
        {"weights": {"source": "volume"}, "adapters": {"law": {"image": "law:1"}}},
    ],
)
def test_adapter_images_require_image_volumes(values: dict[str, Any]) -> None:
    assert "set claimName for adapters" in failure(values, "--kube-version", "1.35.9")
    claim = {"adapters": {"law": {"claimName": "law"}}}
    assert "CHAT_ADAPTERS_DIR" in text(claim, "--kube-version", "1.35.9")


@pytest.mark.parametrize(
    "extra",
    [
        {"extraVolumes": [{"name": "adapter-law", "emptyDir": {}}]},
        {"extraVolumeMounts": [{"name": "files", "mountPath": "/adapters/law"}]},
    ],
)
def test_adapters_reserve_their_volume_names_and_mount_paths(extra: dict[str, Any]) -> None:
    assert "that is already in use" in failure({"adapters": {"law": {"claimName": "law"}}, **extra})


def test_pod_labels_do_not_replace_selector_labels() -> None:
    template = one("Deployment", FEATURES["pod labels and annotations"])["spec"]["template"]["metadata"]
    assert template["annotations"] == {"sidecar.istio.io/inject": "true"}
    assert template["labels"] == one("Service", {})["spec"]["selector"] | {"team": "language"}


def test_baked_images_need_no_model_variables() -> None:
    assert not {"CHAT_MODEL", "CHAT_NAME"} & set(environment({}))


def test_custom_image_sets_command_port_and_probe_routes() -> None:
    values = FEATURES["a custom image"]
    container = server(values)
    assert (container["command"], container["args"]) == (["python", "-m", "app"], ["--log-level", "debug"])
    assert container["ports"] == [{"name": "http", "containerPort": 8080}]
    assert environment(values)["CHAT_PORT"] == "8080"
    assert {container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "liveness", "readiness")} == {
        "/healthz"
    }


def test_extra_variables_override_the_chart_s() -> None:
    variables = environment(FEATURES["extras"])
    assert variables["CHAT_HOST"] == "::"
    assert variables["CHAT_MAX_QUEUE"] == "128"
    assert server(FEATURES["extras"])["env"][-1]["valueFrom"] == {"secretKeyRef": {"name": "tokens", "key": "token"}}


def test_extra_volumes_and_objects_are_rendered() -> None:
    values = FEATURES["extras"]
    assert pod(values)["volumes"][-1] == values["extraVolumes"][0]
    assert server(values)["volumeMounts"][-1] == values["extraVolumeMounts"][0]
    assert one("ConfigMap", values) == values["extraObjects"][0]


@pytest.mark.parametrize(
    ("feature", "secret", "entry"),
    [("API keys from a Secret", "keys", "list"), ("a generated API key", "phi3-api-keys", "api-keys")],
)
def test_api_keys_are_mounted_as_a_file(feature: str, secret: str, entry: str) -> None:
    values = FEATURES[feature]
    items = [{"key": entry, "path": "api-keys"}]
    assert {"name": "api-keys", "secret": {"secretName": secret, "defaultMode": 0o440, "items": items}} in pod(values)[
        "volumes"
    ]
    assert {"name": "api-keys", "mountPath": "/run/secrets/phi3", "readOnly": True} in server(values)["volumeMounts"]
    assert environment(values)["CHAT_API_KEYS_FILE"] == "/run/secrets/phi3/api-keys"


def test_generated_key_is_long_and_survives_uninstallation() -> None:
    secret = one("Secret", FEATURES["a generated API key"])
    assert secret["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    key = base64.b64decode(secret["data"]["api-keys"]).decode()
    assert len(key) == 40
    assert key.isalnum()


def test_no_key_is_generated_by_default() -> None:
    for values in ({}, FEATURES["API keys from a Secret"]):
        assert "Secret" not in {manifest["kind"] for manifest in render(values)}


def test_network_policy_admits_the_listed_peers_and_the_smoke_test() -> None:
    spec = one("NetworkPolicy", FEATURES["a restricted network policy"])["spec"]
    (rule,) = spec["ingress"]
    test, *named = rule["from"]
    assert test["podSelector"]["matchLabels"].items() <= one("Pod", {})["metadata"]["labels"].items()
    assert named == FEATURES["a restricted network policy"]["networkPolicy"]["from"]
    assert spec["egress"] == FEATURES["a restricted network policy"]["networkPolicy"]["egress"]


def test_network_policy_opens_only_the_server_s_port() -> None:
    spec = one("NetworkPolicy", {})["spec"]
    assert (spec["policyTypes"], spec["ingress"], spec["egress"]) == (
        ["Ingress", "Egress"],
        [{"ports": [{"port": "http"}]}],
        [],
    )
    assert spec["podSelector"]["matchLabels"] == one("Service", {})["spec"]["selector"]


def test_service_forwards_port_80_to_5000() -> None:
    assert one("Service", {})["spec"]["ports"] == [{"name": "http", "port": 80, "targetPort": "http"}]
    assert server({})["ports"] == [{"name": "http", "containerPort": 5000}]


def test_load_balancer_has_its_annotations() -> None:
    service = one("Service", FEATURES["a load balancer"])
    assert (service["spec"]["type"], service["metadata"]["annotations"]) == ("LoadBalancer", {"internal": "true"})


def test_ingress_routes_every_host_to_the_service() -> None:
    ingress = one("Ingress", FEATURES["an Ingress with TLS"])
    hosts = ["phi3.example.com", "phi.example.com"]
    backend = {"service": {"name": "phi3", "port": {"name": "http"}}}
    paths = [{"path": "/", "pathType": "Prefix", "backend": backend}]
    assert ingress["spec"] == {
        "ingressClassName": "nginx",
        "tls": [{"secretName": "certificate", "hosts": hosts}],
        "rules": [{"host": host, "http": {"paths": paths}} for host in hosts],
    }


def test_http_route_sets_the_request_timeout() -> None:
    route = one("HTTPRoute", FEATURES["an HTTPRoute with hosts"])["spec"]
    assert route["rules"] == [{"backendRefs": [{"name": "phi3", "port": 80}], "timeouts": {"request": "30m"}}]
    assert route["hostnames"] == ["phi3.example.com"]
    assert one("HTTPRoute", FEATURES["an HTTPRoute"])["spec"]["rules"][0]["timeouts"] == {"request": "600s"}


def test_autoscaler_replaces_the_replica_count() -> None:
    for feature, kind in (("an HPA", "HorizontalPodAutoscaler"), ("KEDA", "ScaledObject")):
        kinds = {manifest["kind"] for manifest in render(FEATURES[feature])}
        assert kinds & {"HorizontalPodAutoscaler", "ScaledObject"} == {kind}
        assert "replicas" not in one("Deployment", FEATURES[feature])["spec"]


def test_autoscalers_target_the_queue_length() -> None:
    (metric,) = one("HorizontalPodAutoscaler", FEATURES["an HPA"])["spec"]["metrics"]
    assert metric["pods"] == {"metric": {"name": "waiting"}, "target": {"type": "AverageValue", "averageValue": "4"}}
    (trigger,) = one("ScaledObject", FEATURES["KEDA"])["spec"]["triggers"]
    assert trigger["metadata"]["threshold"] == "8"
    assert trigger["metadata"]["query"] == (
        'sum(vllm:num_requests_waiting{namespace="models",pod=~"phi3-[a-z0-9]+-[a-z0-9]+"})'
    )


@pytest.mark.parametrize(
    ("feature", "there"),
    [
        ("defaults", False),
        ("several servers", True),
        ("several servers without a disruption budget", False),
        ("no servers", False),
        ("KEDA", True),
        ("an HPA with one server", False),
    ],
)
def test_disruption_budget_covers_several_servers_and_never_blocks_a_drain(feature: str, there: bool) -> None:
    budgets = [manifest for manifest in render(FEATURES[feature]) if manifest["kind"] == "PodDisruptionBudget"]
    assert bool(budgets) == there
    for budget in budgets:
        assert budget["spec"]["maxUnavailable"] == 1
        assert budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


@pytest.mark.parametrize("kind", ["ServiceMonitor", "PodMonitor"])
def test_monitor_scrapes_the_metrics(kind: str) -> None:
    spec = one(kind, FEATURES[f"a {kind}"])["spec"]
    (endpoint,) = spec["endpoints" if kind == "ServiceMonitor" else "podMetricsEndpoints"]
    assert (endpoint["port"], endpoint["path"]) == ("http", "/metrics")
    assert "authorization" not in endpoint


def test_monitor_sends_the_api_key() -> None:
    (endpoint,) = one("ServiceMonitor", FEATURES["a ServiceMonitor with an API key"])["spec"]["endpoints"]
    assert endpoint["authorization"] == {"type": "Bearer", "credentials": {"name": "keys", "key": "prometheus"}}
    (endpoint,) = one("PodMonitor", FEATURES["a PodMonitor with an API key"])["spec"]["podMetricsEndpoints"]
    assert endpoint["authorization"]["credentials"] == {"name": "phi3-api-keys", "key": "api-keys"}


def test_prepull_runs_on_the_nodes_of_the_servers() -> None:
    values = FEATURES["pod affinity"] | FEATURES["prepulled images"]
    prepull = one("DaemonSet", values)["spec"]["template"]["spec"]
    assert prepull["affinity"] == {"nodeAffinity": pod(values)["affinity"]["nodeAffinity"]}
    assert prepull["tolerations"] == pod(values)["tolerations"]
    assert prepull["containers"][0]["image"] == server(values)["image"]
    assert "nvidia.com/gpu" not in prepull["containers"][0]["resources"]["limits"]


def test_dashboard_is_a_config_map_for_grafana() -> None:
    dashboard = one("ConfigMap", FEATURES["alerts and a dashboard"])
    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(dashboard["data"]["phi3.json"]) == json.loads((CHART / "files/dashboard.json").read_text())


def test_kaito_images_run_behind_the_same_service() -> None:
    values = yaml.safe_load((CHART / "examples/kaito.yaml").read_text())
    for model in MODELS[:4]:
        container = server({"model": model, **values})
        assert container["image"] == f"mcr.microsoft.com/aks/kaito/kaito-phi-3-{model}-instruct:0.0.1"
        assert container["ports"] == [{"name": "http", "containerPort": 5000}]
        assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
        assert one("Service", {"model": model, **values}) == one("Service", {"model": model})
