"""Measures what an answer in the form of a JSON schema costs, and writes it to docs/benchmarks.md."""

import argparse
import concurrent.futures
import statistics
import time
from typing import Any

import httpx

from benchmarks.machine import MODEL, about
from benchmarks.page import put
from benchmarks.progress import say
from tools.harness.server import running

TOKENS = 128
CLIENTS = (1, 16)
# No answer is complete before it has all its tokens.
ENDS = {"0": -100, "2": -100}
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}, "email": {"type": "string"}},
    "required": ["name", "age", "email"],
    "additionalProperties": False,
}
FORMS: dict[str, dict[str, Any] | None] = {
    "free text": None,
    "a JSON object": {"type": "json_object"},
    "a list of people": {
        "type": "json_schema",
        "json_schema": {"name": "people", "schema": {"type": "array", "items": PERSON, "minItems": 100}},
    },
}


def ask(http: httpx.Client, form: dict[str, Any] | None) -> int:
    """Ask for one answer, and return how many tokens it has."""
    body: dict[str, Any] = {
        "model": "demo",
        "messages": [{"role": "user", "content": "Invent many people."}],
        "max_tokens": TOKENS,
        "temperature": 0,
        "logit_bias": ENDS,
    }
    response = http.post("/v1/chat/completions", json=body | ({"response_format": form} if form else {}))
    response.raise_for_status()
    tokens: int = response.json()["usage"]["completion_tokens"]
    return tokens


def rate(http: httpx.Client, clients: int, form: dict[str, Any] | None) -> float:
    """Tokens a second that so many clients get together."""
    started = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(clients) as pool:
        tokens = sum(pool.map(lambda _: ask(http, form), range(clients)))
    return tokens / (time.perf_counter() - started)


def main() -> None:
    """Measure each form, the forms taking turns, and write it down."""
    parser = argparse.ArgumentParser("scripts/bench schema", description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="of each, of which the median counts (default 5)")
    runs = parser.parse_args().runs
    where = about("schema", ("torch", "transformers", "llguidance"))
    lines = ["| answers | clients | tokens/s | ms more for each token |", "|---|--:|--:|--:|"]
    with running(MODEL, "--max-context", "512") as server:
        for clients in CLIENTS:
            found: dict[str, list[float]] = {name: [] for name in FORMS}
            for run in range(runs + 1):
                for name, form in FORMS.items():
                    figure = rate(server.http, clients, form)
                    say(f"{clients} clients, {name}: {figure:.1f} tokens/s")
                    if run:  # the first is to warm up
                        found[name].append(figure)
            free = statistics.median(found["free text"])
            for name, figures in found.items():
                middle = statistics.median(figures)
                lines.append(f"| {name} | {clients} | {middle:.1f} | {1000 / middle - 1000 / free:.2f} |")
    table = "\n".join(lines)
    put("schema", f"{where}\n\n{TOKENS} tokens an answer.\n\n{table}")
    print(table)


if __name__ == "__main__":
    main()
