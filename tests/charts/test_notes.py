"""The notes that `helm install` prints: how to send a request, how long the first start takes, how to follow it."""

import re
import subprocess

import pytest

from tests.charts.cases import FEATURES, Case
from tests.charts.helm import CHART, MODELS, helm


def notes(values: Case) -> str:
    """Return the notes of a release."""
    done = helm("install", "phi3", CHART, "--namespace", "models", "--dry-run=client", values=values)
    assert done.returncode == 0, done.stderr
    return done.stdout.partition("NOTES:\n")[2]


@pytest.mark.parametrize("model", MODELS)
def test_notes_give_the_commands_to_follow_the_start_and_send_a_request(model: str) -> None:
    text = notes({"model": model})
    assert f"The Service phi3 in namespace models serves {model} on port 80." in text
    minutes = {"mini-4k": 30, "mini-128k": 30, "medium-4k": 60, "medium-128k": 60, "demo": 15}[model]
    assert f"The first start can take {minutes} minutes" in text
    assert "kubectl -n models rollout status deployment/phi3\n" in text
    assert ("nvidia.com/gpu.memory" in text) == (model != "demo")
    assert "Anyone who can reach the Service can send requests." in text
    assert "Open the chat page at http://127.0.0.1:8000/ in a browser. " in text
    assert "OPENAI_BASE_URL=http://127.0.0.1:8000/v1\n  OPENAI_API_KEY=none\n" in text
    assert f"Set the model to {model}. Inside the cluster, the base URL is http://phi3.models/v1." in text


def test_notes_give_the_urls_of_the_service_and_the_ingress() -> None:
    assert "the base URL is http://phi3.models:8080/v1." in notes(FEATURES["a load balancer"])
    outside = "Outside the cluster, the base URL is {0}/v1, and the chat page is at {0}/."
    text = notes(FEATURES["an Ingress with TLS"])
    hosts = ("https://phi3.example.com", "https://phi.example.com")
    assert "\n".join(outside.format(host) for host in hosts) in text
    assert outside.format("http://phi3.example.com") in notes(FEATURES["an Ingress"])


def test_notes_give_the_gpu_memory_for_a_smaller_context() -> None:
    assert "GPU with at least 10532 MiB" in notes({"model": "mini-128k", "maxContext": 4096})


def test_notes_omit_gpu_memory_in_mode_product() -> None:
    assert "MiB" not in notes(FEATURES["GPU selection by product"])


def test_notes_read_the_api_key_from_its_secret() -> None:
    text = notes(FEATURES["API keys from a Secret"])
    assert "get secret keys -o go-template='{{index .data \"list\" | base64decode}}'" in text
    assert '-H "Authorization: Bearer $KEY"' in text
    assert "in a browser and enter the key. " in text
    assert "OPENAI_API_KEY=$KEY\n" in text
    assert "Anyone" not in text


@pytest.mark.parametrize("feature", ["defaults", "a generated API key", "a load balancer"])
def test_commands_in_the_notes_are_valid_shell(feature: str) -> None:
    commands = "\n".join(re.findall(r"^  (.*)$", notes(FEATURES[feature]), re.MULTILINE))
    assert subprocess.run(["/bin/sh", "-n"], input=commands, text=True, capture_output=True).stderr == ""
