"""Constant traffic on a release, from a pod of its own beside it."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.cluster import RELEASE, Manifest, Namespace, wait

RATE = 10
"""Requests a second."""
POD = "traffic"


@dataclass
class Traffic:
    """Traffic under way."""

    namespace: Namespace

    def answers(self) -> list[Manifest]:
        """Return each request that has ended: when it began (seconds since 1970), how long it took, what was wrong."""
        return [json.loads(line) for line in self.namespace.kubectl("logs", POD).splitlines()]

    def more(self, count: int) -> None:
        """Wait for so many more answers."""
        target = len(self.answers()) + count
        seconds = 60 + 2 * count / RATE
        wait(lambda: len(self.answers()) >= target, f"there are no {count} more answers", seconds)

    def end(self) -> list[Manifest]:
        """Let the last requests end, and return all."""
        self.namespace.kubectl("exec", POD, "--", "python3", "-c", "import os; os.kill(1, 15)")
        self.namespace.kubectl("wait", "--for=jsonpath={.status.phase}=Succeeded", f"pod/{POD}", "--timeout=150s")
        return self.answers()


@contextmanager
def traffic(namespace: Namespace, node: str = "") -> Iterator[Traffic]:
    """Send traffic to the release for the time of a `with` block, from a node where one is named."""
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
    sent = Traffic(namespace)
    sent.more(20)
    try:
        yield sent
    finally:
        namespace.kubectl("delete", "pod", POD, "--wait=false", "--ignore-not-found")


def since(answers: list[Manifest], begin: float) -> list[Manifest]:
    """Return the requests that were under way after a time."""
    return [answer for answer in answers if answer["begin"] + answer["seconds"] >= begin]


def table(phases: dict[str, tuple[float, float]], answers: list[Manifest]) -> str:
    """Return a line for each phase (its begin and end): requests that ran in it, those that failed, the slowest."""
    lines = []
    for name, (begin, end) in phases.items():
        within = [one for one in since(answers, begin) if one["begin"] < end]
        failed = sum(bool(one["wrong"]) for one in within)
        slowest = max((one["seconds"] for one in within), default=0)
        lines.append(f"{name:<28}{len(within):>6} requests{failed:>4} failed, slowest {slowest:5.1f} s")
    return "\n".join(lines)


@contextmanager
def phase(phases: dict[str, tuple[float, float]], name: str) -> Iterator[None]:
    """Note when something began and ended."""
    begin = time.time()
    yield
    phases[name] = begin, time.time()
