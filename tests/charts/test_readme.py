"""Commands and numbers in the chart's README."""

import re
import shlex

import pytest
import yaml

from tests.charts.helm import CHART, ROOT, defaults, helm, pod

README = (CHART / "README.md").read_text()
COMMANDS = re.findall(r"^helm (?:install|upgrade) (phi3 charts/phi3.*)$", README, re.MULTILINE)
SETTINGS = [
    found
    for line in README.splitlines()
    if (found := [text for text in re.findall(r"`(\w[\w.]*=[^`]+)`", line) if re.split(r"\W", text)[0] in defaults()])
]


@pytest.mark.parametrize("command", COMMANDS)
def test_command_renders(command: str) -> None:
    flags = shlex.split(command.replace("charts/phi3", str(CHART)).replace("--reset-then-reuse-values", ""))
    done = helm("template", *flags)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("settings", SETTINGS, ids=",".join)
def test_setting_renders(settings: list[str]) -> None:
    done = helm("template", "phi3", CHART, "--set", ",".join(settings))
    assert done.returncode == 0, done.stderr


def test_repository_readme_has_the_same_two_commands() -> None:
    first = README.split("```sh\n")[1].split("```")[0]
    assert f"```sh\n{first}```" in (ROOT / "README.md").read_text()


def test_example_memory_equals_the_chart_s() -> None:
    affinity = pod({"model": "mini-128k", "maxContext": 32768})["affinity"]["nodeAffinity"]
    (term,) = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert f"{int(term['matchExpressions'][0]['values'][0]) + 1:,} MiB instead of 63,439" in README


def test_key_command_names_the_generated_secret() -> None:
    (name, entry) = re.findall(r'get secret (\S+) --output go-template=.*"(.*)"', README)[0]
    done = helm("template", "phi3", CHART, "--set", "auth.generate=true")
    (secret,) = (manifest for manifest in yaml.safe_load_all(done.stdout) if manifest and manifest["kind"] == "Secret")
    assert (secret["metadata"]["name"], list(secret["data"])) == (name, [entry])
