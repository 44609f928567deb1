"""Sends a server far more clients than it takes, and writes to docs/benchmarks.md how each of them fared."""

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

from benchmarks.machine import MODEL, about
from benchmarks.page import put, table
from benchmarks.progress import say
from tools.harness.server import running

TAKEN = 16
CLIENTS = 200
TOKENS = 64
ROUNDS = 3
HEALTH_SECONDS = 0.05
WITHIN = 2.0


@dataclass
class Found:
    """What clients saw.

    Attributes:
        served: seconds that each answer took, from the request that was let in.
        waits: for each client that was refused: seconds that the first refusal spoke of, and that it was until a
            request of its was let in.
        statuses: how often each was answered.
    """

    served: list[float] = field(default_factory=list)
    waits: list[tuple[int, float]] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)


def client(http: httpx.Client, found: Found, answers: int) -> None:
    """Ask until so many answers came, as often as the server says to come back."""
    body = {"prompt": "Once upon a time", "generate_kwargs": {"max_new_tokens": TOKENS, "min_new_tokens": TOKENS}}
    for _ in range(answers):
        refused: tuple[int, float] | None = None
        while True:
            asked = time.monotonic()
            response = http.post("/chat", json=body)
            found.statuses[response.status_code] += 1
            if response.status_code != 429:
                break
            told = int(response.headers["Retry-After"])
            refused = refused or (told, time.monotonic())
            time.sleep(told)
        if response.status_code == 200:
            found.served.append(time.monotonic() - asked)
        if refused:
            found.waits.append((refused[0], asked - refused[1]))


def run(url: str, clients: int, answers: int) -> Found:
    """Let so many clients ask at once, for so many answers each."""
    found = Found()
    # One for all: to make one reads all certificates, which takes the server's cores for seconds.
    with httpx.Client(base_url=url, timeout=600, limits=httpx.Limits(max_connections=None)) as http:
        threads = [threading.Thread(target=client, args=(http, found, answers)) for _ in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return found


def health(url: str, stop: threading.Event, seconds: list[float]) -> None:
    """Ask whether the server lives, again and again."""
    with httpx.Client(base_url=url, timeout=60) as http:
        while not stop.wait(HEALTH_SECONDS):
            asked = time.perf_counter()
            http.get("/livez").raise_for_status()
            seconds.append(time.perf_counter() - asked)


def middle_and_most(found: Found) -> str:
    """The median and the 95th percentile of what answers took."""
    return f"{statistics.median(found.served):.2f}, {statistics.quantiles(found.served, n=100)[94]:.2f}"


def shares(times: list[Any]) -> list[float]:
    """How much of all cores' time was stolen by the host between one moment and the next."""
    spans = itertools.pairwise(times)
    return [(end.steal - begin.steal) / (sum(end[:8]) - sum(begin[:8])) for begin, end in spans]


def main() -> None:
    """Measure those that are let in with, and before and after without the others, and write it down."""
    argparse.ArgumentParser("scripts/bench overload", description=__doc__).parse_args()
    where = about("overload")
    with running(MODEL, "--max-context", "512", "--max-concurrency", str(TAKEN), "--max-queue", "0") as server:
        say("first answers")
        run(server.url, TAKEN, 1)
        say(f"{TAKEN} clients alone")
        taken = [psutil.cpu_times()]
        alone = run(server.url, TAKEN, ROUNDS)
        taken.append(psutil.cpu_times())
        say(f"{CLIENTS} clients")
        stop, lives = threading.Event(), list[float]()
        watch = threading.Thread(target=health, args=(server.url, stop, lives))
        watch.start()
        crowd = run(server.url, CLIENTS, 1)
        stop.set()
        watch.join()
        taken.append(psutil.cpu_times())
        say(f"{TAKEN} clients alone again")
        after = run(server.url, TAKEN, ROUNDS)
        taken.append(psutil.cpu_times())
    near = [told for told, true in crowd.waits if true / WITHIN <= told <= true * WITHIN + 1]
    statuses = ", ".join(f"{count} x {status}" for status, count in sorted(crowd.statuses.items()))
    rows = {
        "clients, of which the server takes": f"{CLIENTS}, {TAKEN}",
        "answers": statuses,
        "first `Retry-After` right within a factor of two": f"{len(near)} of {len(crowd.waits)}",
        "what it said, and how long it was: median": f"{statistics.median(told for told, _ in crowd.waits):.0f} s, "
        f"{statistics.median(true for _, true in crowd.waits):.1f} s",
        "what it said, and how long it was: at most": f"{max(told for told, _ in crowd.waits)} s, "
        f"{max(true for _, true in crowd.waits):.1f} s",
        f"seconds an answer of {TOKENS} tokens takes, p50 and p95": middle_and_most(crowd),
        f"the same with {TAKEN} clients alone, before": middle_and_most(alone),
        f"the same with {TAKEN} clients alone, after": middle_and_most(after),
        "share of the cores that other machines on the same host took: before, with all, after": ", ".join(
            f"{share:.0%}" for share in shares(taken)
        ),
        "`/livez` meanwhile, p50 and p99": f"{statistics.median(lives) * 1000:.1f} ms, "
        f"{statistics.quantiles(lives, n=100)[98] * 1000:.1f} ms",
    }
    put("overload", f"{where}\n\n{table(rows)}")
    print(table(rows))
    if set(crowd.statuses) - {200, 429} or set(alone.statuses + after.statuses) != {200}:
        sys.exit("scripts/bench overload: there were answers other than 200 and 429, see above")


if __name__ == "__main__":
    main()
