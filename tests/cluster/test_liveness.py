"""The liveness probe: a stuck engine is restarted, a busy one is left alone."""

import time
from typing import Any

import pytest

from tests.cluster.cluster import ROOT, Manifest, Namespace, wait

BUSY_SECONDS = 180
STALL_SECONDS = 10
# Asks the server in its own container, from many threads, for so many seconds; prints each status, or error.
ASK = """
import http.client, json, sys, threading, time
threads, seconds, tokens = map(int, sys.argv[1:])
end, seen = time.monotonic() + seconds, []
def ask():
    while (left := end - time.monotonic()) > 0:
        connection = http.client.HTTPConnection("127.0.0.1", 5000, timeout=left)
        kwargs = {"min_length": tokens, "max_length": tokens, "do_sample": False}
        try:
            connection.request("POST", "/chat", json.dumps({"messages": [{"role": "user", "content": "Hi"}],
                "generate_kwargs": kwargs}), {"Content-Type": "application/json"})
            seen.append(connection.getresponse().status)
        except OSError as error:
            seen.append(type(error).__name__)
running = [threading.Thread(target=ask) for _ in range(threads)]
[thread.start() for thread in running]
[thread.join() for thread in running]
print(*seen)
"""
STUCK = "/tmp/stuck"  # noqa: S108 - in the container
STEP = "    def _step(self, sequences: list[_Sequence]) -> None:\n"
FAULT = f"        while __import__('os').path.exists('{STUCK}'):\n            time.sleep(1)\n"


def ask(namespace: Namespace, threads: int, seconds: int, tokens: int) -> list[str]:
    """Ask the server, and return what came back."""
    numbers = [str(number) for number in (threads, seconds, tokens)]
    name = namespace.servers()[0]["metadata"]["name"]
    return namespace.kubectl("exec", name, "--", "python3", "-c", ASK, *numbers).split()


def restarts(namespace: Namespace) -> int:
    (pod,) = namespace.servers()
    return int(pod["status"]["containerStatuses"][0]["restartCount"])


def stuck_engine(namespace: Namespace) -> dict[str, Any]:
    """Return values with which the engine stands still for as long as there is a file."""
    source = (ROOT / "app/engine/scheduler.py").read_text()
    assert STEP in source
    content: Manifest = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "stuck"},
        "data": {"batched.py": source.replace(STEP, STEP + FAULT)},
    }
    namespace.apply(content)
    return {
        "model": "demo",
        "extraEnv": [{"name": "CHAT_STALL_SECONDS", "value": str(STALL_SECONDS)}],
        "extraVolumes": [{"name": "stuck", "configMap": {"name": "stuck"}}],
        "extraVolumeMounts": [
            {"name": "stuck", "mountPath": "/srv/app/engine/batched.py", "subPath": "batched.py", "readOnly": True}
        ],
    }


def test_a_stuck_engine_is_restarted_and_answers_again(
    namespace: Namespace, capsys: pytest.CaptureFixture[str]
) -> None:
    namespace.install(values=stuck_engine(namespace))
    assert "200" in ask(namespace, 1, 10, 16)
    name = namespace.servers()[0]["metadata"]["name"]
    namespace.kubectl("exec", name, "--", "touch", STUCK)
    begin = time.monotonic()
    assert set(ask(namespace, 1, 5, 16)) == {"TimeoutError"}
    wait(lambda: restarts(namespace) == 1, "it was not restarted", 200)
    with capsys.disabled():
        print(f"\na stuck engine was restarted after {time.monotonic() - begin:.0f} s")
    namespace.kubectl("exec", name, "--", "rm", STUCK)
    namespace.kubectl("wait", "--for=condition=Ready", f"pod/{name}", "--timeout=200s")
    assert "200" in ask(namespace, 1, 10, 16)
    reasons = [event["message"] for event in namespace.get("events", "--field-selector=reason=Unhealthy")]
    assert any("Liveness probe failed: HTTP probe failed with statuscode: 503" in reason for reason in reasons)


@pytest.mark.slow
def test_a_busy_engine_is_left_alone(namespace: Namespace) -> None:
    namespace.install(values={"model": "demo"})
    answers = ask(namespace, 16, BUSY_SECONDS, 4000)
    assert len(answers) >= 16
    assert set(answers) <= {"200", "TimeoutError"}
    assert restarts(namespace) == 0
    reasons = [event["message"] for event in namespace.get("events", "--field-selector=reason=Unhealthy")]
    assert not any("Liveness" in reason for reason in reasons)
    wait(lambda: "200" in ask(namespace, 1, 10, 16), "it does not answer once it has time", 120)
