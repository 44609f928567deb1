"""Values, templates and documentation agree with each other."""

import base64
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.charts.cases import FEATURES, GUARDS, Case
from tests.charts.helm import CHART, MODELS, ROOT, defaults, server

TEMPLATES = [path for path in (CHART / "templates").rglob("*") if path.is_file()]
SOURCE = "\n".join(path.read_text() for path in TEMPLATES)
README = (CHART / "README.md").read_text().split("## Values")[1]


def leaves(values: dict[str, Any], above: str = "") -> Iterator[str]:
    """Yield the dotted paths of the values that have no documented values below them."""
    documented = {"models", "image", "weights", "gpu", "probes", "auth", "networkPolicy", "service", "ingress"}
    documented |= {"httpRoute", "autoscaling", "podDisruptionBudget", "prepull", "metrics", "startup"}
    documented |= {"selector", "monitor", "rules", "dashboard"}
    for key, value in values.items():
        path = f"{above}{key}"
        if key in documented and isinstance(value, dict) and path != "models":
            yield from leaves(value, f"{path}.")
        else:
            yield path


MODEL_FIELDS = set(leaves(defaults()["models"]["mini-4k"]))


def test_templates_use_exactly_the_values_that_exist() -> None:
    # Templates write whole paths, so a regular expression finds them.
    assert set(re.findall(r"\.Values\.([\w.]+\w)", SOURCE)) - {"models", "model"} | {"models", "model"} == set(
        leaves(defaults())
    )


def test_templates_use_exactly_the_fields_of_a_model() -> None:
    assert set(re.findall(r"\$model\.([\w.]+\w)", SOURCE)) == MODEL_FIELDS
    for model in MODELS:
        assert set(leaves(defaults()["models"][model])) == MODEL_FIELDS


def value_at(values: Case, path: str) -> Any:
    """Return the value at a dotted path, or None if the values do not set it."""
    node: Any = values
    for key in path.split("."):
        node = node.get(key) if isinstance(node, dict) else None
    return node


def test_some_case_changes_every_value() -> None:
    cases = [*FEATURES.values(), *(values for values, _ in GUARDS.values())]
    unchanged = {
        path
        for path in leaves(defaults())
        if all(value_at(values, path) in (None, value_at(defaults(), path)) for values in cases)
    }
    assert unchanged == {"models"}, "tests/charts/test_models.py changes models"


@pytest.mark.parametrize(
    ("path", "choice"), sorted(set(re.findall(r'(?:eq|ne) [.\w]*?\.Values\.([\w.]+) "(\w+)"', SOURCE)))
)
def test_some_case_takes_both_branches_of_a_comparison(path: str, choice: str) -> None:
    found = {value_at(values, path) or value_at(defaults(), path) for values in FEATURES.values()}
    assert choice in found
    assert len(found) > 1


def test_readme_documents_every_value() -> None:
    documented = set(re.findall(r"^\| `([\w.]+)` \|", README, re.MULTILINE))
    assert documented == set(leaves(defaults())) | {f"models.NAME.{path}" for path in MODEL_FIELDS}


def test_schema_and_tables_are_current() -> None:
    command = [sys.executable, "-m", "tools.chart_docs", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_app_version_is_the_project_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    (version,) = re.findall(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert chart["appVersion"] == version


def test_icon_is_that_of_the_chat_page() -> None:
    icon = yaml.safe_load((CHART / "Chart.yaml").read_text())["icon"].removeprefix("data:image/svg+xml;base64,")
    assert base64.b64decode(icon) == (ROOT / "app/ui/static/icon.svg").read_bytes()


def test_annotations_list_every_image() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    listed = {entry["image"] for entry in yaml.safe_load(chart["annotations"]["artifacthub.io/images"])}
    bare = server({"weights": {"source": "volume"}})["image"]
    assert listed == {bare, *(server({"model": model})["image"] for model in MODELS)}


def test_templates_are_short_and_define_one_kind() -> None:
    for path in TEMPLATES:
        lines = path.read_text().splitlines()
        if path.suffix == ".yaml":
            assert sum(line.startswith("kind: ") for line in lines) <= 1, path
            assert len(lines) <= 60 or path.name == "deployment.yaml", path


def test_helpers_have_a_comment() -> None:
    helpers = "\n".join(path.read_text() for path in TEMPLATES if path.suffix == ".tpl")
    assert helpers.count("{{- define ") == len(re.findall(r"^\{\{/\* [^\n]+\. \*/\}\}\n\{\{- define ", helpers, re.M))
