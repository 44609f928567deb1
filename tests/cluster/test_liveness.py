"""The liveness probe restarts a stuck engine and leaves a busy one running."""

import re
import time
from typing import Any

import pytest

from tests.cluster.cluster import ROOT, Manifest, Namespace, wait_until

BUSY_SECONDS = 180
STALL_SECONDS = 10
# Runs in the server's container: sends requests from threads for some seconds; prints each status or error.
REQUESTS = """
import http.client, json, sys, threading, time
threads, seconds, tokens = map(int, sys.argv[1:])
end, seen = time.monotonic() + seconds, []
def send():
    while (left := end - time.monotonic()) > 0:
        connection = http.client.HTTPConnection("127.0.0.1", 5000, timeout=left)
        kwargs = {"min_length": tokens, "max_length": tokens, "do_sample": False}
        try:
            connection.request("POST", "/chat", json.dumps({"messages": [{"role": "user", "content": "Hi"}],
                "generate_kwargs": kwargs}), {"Content-Type": "application/json"})
            seen.append(connection.getresponse().status)
        except OSError as error:
            seen.append(type(error).__name__)
running = [threading.Thread(target=send) for _ in range(threads)]
[thread.start() for thread in running]
[thread.join() for thread in running]
print(*seen)
"""
STUCK = "/tmp/stuck"  # noqa: S108 - a path in the container
STEP = re.compile(r"    def _step\(self, .*\) -> None:\n")
FAULT = f"        while __import__('os').path.exists('{STUCK}'):\n            __import__('time').sleep(1)\n"


def send_requests(namespace: Namespace, threads: int, seconds: int, tokens: int) -> list[str]:
    """Send requests from some threads for some seconds; return the status or the error of each."""
    numbers = [str(number) for number in (threads, seconds, tokens)]
    name = namespace.servers()[0]["metadata"]["name"]
    return namespace.kubectl("exec", name, "--", "python3", "-c", REQUESTS, *numbers).split()


def restarts(namespace: Namespace) -> int:
    """Return the number of restarts of the only server."""
    (pod,) = namespace.servers()
    return int(pod["status"]["containerStatuses"][0]["restartCount"])


def stuck_engine(namespace: Namespace) -> dict[str, Any]:
    """Return values with which the engine makes no progress while the file STUCK exists."""
    # The module with the loop of the engine, which calls _step for each step.
    modules = [path for path in (ROOT / "app/engine").glob("*.py") if STEP.search(path.read_text())]
    assert len(modules) == 1, f"expected one module with a method _step, found {modules}"
    module, source = modules[0], modules[0].read_text()
    content: Manifest = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "stuck"},
        "data": {module.name: STEP.sub(lambda match: match[0] + FAULT, source, count=1)},
    }
    namespace.apply(content)
    return {
        "model": "demo",
        "extraEnv": [{"name": "CHAT_STALL_SECONDS", "value": str(STALL_SECONDS)}],
        "extraVolumes": [{"name": "stuck", "configMap": {"name": "stuck"}}],
        "extraVolumeMounts": [
            {
                "name": "stuck",
                "mountPath": f"/srv/app/engine/{module.name}",
                "subPath": module.name,
                "readOnly": True,
            }
        ],
    }


def test_stuck_engine_is_restarted_and_serves_again(namespace: Namespace, capsys: pytest.CaptureFixture[str]) -> None:
    namespace.install(values=stuck_engine(namespace))
    assert "200" in send_requests(namespace, 1, 10, 16)
    name = namespace.servers()[0]["metadata"]["name"]
    namespace.kubectl("exec", name, "--", "touch", STUCK)
    begin = time.monotonic()
    assert set(send_requests(namespace, 1, 5, 16)) == {"TimeoutError"}
    wait_until(lambda: restarts(namespace) == 1, "the container was not restarted", 200)
    with capsys.disabled():
        print(f"\na stuck engine was restarted after {time.monotonic() - begin:.0f} s")
    namespace.kubectl("exec", name, "--", "rm", STUCK)
    namespace.kubectl("wait", "--for=condition=Ready", f"pod/{name}", "--timeout=200s")
    assert "200" in send_requests(namespace, 1, 10, 16)
    reasons = [event["message"] for event in namespace.get("events", "--field-selector=reason=Unhealthy")]
    assert any("Liveness probe failed: HTTP probe failed with statuscode: 503" in reason for reason in reasons)


@pytest.mark.slow
def test_busy_engine_is_not_restarted(namespace: Namespace) -> None:
    namespace.install(values={"model": "demo"})
    statuses = send_requests(namespace, 16, BUSY_SECONDS, 4000)
    assert len(statuses) >= 16
    assert set(statuses) <= {"200", "TimeoutError"}
    assert restarts(namespace) == 0
    reasons = [event["message"] for event in namespace.get("events", "--field-selector=reason=Unhealthy")]
    assert not any("Liveness" in reason for reason in reasons)
    wait_until(lambda: "200" in send_requests(namespace, 1, 10, 16), "the server does not answer after the load", 120)
