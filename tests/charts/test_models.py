"""One word picks the model, and all that differs between models is in the map."""

from itertools import product
from typing import Any

import pytest

from images import VERSION
from tests.charts.catalogue import CATALOGUE, min_gpu_memory_mib
from tests.charts.helm import GPU_MODELS, MODELS, defaults, environment, one, pod, render, server, text

MAP = defaults()["models"]
EXPRESSION = ["nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms"]


def expressions(values: dict[str, Any]) -> list[dict[str, Any]]:
    """The match expressions of the only term of the node selection."""
    found: Any = pod(values)["affinity"]
    for key in EXPRESSION:
        found = found[key]
    ((term),) = found
    return list(term["matchExpressions"])


@pytest.mark.parametrize("model", GPU_MODELS)
def test_the_map_is_the_catalogue_s(model: str) -> None:
    entry, wanted = MAP[model], CATALOGUE[model]
    assert (entry["image"], entry["context"]) == (wanted["image"], wanted["context"])
    assert entry["gpu"] == {"count": 1, **wanted["gpu"]}


def test_every_model_of_the_catalogue_is_in_the_map() -> None:
    assert [*CATALOGUE, "demo"] == MODELS


@pytest.mark.parametrize("model", GPU_MODELS)
def test_a_model_is_its_image_on_one_gpu(model: str) -> None:
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
def test_nodes_have_the_memory_that_model_and_context_need(model: str, context: int) -> None:
    needed = min_gpu_memory_mib(model, context or CATALOGUE[model]["context"])
    wanted = {"key": "nvidia.com/gpu.memory", "operator": "Gt", "values": [str(needed - 1)]}
    assert expressions({"model": model, "maxContext": context}) == [wanted]


def test_the_server_is_told_of_less_context() -> None:
    assert environment({"model": "mini-128k", "maxContext": 131_072})["CHAT_MAX_CONTEXT"] == "131072"


def test_the_demo_model_needs_no_gpu() -> None:
    assert "affinity" not in pod({"model": "demo"})
    assert server({"model": "demo"})["resources"] == MAP["demo"]["resources"]
    assert server({"model": "demo"})["image"] == f"ghcr.io/phi3/phi-3-demo:{VERSION}"


@pytest.mark.parametrize(("model", "other"), [("mini-4k", model) for model in MODELS])
def test_models_differ_by_the_map_alone(model: str, other: str) -> None:
    assert text({"model": model, "models": {model: MAP[other]}}) == text({"model": other})


@pytest.mark.parametrize("model", MODELS)
def test_start_and_deadline_follow_from_the_model(model: str) -> None:
    startup, deployment = MAP[model]["startup"], one("Deployment", {"model": model})
    probe = server({"model": model})["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] >= startup["loadSeconds"]
    grace = pod({"model": model})["terminationGracePeriodSeconds"]
    assert deployment["spec"]["progressDeadlineSeconds"] >= sum(startup.values()) + grace


def test_a_model_of_one_s_own_is_added() -> None:
    own = MAP["mini-4k"] | {"image": "phi-3-law", "context": 2048}
    assert server({"model": "law", "models": {"law": own}})["image"] == f"ghcr.io/phi3/phi-3-law:{VERSION}"
    assert expressions({"model": "law", "models": {"law": own}})[0]["values"] == [
        str(min_gpu_memory_mib("mini-4k", 2048) - 1)
    ]


def test_a_part_of_an_entry_is_changed() -> None:
    values = {"models": {"mini-4k": {"resources": {"limits": {"memory": "20Gi"}}}}}
    assert server(values)["resources"]["limits"] == {"memory": "20Gi", "nvidia.com/gpu": 1}


def test_the_default_is_mini_4k() -> None:
    assert render({}) == render({"model": "mini-4k"})
