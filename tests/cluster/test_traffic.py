"""Failed requests during a rollout, a pod deletion, a node drain and a process kill, at 10 requests per second."""

import collections
import re
import time
from typing import Any

import pytest

from tests.cluster.cluster import RELEASE, Manifest, Namespace, wait_until
from tests.cluster.load import phase, phase_table, send_traffic, since

REQUESTS = 2000
# Time for two failed probes, and for proxies to stop sending requests.
DETECTION_SECONDS = 25
ZONE = "kubernetes.io/hostname"
VALUES: dict[str, Any] = {
    "model": "demo",
    "replicaCount": 2,
    "drainSeconds": 60,
    # Two servers share two cores, and one loads while the other serves: the queue must hold every waiting request.
    "extraEnv": [{"name": "CHAT_MAX_QUEUE", "value": "1000"}, {"name": "OMP_NUM_THREADS", "value": "1"}],
    # Both servers must fit on one node of two cores while the other node is drained.
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
    """Return the pods of the servers that are ready and not terminating."""
    return [
        pod
        for pod in namespace.servers()
        if not pod["metadata"].get("deletionTimestamp")
        and any(
            condition["type"] == "Ready" and condition["status"] == "True"
            for condition in pod["status"].get("conditions", [])
        )
    ]


def wait_for_two_new(namespace: Namespace, old: set[str]) -> None:
    """Wait until two servers are ready that are not among the old ones."""
    wait_until(
        lambda: len({pod["metadata"]["name"] for pod in ready(namespace)} - old) == 2, f"no new servers for {old}"
    )


def test_rollouts_deletions_and_drains_fail_no_request(
    namespace: Namespace, capsys: pytest.CaptureFixture[str]
) -> None:
    namespace.install(values=VALUES)
    nodes = sorted(pod["spec"]["nodeName"] for pod in ready(namespace))
    assert len(set(nodes)) == 2, f"the servers run on {nodes}, but this test requires two real nodes"
    phases: dict[str, tuple[float, float]] = {}
    with send_traffic(namespace, nodes[0]) as traffic:
        with phase(phases, "no change"):
            traffic.wait_for(300)
        with phase(phases, "rollout"):
            old = {pod["metadata"]["name"] for pod in ready(namespace)}
            namespace.install("--set=drainSeconds=61", values=VALUES)
            wait_for_two_new(namespace, old)
        with phase(phases, "pod deleted"):
            victim = ready(namespace)[0]["metadata"]["name"]
            namespace.kubectl("delete", "pod", victim)
            wait_for_two_new(namespace, {victim})
        with phase(phases, "node drained"):
            flags = ("--ignore-daemonsets", "--delete-emptydir-data", "--timeout=300s")
            try:
                namespace.cluster.kubectl("drain", nodes[1], *flags)
                wait_until(lambda: len(ready(namespace)) == 2, "two servers are not ready after the drain")
                assert {pod["spec"]["nodeName"] for pod in ready(namespace)} == {nodes[0]}
            finally:
                namespace.cluster.kubectl("uncordon", nodes[1])
        with phase(phases, "no change, again"):
            traffic.wait_for(max(300, REQUESTS - len(traffic.results())))
        results = traffic.stop()
    failed = [result for result in results if result["error"]]
    kinds = collections.Counter(re.sub(r"\d+", "N", result["error"])[:90] for result in failed)
    with capsys.disabled():
        print(f"\n{phase_table(phases, results)}\n{len(failed)} failed of {len(results)} requests")
    assert len(results) >= REQUESTS
    assert not failed, kinds


@pytest.mark.slow
def test_killed_server_fails_only_its_own_requests_and_recovers(
    namespace: Namespace, capsys: pytest.CaptureFixture[str]
) -> None:
    namespace.install(values=VALUES)
    with send_traffic(namespace) as traffic:
        victim = ready(namespace)[0]["metadata"]["name"]
        begin = time.time()
        kill = "import os; [os.kill(int(p), 9) for p in os.listdir('/proc') if p.isdigit() and int(p) > 1]"
        namespace.kubectl("exec", victim, "--", "python3", "-c", kill, check=False)
        wait_until(
            lambda: namespace.kubectl("logs", victim).count("engine ready") == 2,
            "the server did not load the model again",
        )
        wait_until(lambda: len(ready(namespace)) == 2, "the server did not become ready again")
        recovery = time.time() - begin
        traffic.wait_for(200)
        results = traffic.stop()
    failed = [result for result in results if result["error"]]
    with capsys.disabled():
        print(f"\n{len(failed)} failed of {len(results)} requests; ready again after {recovery:.0f} s")
        print(*(f"  {result['begin'] - begin:+.1f} s: {result['error'][:100]}" for result in failed[:20]), sep="\n")
    assert all(result["begin"] < begin + min(recovery, DETECTION_SECONDS) for result in failed)
    assert not [result for result in since(results, begin + recovery) if result["error"]]
