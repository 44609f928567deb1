"""Loads a server for minutes with all kinds of requests, and writes to docs/benchmarks.md what was left behind."""

import argparse
import random
import sys
import threading
import time
from collections import Counter
from typing import Any

import httpx
import psutil

from benchmarks.machine import MODEL, about
from benchmarks.page import put, table
from benchmarks.progress import say
from tools.harness.server import Server, running

# Choices of requests, not secrets.
# ruff: noqa: S311
CLIENTS = 20
FIRST_SECONDS = 60
STORY = "Once upon a time, in a small village, there lived a miller who had three sons. "


def body(chance: random.Random) -> tuple[dict[str, Any], int]:
    """A request, and the status that it should get."""
    tokens = chance.choice([1, 4, 16, 64, 200])
    prompt = STORY * chance.choice([1, 1, 1, 5, 20]) + str(chance.random())
    kind = chance.random()
    if kind < 0.05:
        return {"prompt": prompt, "generate_kwargs": {"top_p": 7}}, 400
    if kind < 0.10:
        return {"prompt": prompt, "generate_kwargs": {"repetition_penalty": 1e-39, "max_new_tokens": tokens}}, 400
    if kind < 0.15:
        return {"prompt": prompt, "generate_kwargs": {"do_sample": False, "num_beams": 3, "max_new_tokens": 8}}, 200
    if kind < 0.25:
        kwargs = {"num_return_sequences": 3, "max_new_tokens": tokens, "top_p": 0.9}
        return {"prompt": prompt, "generate_kwargs": kwargs}, 200
    if kind < 0.5:
        kwargs = {"do_sample": False, "max_new_tokens": tokens, "no_repeat_ngram_size": 3, "output_scores": True}
        return {"prompt": prompt, "generate_kwargs": kwargs}, 200
    return {"prompt": prompt, "generate_kwargs": {"max_new_tokens": tokens, "seed": chance.randrange(100)}}, 200


class Load:
    """Clients that ask until they are stopped; a tenth of their requests they leave unanswered."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._stop = threading.Event()
        self.outcomes: Counter[str] = Counter()
        self.unexpected: list[str] = []
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def _ask(self, number: int) -> None:
        chance = random.Random(number)
        with httpx.Client(base_url=self._url) as http:
            while not self._stop.is_set():
                request, expected = body(chance)
                patience = chance.uniform(0.05, 3) if chance.random() < 0.1 else 600
                try:
                    response = http.post("/chat", json=request, timeout=patience)
                except httpx.TimeoutException:
                    self.outcomes["left"] += 1
                    continue
                self.outcomes[str(response.status_code)] += 1
                if response.status_code != expected:
                    self.unexpected.append(f"{response.status_code} instead of {expected}: {response.text[:200]}")

    def stop(self) -> None:
        """Let every client finish."""
        self._stop.set()
        for thread in self._threads:
            thread.join()


def resident(server: Server) -> int:
    """Bytes of memory that the server's processes hold."""
    main = psutil.Process(server.process.pid)
    return sum(process.memory_info().rss for process in [main, *main.children(recursive=True)])


def main() -> None:
    """Load the server, and write down what was left."""
    parser = argparse.ArgumentParser("scripts/bench soak", description=__doc__)
    parser.add_argument("--seconds", type=int, default=600, help="how long (default 600)")
    where = about("soak")
    seconds = parser.parse_args().seconds
    with running(MODEL, "--max-context", "2048", "--max-queue", "64") as server:
        started = time.monotonic()
        load = Load(server.url)
        memory: list[tuple[float, int]] = []
        while (now := time.monotonic() - started) < seconds:
            memory.append((now, resident(server)))
            if len(memory) % 6 == 0:
                say(f"{now:.0f} of {seconds} s, {memory[-1][1] / 2**20:.0f} MiB, {dict(load.outcomes)}")
            time.sleep(5)
        load.stop()
        time.sleep(5)
        first = max(size for at, size in memory if at <= min(FIRST_SECONDS, seconds / 2))
        last = memory[-1][1]
        busy, used = server.metric("vllm:num_requests_running"), server.metric("vllm:kv_cache_usage_perc")
    outcomes = ", ".join(f"{count} x {outcome}" for outcome, count in sorted(load.outcomes.items()))
    rows = {
        "seconds, clients": f"{seconds}, {CLIENTS}",
        "answers": outcomes,
        "unexpected answers": str(len(load.unexpected)),
        "resident memory after the first minute": f"{first / 2**20:.0f} MiB",
        "resident memory at the end": f"{last / 2**20:.0f} MiB ({100 * (last / first - 1):+.1f} %)",
        "requests running afterwards": f"{busy:.0f}",
        "share of the cache in use afterwards": f"{used:g}",
    }
    put("soak", f"{where}\n\n{table(rows)}")
    for line in load.unexpected[:10]:
        say(line)
    if load.unexpected or busy or used:
        sys.exit("scripts/bench soak: something was left behind, see above")


if __name__ == "__main__":
    main()
