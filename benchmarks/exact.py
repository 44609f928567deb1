"""Count the requests whose output is identical alone and in a batch, and write the counts to docs/benchmarks.md.

In float32 the reference is one-row `generate` of transformers. In bfloat16 `generate` itself rounds differently for
different numbers of rows, so the reference is this engine's output for the request alone, with an empty cache.
"""

import argparse
import random
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from transformers import GenerationConfig, Phi3ForCausalLM

from app.engine.config import Dtype, EngineConfig
from app.engine.request import GenerationRequest
from app.engine.sampling_params import SamplingParams
from app.engine.startup.build import EngineComponents, build_engine
from app.engine.startup.load import load_model
from app.engine.stream import RequestStream, Token
from benchmarks.machine import MODEL, describe_run
from benchmarks.page import write_section
from benchmarks.progress import log_progress

# Random lengths and times are no secrets.
# ruff: noqa: S311
CONCURRENCY = 32
CANCELLED = 8
BATCH = 16


@dataclass(frozen=True, slots=True)
class Case:
    """A request: its prompt, the length of its output and its seed, or None for greedy decoding."""

    prompt: tuple[int, ...]
    new_tokens: int
    seed: int | None = None

    def request(self) -> GenerationRequest:
        """Build the engine's request; nothing ends the output early."""
        params = (
            SamplingParams(max_tokens=self.new_tokens, temperature=0)
            if self.seed is None
            else SamplingParams(max_tokens=self.new_tokens, seed=self.seed, top_k=40, temperature=0.9)
        )
        return GenerationRequest("", self.prompt, params)


def log_uniform(generator: random.Random, low: int, high: int) -> int:
    """Return a length between two bounds, distributed uniformly on a logarithmic scale."""
    return round(float(low * (high / low) ** generator.random()))


def load_engine(dtype: Dtype, concurrency: int) -> EngineComponents:
    """Load the demo model into an engine."""
    config = EngineConfig(model=MODEL, dtype=dtype, max_concurrency=concurrency, max_queue=1024, max_context=2500)
    return build_engine(load_model(config), config)


def collect_token_ids(stream: RequestStream) -> list[int]:
    """Return all token IDs of a request."""
    return [event.token_id for event in stream.events() if isinstance(event, Token)]


def run_batch(
    components: EngineComponents, cases: Sequence[Case], cancel_after: dict[int, float] | None = None
) -> list[list[int]]:
    """Return the outputs of concurrent requests; `cancel_after` cancels some after a number of seconds."""
    streams = [components.engine.submit(case.request()) for case in cases]
    timers = [threading.Timer(after, streams[number].cancel) for number, after in (cancel_after or {}).items()]
    for timer in timers:
        timer.start()
    outputs = [collect_token_ids(stream) for stream in streams]
    for timer in timers:
        timer.cancel()
    return outputs


def run_alone(components: EngineComponents, case: Case) -> list[int]:
    """Return the output of a request that runs alone with an empty cache."""
    slots = components.cache.reserve(components.cache.num_slots)
    if slots is None:
        raise RuntimeError("the cache is in use")
    components.cache.release(slots)
    return collect_token_ids(components.engine.submit(case.request()))


def compare_with_generate(requests: int, runs: int) -> dict[str, str]:
    """Compare batches with `generate` in float32."""
    generator = random.Random(1)
    cases = [
        Case(
            tuple(generator.choices(range(3, 49_000), k=log_uniform(generator, 4, 200))), log_uniform(generator, 4, 800)
        )
        for _ in range(requests)
    ]
    library = Phi3ForCausalLM.from_pretrained(MODEL, dtype=torch.float32, attn_implementation="sdpa").eval()
    expected = []
    for number, each in enumerate(cases):
        row = torch.tensor([each.prompt])
        config = GenerationConfig(max_new_tokens=each.new_tokens, do_sample=False, eos_token_id=[-1], pad_token_id=0)
        with torch.inference_mode():
            ids = library.generate(row, attention_mask=torch.ones_like(row), generation_config=config)
        expected.append(ids[0, len(each.prompt) :].tolist())
        log_progress(f"generate: {number + 1} of {requests}")
    del library
    components = load_engine("float32", CONCURRENCY)
    table = {}
    for cancelling in (False, True):
        identical = total = 0
        for run in range(runs):
            started = time.monotonic()
            cancelled = generator.sample(range(requests), CANCELLED) if cancelling else []
            outputs = run_batch(components, cases, {number: generator.uniform(0, 30) for number in cancelled})
            for number, (got, want) in enumerate(zip(outputs, expected, strict=True)):
                total += 1
                identical += got == (want[: len(got)] if number in cancelled else want)
            log_progress(
                f"run {run + 1} of {runs}: {identical} of {total} identical, {time.monotonic() - started:.0f} s"
            )
        name = f"float32, {requests} greedy requests of 4 to 800 tokens, {min(CONCURRENCY, requests)} concurrent"
        name += f", {CANCELLED} of them cancelled at random" if cancelling else ""
        table[f"{name}; compared with one-row `generate`"] = f"{identical} of {total}"
    return table


def compare_with_alone(requests: int) -> dict[str, str]:
    """Compare batches with requests that run alone in bfloat16."""
    generator = random.Random(2)
    prefixes = [tuple(generator.choices(range(3, 49_000), k=1_000)) for _ in range(4)]
    table = {}
    components = load_engine("bfloat16", BATCH)
    for kind in ("greedy", "seeded"):
        cases = []
        for number in range(requests):
            length = log_uniform(generator, 5, 1_500)
            # Every other prompt shares a prefix with others.
            shared = generator.choice(prefixes)[: length * 3 // 4] if number % 2 else ()
            rest = tuple(generator.choices(range(3, 49_000), k=length - len(shared)))
            cases.append(Case(shared + rest, 16, number if kind == "seeded" else None))
        expected = []
        for number, each in enumerate(cases):
            expected.append(run_alone(components, each))
            if number % 20 == 19:
                log_progress(f"{kind}, alone: {number + 1} of {requests}")
        outputs = run_batch(components, cases)
        identical = sum(one == other for one, other in zip(outputs, expected, strict=True))
        log_progress(f"{kind}, in a batch: {identical} of {requests} identical")
        name = (
            f"bfloat16, {kind}, prompts of 5 to 1,500 tokens, half of them with shared prefixes, in batches of {BATCH}"
        )
        table[f"{name}; compared with each request alone"] = f"{identical} of {requests}"
    return table


def main() -> None:
    """Compare, write the counts, and exit with an error if some outputs differ."""
    parser = argparse.ArgumentParser("scripts/bench exact", description=__doc__)
    parser.add_argument("--requests", type=int, default=64, help="requests compared with generate (default 64)")
    parser.add_argument(
        "--runs", type=int, default=10, help="runs of these, each with and without cancelling (default 10)"
    )
    parser.add_argument(
        "--bfloat16-requests", type=int, default=200, help="greedy requests, and as many seeded ones (default 200)"
    )
    flags = parser.parse_args()
    description = describe_run("exact")
    parts: list[Callable[[], dict[str, str]]] = [
        lambda: compare_with_alone(flags.bfloat16_requests),
        lambda: compare_with_generate(flags.requests, flags.runs),
    ]
    rows = {name: count for part in parts for name, count in part().items()}
    table = "\n".join(
        ["| requests | identical outputs |", "|---|---|", *(f"| {name} | {count} |" for name, count in rows.items())]
    )
    write_section("exact", f"{description}\n\n{table}")
    if any(len(set(count.split(" of "))) > 1 for count in rows.values()):
        sys.exit("scripts/bench exact: some outputs differ")


if __name__ == "__main__":
    main()
