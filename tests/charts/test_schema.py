"""The schema of the values rejects typos and accepts the examples."""

import json
import re
import textwrap
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
import yaml

from tests.charts.cases import FEATURES
from tests.charts.helm import CHART, defaults, failure, text

SCHEMA = json.loads((CHART / "values.schema.json").read_text())
CHECK = jsonschema.Draft202012Validator(SCHEMA)
# Maps with free keys; the schema still checks their values.
FREE_KEYS = re.compile(r"models|nodeSelector|podAnnotations|podLabels|.*\.(annotations|labels|limits|requests)")
Path = tuple[str | int, ...]


def nodes(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Yield every node of a tree of values with its path."""
    yield path, value
    below = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in below:
        yield from nodes(part, (*path, key))


def changed(values: dict[str, Any], path: Path, value: Any) -> dict[str, Any]:
    """Return a copy of values with another value at a path."""
    copy = json.loads(json.dumps(values))
    node = copy
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return dict(copy)


def filled() -> dict[str, Any]:
    """Return the default values with an entry in each list and map that is empty by default."""
    values = defaults()
    for feature in (
        "node affinity",
        "placement",
        "extras",
        "adapters",
        "a restricted network policy",
        "an HTTPRoute with hosts",
    ):
        for key, value in FEATURES[feature].items():
            values[key] = values[key] | value if isinstance(value, dict) else value
    values["gpu"] = defaults()["gpu"]
    values["image"] |= {"pullSecrets": [{"name": "registry"}]}
    return values


FILLED = filled()
ALL = [(path, node) for path, node in nodes(FILLED) if path[:1] != ("extraObjects",)]
MAPS = [path for path, node in ALL if isinstance(node, dict)]
LEAVES = [path for path, node in ALL if path and not isinstance(node, dict)]


def name(path: Path) -> str:
    """Return a path in dotted notation."""
    return ".".join(map(str, path))


def test_schema_accepts_the_defaults_with_and_without_entries() -> None:
    CHECK.validate(defaults())
    CHECK.validate(FILLED)


@pytest.mark.parametrize("path", MAPS, ids=name)
def test_schema_rejects_a_typo_in_any_map(path: Path) -> None:
    wrong: Any = 1 if FREE_KEYS.fullmatch(name(path)) or name(path).endswith("matchLabels") else "value"
    quantity = name(path).endswith(("limits", "requests"))
    values = changed(FILLED, (*path, "typo"), [] if quantity else wrong)
    assert not CHECK.is_valid(values), f"the schema accepts {name(path)}.typo"


@pytest.mark.parametrize("path", LEAVES, ids=name)
def test_schema_rejects_a_value_of_another_type(path: Path) -> None:
    assert not CHECK.is_valid(changed(FILLED, path, {"of": "another type"}))
    if name(path).rpartition(".")[2] not in ("cpu", "memory", "weight"):
        assert not CHECK.is_valid(changed(FILLED, path, 1.5))


@pytest.mark.parametrize("key", ["typo", "image.typo", "models.mini-4k.gpu.typo", "affinity.nodeAffinity.typo"])
def test_helm_rejects_values_by_the_schema(key: str) -> None:
    value: Any = "value"
    for part in reversed(key.split(".")):
        value = {part: value}
    assert "additional properties 'typo' not allowed" in failure(value)


@pytest.mark.parametrize(
    "values",
    [
        {"maxContext": -1},
        {"drainSeconds": -1},
        {"replicaCount": 0.5},
        {"image": {"digest": "sha256:short"}},
        {"image": {"tag": "a tag"}},
        {"gpu": {"selector": {"mode": "memry"}}},
        {"models": {"mini-4k": {"gpu": {"count": 2}}}},
        {"models": {"own": {"image": "phi-3-law"}}},
        {"fullnameOverride": "a" * 53},
        {"autoscaling": {"minReplicas": 0}},
        {"adapters": {"Law": {"claimName": "adapters"}}},
        {"adapters": {"law": {"claimName": "adapters", "weight": "half"}}},
        {"adapters": {"law": {"claimName": "adapters", "path": "../other"}}},
    ],
    ids=str,
)
def test_schema_rejects_values_out_of_range(values: dict[str, Any]) -> None:
    assert "values don't meet the specifications of the schema" in failure(values)


def test_parent_chart_can_set_globals() -> None:
    assert text({"global": {"registry": "example.com"}}) == text({})


def examples() -> Iterator[tuple[str, Any]]:
    """Yield the examples in the comments of values.yaml, with the path of their value."""
    above: list[tuple[int, str]] = []
    sample: list[str] = []
    for line in (CHART / "values.yaml").read_text().splitlines():
        if found := re.match(r" *#(   .*)", line):
            sample.append(found[1])
        elif found := re.match(r"( *)([\w-]+):", line):
            above = [pair for pair in above if pair[0] < len(found[1])] + [(len(found[1]), found[2])]
            if sample:
                yield ".".join(key for _, key in above), yaml.safe_load(textwrap.dedent("\n".join(sample)))
            sample = []


@pytest.mark.parametrize(("path", "example"), list(examples()))
def test_schema_accepts_the_example_in_a_comment(path: str, example: Any) -> None:
    CHECK.validate(changed(defaults(), tuple(path.split(".")), example))


def test_comments_have_examples() -> None:
    assert len(list(examples())) > 8
