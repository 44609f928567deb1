"""The model value selects an entry of the models value, which holds everything that depends on the model."""

from itertools import product
from typing import Any

import pytest

from images import VERSION
from tests.charts.catalogue import CATALOGUE, min_gpu_memory_mib
from tests.charts.helm import GPU_MODELS, MODELS, defaults, environment, one, pod, render, server, text

ENTRIES = defaults()["models"]
AFFINITY_PATH = ["nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms"]


def expressions(values: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the match expressions of the only node selector term."""
    terms: Any = pod(values)["affinity"]
    for key in AFFINITY_PATH:
        terms = terms[key]
    (term,) = terms
    return list(term["matchExpressions"])


@pytest.mark.parametrize("model", GPU_MODELS)
def test_models_value_equals_the_catalogue(model: str) -> None:
    entry, wanted = ENTRIES[model], CATALOGUE[model]
    assert (entry["image"], entry["context"]) == (wanted["image"], wanted["context"])
    assert entry["gpu"] == {"count": 1, **wanted["gpu"]}


def test_models_value_has_every_model_of_the_catalogue() -> None:
    assert [*CATALOGUE, "demo"] == MODELS


@pytest.mark.parametrize("model", GPU_MODELS)
def test_gpu_model_sets_the_image_the_gpu_and_its_tolerations(model: str) -> None:
    container = server({"model": model})
    assert container["image"] == f"ghcr.io/phi3/phi-3-{model}-instruct:{VERSION}"
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert "CHAT_MAX_CONTEXT" not in environment({"model": model})
    tolerated = pod({"model": model})["tolerations"]
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in tolerated
    assert {"key": "sku", "operator": "Equal", "value": "gpu", "effect": "NoSchedule"} in tolerated


@pytest.mark.parametrize(
    ("model", "context"),
    [*product(GPU_MODELS, [0, 1, 24, 2400, 4096]), ("mini-128k", 65_537), ("medium-128k", 131_072)],
)
def test_node_affinity_requires_the_gpu_memory_of_model_and_context(model: str, context: int) -> None:
    needed = min_gpu_memory_mib(model, context or CATALOGUE[model]["context"])
    wanted = {"key": "nvidia.com/gpu.memory", "operator": "Gt", "values": [str(needed - 1)]}
    assert expressions({"model": model, "maxContext": context}) == [wanted]


def test_max_context_sets_the_server_s_limit() -> None:
    assert environment({"model": "mini-128k", "maxContext": 131_072})["CHAT_MAX_CONTEXT"] == "131072"


def test_demo_model_requires_no_gpu() -> None:
    assert "affinity" not in pod({"model": "demo"})
    assert server({"model": "demo"})["resources"] == ENTRIES["demo"]["resources"]
    assert server({"model": "demo"})["image"] == f"ghcr.io/phi3/phi-3-demo:{VERSION}"


@pytest.mark.parametrize("model", MODELS)
def test_models_differ_only_by_their_entries(model: str) -> None:
    assert text({"model": "mini-4k", "models": {"mini-4k": ENTRIES[model]}}) == text({"model": model})


@pytest.mark.parametrize("model", MODELS)
def test_startup_probe_and_rollout_deadline_cover_the_model_s_startup(model: str) -> None:
    startup, deployment = ENTRIES[model]["startup"], one("Deployment", {"model": model})
    probe = server({"model": model})["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] >= startup["loadSeconds"]
    grace = pod({"model": model})["terminationGracePeriodSeconds"]
    assert deployment["spec"]["progressDeadlineSeconds"] >= sum(startup.values()) + grace


def test_values_add_a_custom_model() -> None:
    custom = ENTRIES["mini-4k"] | {"image": "phi-3-law", "context": 2048}
    assert server({"model": "law", "models": {"law": custom}})["image"] == f"ghcr.io/phi3/phi-3-law:{VERSION}"
    assert expressions({"model": "law", "models": {"law": custom}})[0]["values"] == [
        str(min_gpu_memory_mib("mini-4k", 2048) - 1)
    ]


def test_values_override_a_part_of_an_entry() -> None:
    values = {"models": {"mini-4k": {"resources": {"limits": {"memory": "20Gi"}}}}}
    assert server(values)["resources"]["limits"] == {"memory": "20Gi", "nvidia.com/gpu": 1}


def test_default_model_is_mini_4k() -> None:
    assert render({}) == render({"model": "mini-4k"})
