"""The rendered manifests, compared with tests/charts/golden: demo and mini-4k in full, other models line by line."""

import difflib
from pathlib import Path

import pytest

from images import VERSION
from tests.charts.helm import MODELS, text

DIRECTORY = Path(__file__).parent / "golden"
# For each of the other models: the lines that differ from those of mini-4k.
DIFFERENCES = {
    "mini-128k": [
        '                - "63438"',
        "          image: ghcr.io/phi3/phi-3-mini-128k-instruct:VERSION",
    ],
    "medium-4k": [
        "  progressDeadlineSeconds: 3645",
        '                - "29052"',
        "          image: ghcr.io/phi3/phi-3-medium-4k-instruct:VERSION",
        "            failureThreshold: 120",
        "              memory: 40Gi",
        "              memory: 8Gi",
    ],
    "medium-128k": [
        "  progressDeadlineSeconds: 3645",
        '                - "56608"',
        "          image: ghcr.io/phi3/phi-3-medium-128k-instruct:VERSION",
        "            failureThreshold: 120",
        "              memory: 40Gi",
        "              memory: 8Gi",
    ],
}


def manifests(model: str) -> str:
    """Return the manifests of a model, with VERSION for the version of the chart and its images."""
    return text({"model": model}, "--skip-tests").replace(VERSION, "VERSION")


@pytest.mark.parametrize("model", ["demo", "mini-4k"])
def test_manifests_equal_the_golden_file(model: str) -> None:
    file = DIRECTORY / f"{model}.yaml"
    command = f"helm template phi3 charts/phi3 --namespace models --skip-tests --set model={model}"
    refresh = f"{command} | sed 's/{VERSION}/VERSION/g' > {file}"
    assert manifests(model) == file.read_text(), f"Review the difference, then accept it: {refresh}"


@pytest.mark.parametrize("model", DIFFERENCES)
def test_manifests_differ_from_those_of_mini_4k_in_the_listed_lines(model: str) -> None:
    golden = (DIRECTORY / "mini-4k.yaml").read_text().splitlines()
    matcher = difflib.SequenceMatcher(None, golden, lines := manifests(model).splitlines(), autojunk=False)
    changes = [change for change in matcher.get_opcodes() if change[0] != "equal"]
    # Every changed line replaces one line, so the manifests have the same objects and fields.
    assert all(tag == "replace" and end - begin == after - first for tag, begin, end, first, after in changes)
    assert [line for _, _, _, first, after in changes for line in lines[first:after]] == DIFFERENCES[model]


def test_every_model_has_a_golden_file_or_a_list_of_differences() -> None:
    files = {file.stem for file in DIRECTORY.iterdir()}
    assert files == {"demo", "mini-4k"}
    assert files | set(DIFFERENCES) == set(MODELS)
