"""Measure the cost of structured output, and write it to docs/benchmarks.md."""

import argparse
import concurrent.futures
import statistics
import time
from typing import Any

import httpx

from benchmarks.machine import MODEL, describe_run
from benchmarks.page import write_section
from benchmarks.progress import log_progress
from tools.harness.server import running

TOKENS = 128
CLIENTS = (1, 16)
# Suppresses the end tokens, so that each response has TOKENS tokens.
LOGIT_BIAS = {"0": -100, "2": -100}
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}, "email": {"type": "string"}},
    "required": ["name", "age", "email"],
    "additionalProperties": False,
}
RESPONSE_FORMATS: dict[str, dict[str, Any] | None] = {
    "free text": None,
    "JSON object": {"type": "json_object"},
    "JSON schema, list of people": {
        "type": "json_schema",
        "json_schema": {"name": "people", "schema": {"type": "array", "items": PERSON, "minItems": 100}},
    },
}


def complete(http: httpx.Client, response_format: dict[str, Any] | None) -> int:
    """Send one request, and return the number of tokens of its response."""
    body: dict[str, Any] = {
        "model": "demo",
        "messages": [{"role": "user", "content": "Invent many people."}],
        "max_tokens": TOKENS,
        "temperature": 0,
        "logit_bias": LOGIT_BIAS,
    }
    response = http.post(
        "/v1/chat/completions", json=body | ({"response_format": response_format} if response_format else {})
    )
    response.raise_for_status()
    tokens: int = response.json()["usage"]["completion_tokens"]
    return tokens


def throughput(http: httpx.Client, clients: int, response_format: dict[str, Any] | None) -> float:
    """Return the tokens per second of all clients together."""
    started = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(clients) as pool:
        tokens = sum(pool.map(lambda _: complete(http, response_format), range(clients)))
    return tokens / (time.perf_counter() - started)


def main() -> None:
    """Measure the formats in turns, and write the results."""
    parser = argparse.ArgumentParser("scripts/bench schema", description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="runs of each format; the median counts (default 5)")
    runs = parser.parse_args().runs
    description = describe_run("schema", ("torch", "transformers", "llguidance"))
    lines = ["| output | clients | tokens/s | added ms per token |", "|---|--:|--:|--:|"]
    with running(MODEL, "--max-context", "512") as server:
        for clients in CLIENTS:
            found: dict[str, list[float]] = {name: [] for name in RESPONSE_FORMATS}
            for run in range(runs + 1):
                for name, response_format in RESPONSE_FORMATS.items():
                    figure = throughput(server.http, clients, response_format)
                    log_progress(f"{clients} clients, {name}: {figure:.1f} tokens/s")
                    if run:  # the first run is a warm-up
                        found[name].append(figure)
            free = statistics.median(found["free text"])
            for name, figures in found.items():
                middle = statistics.median(figures)
                lines.append(f"| {name} | {clients} | {middle:.1f} | {1000 / middle - 1000 / free:.2f} |")
    table = "\n".join(lines)
    write_section("schema", f"{description} Each response has {TOKENS} tokens.\n\n{table}")
    print(table)


if __name__ == "__main__":
    main()
