"""What an installation says in the end: how to call it, how long the first start takes, how to watch it."""

import re
import subprocess

import pytest

from tests.charts.cases import FEATURES, Case
from tests.charts.helm import CHART, MODELS, helm


def notes(values: Case) -> str:
    """Return what `helm install` prints in the end."""
    done = helm("install", "phi3", CHART, "--namespace", "models", "--dry-run=client", values=values)
    assert done.returncode == 0, done.stderr
    return done.stdout.partition("NOTES:\n")[2]


@pytest.mark.parametrize("model", MODELS)
def test_they_say_how_to_watch_and_to_call(model: str) -> None:
    text = notes({"model": model})
    assert f"phi3 serves {model} as Service phi3, port 80, in namespace models." in text
    minutes = {"mini-4k": 30, "mini-128k": 30, "medium-4k": 60, "medium-128k": 60, "demo": 15}[model]
    assert f"The first start may take {minutes} minutes" in text
    assert "kubectl -n models rollout status deployment/phi3\n" in text
    assert ("nvidia.com/gpu.memory" in text) == (model != "demo")
    assert "Everyone who reaches the Service may ask" in text
    assert "Chat with it at http://127.0.0.1:8000/ in a browser. " in text
    assert "OPENAI_BASE_URL=http://127.0.0.1:8000/v1\n  OPENAI_API_KEY=none\n" in text
    assert f"and the model {model}; in the cluster it is http://phi3.models/v1." in text


def test_they_say_where_else_it_is() -> None:
    assert "it is http://phi3.models:8080/v1." in notes(FEATURES["a load balancer"])
    text = notes(FEATURES["an Ingress with TLS"])
    assert "Outside it is https://phi3.example.com/v1, with the page at /.\nOutside it is https://phi.example" in text
    assert "Outside it is http://phi3.example.com/v1" in notes(FEATURES["an Ingress"])


def test_they_say_how_much_memory_less_context_needs() -> None:
    assert "GPU of 10532 MiB or more" in notes({"model": "mini-128k", "maxContext": 4096})


def test_they_name_no_memory_where_it_does_not_decide() -> None:
    assert "MiB" not in notes(FEATURES["GPUs by product"])


def test_they_say_where_the_key_is() -> None:
    text = notes(FEATURES["keys from a Secret"])
    assert "get secret keys -o go-template='{{index .data \"list\" | base64decode}}'" in text
    assert '-H "Authorization: Bearer $KEY"' in text
    assert "in a browser; the page asks for the key. " in text
    assert "OPENAI_API_KEY=$KEY\n" in text
    assert "Everyone" not in text


@pytest.mark.parametrize("feature", ["defaults", "a generated key", "a load balancer"])
def test_their_commands_are_a_shell_s(feature: str) -> None:
    commands = "\n".join(re.findall(r"^  (.*)$", notes(FEATURES[feature]), re.MULTILINE))
    assert subprocess.run(["/bin/sh", "-n"], input=commands, text=True, capture_output=True).stderr == ""
