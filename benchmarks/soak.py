"""Load a server with mixed requests, and write its memory, errors and leaks to docs/benchmarks.md."""

import argparse
import random
import sys
import threading
import time
from collections import Counter
from typing import Any

import httpx
import psutil

from benchmarks.machine import MODEL, describe_run
from benchmarks.page import measurements_table, write_section
from benchmarks.progress import log_progress
from tools.harness.server import Server, running

# Random choices of requests are no secrets.
# ruff: noqa: S311
CLIENTS = 20
FIRST_SECONDS = 60
STORY = "Once upon a time, in a small village, there lived a miller who had three sons. "


def random_request(generator: random.Random) -> tuple[dict[str, Any], int]:
    """Return a random request body and the status that its response must have."""
    tokens = generator.choice([1, 4, 16, 64, 200])
    prompt = STORY * generator.choice([1, 1, 1, 5, 20]) + str(generator.random())
    kind = generator.random()
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
    return {"prompt": prompt, "generate_kwargs": {"max_new_tokens": tokens, "seed": generator.randrange(100)}}, 200


class Load:
    """Clients that send requests until they are stopped, and disconnect early from a tenth of them."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._stop = threading.Event()
        self.outcomes: Counter[str] = Counter()
        self.unexpected: list[str] = []
        self._threads = [threading.Thread(target=self._run_client, args=(number,)) for number in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def _run_client(self, number: int) -> None:
        generator = random.Random(number)
        with httpx.Client(base_url=self._url) as http:
            while not self._stop.is_set():
                request, expected = random_request(generator)
                read_timeout = generator.uniform(0.05, 3) if generator.random() < 0.1 else 600
                try:
                    response = http.post("/chat", json=request, timeout=read_timeout)
                except httpx.TimeoutException:
                    self.outcomes["disconnected"] += 1
                    continue
                self.outcomes[str(response.status_code)] += 1
                if response.status_code != expected:
                    self.unexpected.append(f"{response.status_code} instead of {expected}: {response.text[:200]}")

    def stop(self) -> None:
        """Wait until every client has finished its request."""
        self._stop.set()
        for thread in self._threads:
            thread.join()


def resident_bytes(server: Server) -> int:
    """Return the resident memory of the server's processes, in bytes."""
    main = psutil.Process(server.process.pid)
    return sum(process.memory_info().rss for process in [main, *main.children(recursive=True)])


def main() -> None:
    """Load the server, write the results, and exit with an error if anything was left behind."""
    parser = argparse.ArgumentParser("scripts/bench soak", description=__doc__)
    parser.add_argument("--seconds", type=int, default=600, help="duration of the load (default 600)")
    description = describe_run("soak")
    seconds = parser.parse_args().seconds
    with running(MODEL, "--max-context", "2048", "--max-queue", "64") as server:
        started = time.monotonic()
        load = Load(server.url)
        memory: list[tuple[float, int]] = []
        while (now := time.monotonic() - started) < seconds:
            memory.append((now, resident_bytes(server)))
            if len(memory) % 6 == 0:
                log_progress(f"{now:.0f} of {seconds} s, {memory[-1][1] / 2**20:.0f} MiB, {dict(load.outcomes)}")
            time.sleep(5)
        load.stop()
        time.sleep(5)
        first = max(size for at, size in memory if at <= min(FIRST_SECONDS, seconds / 2))
        last = memory[-1][1]
        busy, used = server.metric("vllm:num_requests_running"), server.metric("vllm:kv_cache_usage_perc")
    outcomes = ", ".join(f"{count} x {outcome}" for outcome, count in sorted(load.outcomes.items()))
    rows = {
        "seconds, clients": f"{seconds}, {CLIENTS}",
        "responses": outcomes,
        "unexpected responses": str(len(load.unexpected)),
        "resident memory after the first minute": f"{first / 2**20:.0f} MiB",
        "resident memory at the end": f"{last / 2**20:.0f} MiB ({100 * (last / first - 1):+.1f} %)",
        "running requests afterwards": f"{busy:.0f}",
        "fraction of the KV cache in use afterwards": f"{used:g}",
    }
    write_section("soak", f"{description}\n\n{measurements_table(rows)}")
    for line in load.unexpected[:10]:
        log_progress(line)
    if load.unexpected or busy or used:
        sys.exit("scripts/bench soak: unexpected responses, running requests or cache entries remain, see above")


if __name__ == "__main__":
    main()
