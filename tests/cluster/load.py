"""Constant traffic on a release, from a pod in its namespace."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.cluster import RELEASE, Manifest, Namespace, wait_until

RATE = 10
"""Requests per second."""
POD = "traffic"


@dataclass
class Traffic:
    """A pod that sends requests."""

    namespace: Namespace

    def results(self) -> list[Manifest]:
        """Return the finished requests: start (seconds since 1970), duration in seconds, and error or ""."""
        return [json.loads(line) for line in self.namespace.kubectl("logs", POD).splitlines()]

    def wait_for(self, count: int) -> None:
        """Wait until `count` more requests have finished."""
        target = len(self.results()) + count
        seconds = 60 + 2 * count / RATE
        wait_until(lambda: len(self.results()) >= target, f"fewer than {count} more requests finished", seconds)

    def stop(self) -> list[Manifest]:
        """Wait for the last requests, and return all results."""
        self.namespace.kubectl("exec", POD, "--", "python3", "-c", "import os; os.kill(1, 15)")
        self.namespace.kubectl("wait", "--for=jsonpath={.status.phase}=Succeeded", f"pod/{POD}", "--timeout=150s")
        return self.results()


@contextmanager
def send_traffic(namespace: Namespace, node: str = "") -> Iterator[Traffic]:
    """Send requests to the release during the `with` block; from `node`, if given."""
    cluster = namespace.cluster
    script = (Path(__file__).parent / "traffic.py").read_text()
    pod: Manifest = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": POD},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 1,
            "nodeSelector": {"kubernetes.io/hostname": node} if node else {},
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [
                {
                    "name": POD,
                    "image": f"{cluster.image}@{cluster.digest}",
                    "command": ["python3", "-c", script, f"http://{RELEASE}", str(RATE)],
                    "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}},
                    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                }
            ],
        },
    }
    namespace.kubectl("delete", "pod", POD, "--ignore-not-found")
    namespace.apply(pod)
    namespace.kubectl("wait", "--for=condition=Ready", f"pod/{POD}", "--timeout=120s")
    traffic = Traffic(namespace)
    traffic.wait_for(20)
    try:
        yield traffic
    finally:
        namespace.kubectl("delete", "pod", POD, "--wait=false", "--ignore-not-found")


def since(results: list[Manifest], begin: float) -> list[Manifest]:
    """Return the requests that finished after a time."""
    return [result for result in results if result["begin"] + result["seconds"] >= begin]


def phase_table(phases: dict[str, tuple[float, float]], results: list[Manifest]) -> str:
    """Return a line for each phase (its begin and end) with its requests, failures and slowest request."""
    lines = []
    for name, (begin, end) in phases.items():
        within = [result for result in since(results, begin) if result["begin"] < end]
        failed = sum(bool(result["error"]) for result in within)
        slowest = max((result["seconds"] for result in within), default=0)
        lines.append(f"{name:<28}{len(within):>6} requests{failed:>4} failed, slowest {slowest:5.1f} s")
    return "\n".join(lines)


@contextmanager
def phase(phases: dict[str, tuple[float, float]], name: str) -> Iterator[None]:
    """Record the begin and the end of the `with` block."""
    begin = time.time()
    yield
    phases[name] = begin, time.time()
