"""Send a server more clients than its concurrency limit, and write what they observe to docs/benchmarks.md."""

import argparse
import itertools
import statistics
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import httpx
import psutil

from benchmarks.machine import MODEL, describe_run
from benchmarks.page import measurements_table, write_section
from benchmarks.progress import log_progress
from tools.harness.server import running

CONCURRENCY_LIMIT = 16
CLIENTS = 200
TOKENS = 64
ROUNDS = 3
HEALTH_SECONDS = 0.05
TOLERANCE_FACTOR = 2.0


@dataclass
class Observations:
    """What the clients observed.

    Attributes:
        latencies: seconds of each successful request.
        waits: for each client that was rejected, the first Retry-After and the actual wait until the client's admitted
            request, both in seconds.
        statuses: number of responses by status.
    """

    latencies: list[float] = field(default_factory=list)
    waits: list[tuple[int, float]] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)


def run_client(http: httpx.Client, found: Observations, requests: int) -> None:
    """Send requests one after another, and retry each after Retry-After until the server admits it."""
    body = {"prompt": "Once upon a time", "generate_kwargs": {"max_new_tokens": TOKENS, "min_new_tokens": TOKENS}}
    for _ in range(requests):
        rejected: tuple[int, float] | None = None
        while True:
            sent = time.monotonic()
            response = http.post("/chat", json=body)
            found.statuses[response.status_code] += 1
            if response.status_code != 429:
                break
            retry_after = int(response.headers["Retry-After"])
            rejected = rejected or (retry_after, time.monotonic())
            time.sleep(retry_after)
        if response.status_code == 200:
            found.latencies.append(time.monotonic() - sent)
        if rejected:
            found.waits.append((rejected[0], sent - rejected[1]))


def run_clients(url: str, clients: int, requests: int) -> Observations:
    """Run concurrent clients that send a number of requests each."""
    found = Observations()
    # One shared client: each new one reads all certificates, which takes seconds of the cores that the server needs.
    with httpx.Client(base_url=url, timeout=600, limits=httpx.Limits(max_connections=None)) as http:
        threads = [threading.Thread(target=run_client, args=(http, found, requests)) for _ in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return found


def poll_liveness(url: str, stop: threading.Event, latencies: list[float]) -> None:
    """Request /livez until `stop` is set."""
    with httpx.Client(base_url=url, timeout=60) as http:
        while not stop.wait(HEALTH_SECONDS):
            sent = time.perf_counter()
            http.get("/livez").raise_for_status()
            latencies.append(time.perf_counter() - sent)


def latency_percentiles(found: Observations) -> str:
    """Return the median and the 95th percentile of the latencies, in seconds."""
    return f"{statistics.median(found.latencies):.2f}, {statistics.quantiles(found.latencies, n=100)[94]:.2f}"


def steal_fractions(times: list[Any]) -> list[float]:
    """Return the fraction of CPU time that the hypervisor stole between consecutive samples."""
    pairs = itertools.pairwise(times)
    return [(end.steal - begin.steal) / (sum(end[:8]) - sum(begin[:8])) for begin, end in pairs]


def main() -> None:
    """Measure the load at the limit, then all clients, then the load at the limit again, and write the results."""
    argparse.ArgumentParser("scripts/bench overload", description=__doc__).parse_args()
    description = describe_run("overload")
    with running(
        MODEL, "--max-context", "512", "--max-concurrency", str(CONCURRENCY_LIMIT), "--max-queue", "0"
    ) as server:
        log_progress("warm-up")
        run_clients(server.url, CONCURRENCY_LIMIT, 1)
        log_progress(f"{CONCURRENCY_LIMIT} clients only")
        samples = [psutil.cpu_times()]
        before = run_clients(server.url, CONCURRENCY_LIMIT, ROUNDS)
        samples.append(psutil.cpu_times())
        log_progress(f"{CLIENTS} clients")
        stop, liveness = threading.Event(), list[float]()
        watch = threading.Thread(target=poll_liveness, args=(server.url, stop, liveness))
        watch.start()
        overloaded = run_clients(server.url, CLIENTS, 1)
        stop.set()
        watch.join()
        samples.append(psutil.cpu_times())
        log_progress(f"{CONCURRENCY_LIMIT} clients only, again")
        after = run_clients(server.url, CONCURRENCY_LIMIT, ROUNDS)
        samples.append(psutil.cpu_times())
    accurate = [
        retry_after
        for retry_after, actual in overloaded.waits
        if actual / TOLERANCE_FACTOR <= retry_after <= actual * TOLERANCE_FACTOR + 1
    ]
    promised, waited = zip(*overloaded.waits, strict=True)
    statuses = ", ".join(f"{count} x {status}" for status, count in sorted(overloaded.statuses.items()))
    rows = {
        "clients, concurrency limit": f"{CLIENTS}, {CONCURRENCY_LIMIT}",
        "responses": statuses,
        "first `Retry-After` within a factor of two of the actual wait": f"{len(accurate)} of {len(overloaded.waits)}",
        "first `Retry-After` and actual wait, median": f"{statistics.median(promised):.0f} s, "
        f"{statistics.median(waited):.1f} s",
        "first `Retry-After` and actual wait, maximum": f"{max(promised)} s, {max(waited):.1f} s",
        f"latency of a response of {TOKENS} tokens, p50 and p95, s": latency_percentiles(overloaded),
        f"the same with {CONCURRENCY_LIMIT} clients only, before": latency_percentiles(before),
        f"the same with {CONCURRENCY_LIMIT} clients only, after": latency_percentiles(after),
        "CPU time stolen by the hypervisor: before, during and after the overload": ", ".join(
            f"{fraction:.0%}" for fraction in steal_fractions(samples)
        ),
        "latency of `/livez` during the overload, p50 and p99": f"{statistics.median(liveness) * 1000:.1f} ms, "
        f"{statistics.quantiles(liveness, n=100)[98] * 1000:.1f} ms",
    }
    write_section("overload", f"{description}\n\n{measurements_table(rows)}")
    print(measurements_table(rows))
    if set(overloaded.statuses) - {200, 429} or set(before.statuses + after.statuses) != {200}:
        sys.exit("scripts/bench overload: some responses were neither 200 nor 429, see above")


if __name__ == "__main__":
    main()
