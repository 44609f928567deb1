"""What callers notice of a rollout, deleted pods, a drained node and a killed server, at 10 requests a second."""

import collections
import re
import time
from typing import Any

import pytest

from tests.cluster.cluster import RELEASE, Manifest, Namespace, wait
from tests.cluster.load import phase, since, table, traffic

REQUESTS = 2000
# Two failed probes, and until no proxy sends requests there any more.
NOTICED_SECONDS = 25
ZONE = "kubernetes.io/hostname"
VALUES: dict[str, Any] = {
    "model": "demo",
    "replicaCount": 2,
    "drainSeconds": 60,
    # Two cores are shared by two servers, of which one loads while the other answers: what waits is not turned away.
    "extraEnv": [{"name": "CHAT_MAX_QUEUE", "value": "1000"}, {"name": "OMP_NUM_THREADS", "value": "1"}],
    # Two servers fit on one node of two cores, for the time that the other is drained.
    "models": {"demo": {"resources": {"requests": {"cpu": "500m", "memory": "2Gi"}, "limits": {"memory": "4Gi"}}}},
    "topologySpreadConstraints": [
        {
            "maxSkew": 1,
            "topologyKey": ZONE,
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": {"app.kubernetes.io/instance": RELEASE}},
        }
    ],
}


def ready(namespace: Namespace) -> list[Manifest]:
    """Return the servers that take requests."""
    return [
        pod
        for pod in namespace.servers()
        if not pod["metadata"].get("deletionTimestamp")
        and any(one["type"] == "Ready" and one["status"] == "True" for one in pod["status"].get("conditions", []))
    ]


def two_new(namespace: Namespace, old: set[str]) -> None:
    """Wait until two servers are ready, none of them an old one."""
    wait(lambda: len({pod["metadata"]["name"] for pod in ready(namespace)} - old) == 2, f"no new servers for {old}")


def test_rollouts_deletions_and_drains_fail_no_request(
    namespace: Namespace, capsys: pytest.CaptureFixture[str]
) -> None:
    namespace.install(values=VALUES)
    homes = sorted(pod["spec"]["nodeName"] for pod in ready(namespace))
    assert len(set(homes)) == 2, f"the servers are on {homes}: a drain needs two real nodes"
    phases: dict[str, tuple[float, float]] = {}
    with traffic(namespace, homes[0]) as sent:
        with phase(phases, "nothing"):
            sent.more(300)
        with phase(phases, "rollout"):
            old = {pod["metadata"]["name"] for pod in ready(namespace)}
            namespace.install("--set=drainSeconds=61", values=VALUES)
            two_new(namespace, old)
        with phase(phases, "pod deleted"):
            victim = ready(namespace)[0]["metadata"]["name"]
            namespace.kubectl("delete", "pod", victim)
            two_new(namespace, {victim})
        with phase(phases, "node drained"):
            flags = ("--ignore-daemonsets", "--delete-emptydir-data", "--timeout=300s")
            try:
                namespace.cluster.kubectl("drain", homes[1], *flags)
                wait(lambda: len(ready(namespace)) == 2, "no two servers while a node is drained")
                assert {pod["spec"]["nodeName"] for pod in ready(namespace)} == {homes[0]}
            finally:
                namespace.cluster.kubectl("uncordon", homes[1])
        with phase(phases, "nothing again"):
            sent.more(max(300, REQUESTS - len(sent.answers())))
        answers = sent.end()
    failed = [answer for answer in answers if answer["wrong"]]
    kinds = collections.Counter(re.sub(r"\d+", "N", answer["wrong"])[:90] for answer in failed)
    with capsys.disabled():
        print(f"\n{table(phases, answers)}\n{len(failed)} failed of {len(answers)} requests")
    assert len(answers) >= REQUESTS
    assert not failed, kinds


@pytest.mark.slow
def test_a_killed_server_costs_its_own_requests_alone_and_is_back(
    namespace: Namespace, capsys: pytest.CaptureFixture[str]
) -> None:
    namespace.install(values=VALUES)
    with traffic(namespace) as sent:
        victim = ready(namespace)[0]["metadata"]["name"]
        begin = time.time()
        kill = "import os; [os.kill(int(p), 9) for p in os.listdir('/proc') if p.isdigit() and int(p) > 1]"
        namespace.kubectl("exec", victim, "--", "python3", "-c", kill, check=False)
        wait(lambda: namespace.kubectl("logs", victim).count("engine ready") == 2, "the server does not load again")
        wait(lambda: len(ready(namespace)) == 2, "the server is not back")
        back = time.time() - begin
        sent.more(200)
        answers = sent.end()
    failed = [answer for answer in answers if answer["wrong"]]
    with capsys.disabled():
        print(f"\n{len(failed)} failed of {len(answers)} requests; back after {back:.0f} s")
        print(*(f"  {one['begin'] - begin:+.1f} s: {one['wrong'][:100]}" for one in failed[:20]), sep="\n")
    assert all(one["begin"] < begin + min(back, NOTICED_SECONDS) for one in failed)
    assert not [one for one in since(answers, begin + back) if one["wrong"]]
