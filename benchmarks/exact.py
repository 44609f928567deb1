"""Counts answers that are the same alone and in company, and writes the counts to docs/benchmarks.md.

In float32 they are compared with one-row `generate` of transformers; in bfloat16, where `generate` itself rounds
otherwise for other numbers of rows, with this engine's own answer to the request alone, on an empty cache.
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

from app.api.chat.schema import GenerateKwargs
from app.engine.request import GenerationRequest
from app.engine.startup.build import Built, build
from app.engine.startup.load import load
from app.engine.stream import RequestStream, Token
from app.settings import Dtype, Settings
from benchmarks.machine import MODEL, about
from benchmarks.page import put
from benchmarks.progress import say

# Lengths and moments, not secrets.
# ruff: noqa: S311
AT_ONCE = 32
LEAVING = 8
COMPANY = 15


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, and its number among all."""

    prompt: tuple[int, ...]
    new_tokens: int
    seed: int | None = None

    def request(self) -> GenerationRequest:
        """Build what the engine takes; nothing ends the answer early."""
        kwargs = (
            GenerateKwargs(do_sample=False)
            if self.seed is None
            else GenerateKwargs(seed=self.seed, top_k=40, temperature=0.9)
        )
        return GenerationRequest("", self.prompt, len(self.prompt) + self.new_tokens, 0, (), 0, kwargs)


def spread(chance: random.Random, least: int, most: int) -> int:
    """A length between two bounds, short ones as frequent as long ones on a scale of doublings."""
    return round(float(least * (most / least) ** chance.random()))


def engine(dtype: Dtype, concurrency: int) -> Built:
    """The engine, with the demo model."""
    settings = Settings(model=MODEL, dtype=dtype, max_concurrency=concurrency, max_queue=1024, max_context=2500)
    return build(load(MODEL, dtype, 2500), settings)


def answer(generation: RequestStream) -> list[int]:
    """Token ids of an answer, to its end."""
    return [event.token_id for event in generation.events() if isinstance(event, Token)]


def together(built: Built, asked: Sequence[Asked], leaving: dict[int, float] | None = None) -> list[list[int]]:
    """Answers to requests that come at once; those in `leaving` are cancelled after so many seconds."""
    generations = [built.engine.submit(each.request()) for each in asked]
    timers = [threading.Timer(after, generations[number].cancel) for number, after in (leaving or {}).items()]
    for timer in timers:
        timer.start()
    answers = [answer(generation) for generation in generations]
    for timer in timers:
        timer.cancel()
    return answers


def alone(built: Built, asked: Asked) -> list[int]:
    """The answer to a request by itself, with nothing in the cache."""
    whole = built.cache.reserve(built.cache.num_slots)
    if whole is None:
        raise RuntimeError("the cache is in use")
    built.cache.release(whole)
    return answer(built.engine.submit(asked.request()))


def against_generate(requests: int, runs: int) -> dict[str, str]:
    """Compare with `generate` in float32."""
    chance = random.Random(1)
    asked = [
        Asked(tuple(chance.choices(range(3, 49_000), k=spread(chance, 4, 200))), spread(chance, 4, 800))
        for _ in range(requests)
    ]
    library = Phi3ForCausalLM.from_pretrained(MODEL, dtype=torch.float32, attn_implementation="sdpa").eval()
    expected = []
    for number, each in enumerate(asked):
        row = torch.tensor([each.prompt])
        config = GenerationConfig(max_new_tokens=each.new_tokens, do_sample=False, eos_token_id=[-1], pad_token_id=0)
        with torch.inference_mode():
            ids = library.generate(row, attention_mask=torch.ones_like(row), generation_config=config)
        expected.append(ids[0, len(each.prompt) :].tolist())
        say(f"generate: {number + 1} of {requests}")
    del library
    built = engine("float32", AT_ONCE)
    table = {}
    for cancelling in (False, True):
        same = total = 0
        for run in range(runs):
            started = time.monotonic()
            left = chance.sample(range(requests), LEAVING) if cancelling else []
            answers = together(built, asked, {number: chance.uniform(0, 30) for number in left})
            for number, (got, want) in enumerate(zip(answers, expected, strict=True)):
                total += 1
                same += got == (want[: len(got)] if number in left else want)
            say(f"run {run + 1} of {runs}: {same} of {total} the same, {time.monotonic() - started:.0f} s")
        at_once = min(AT_ONCE, requests)
        name = f"float32, {requests} greedy requests of 4 to 800 tokens, {at_once} at a time, as one-row `generate`"
        table[name + (f", {LEAVING} of them cancelled at random" if cancelling else "")] = f"{same} of {total}"
    return table


def against_itself(requests: int) -> dict[str, str]:
    """Compare company with solitude in bfloat16."""
    chance = random.Random(2)
    beginnings = [tuple(chance.choices(range(3, 49_000), k=1_000)) for _ in range(4)]
    table = {}
    built = engine("bfloat16", COMPANY + 1)
    for kind in ("greedy", "seeded"):
        asked = []
        for number in range(requests):
            length = spread(chance, 5, 1_500)
            # Every other prompt begins as others do, for a part of its length.
            shared = chance.choice(beginnings)[: length * 3 // 4] if number % 2 else ()
            rest = tuple(chance.choices(range(3, 49_000), k=length - len(shared)))
            asked.append(Asked(shared + rest, 16, number if kind == "seeded" else None))
        expected = []
        for number, each in enumerate(asked):
            expected.append(alone(built, each))
            if number % 20 == 19:
                say(f"{kind}, alone: {number + 1} of {requests}")
        got = together(built, asked)
        same = sum(one == other for one, other in zip(got, expected, strict=True))
        say(f"{kind}, in company: {same} of {requests} the same")
        name = f"bfloat16, {kind}, prompts of 5 to 1,500 tokens, half of them with shared beginnings, alone and among"
        table[f"{name} {COMPANY} others"] = f"{same} of {requests}"
    return table


def main() -> None:
    """Count, and write the counts down."""
    parser = argparse.ArgumentParser("scripts/bench exact", description=__doc__)
    parser.add_argument("--requests", type=int, default=64, help="compared with generate (default 64)")
    parser.add_argument("--runs", type=int, default=10, help="of these, with and without cancelling (default 10)")
    parser.add_argument("--bfloat16-requests", type=int, default=200, help="greedy, and as many seeded (default 200)")
    flags = parser.parse_args()
    where = about("exact")
    parts: list[Callable[[], dict[str, str]]] = [
        lambda: against_itself(flags.bfloat16_requests),
        lambda: against_generate(flags.requests, flags.runs),
    ]
    rows = {name: count for part in parts for name, count in part().items()}
    table = "\n".join(
        ["| answers | the same |", "|---|---|", *(f"| {name} | {count} |" for name, count in rows.items())]
    )
    put("exact", f"{where}\n\n{table}")
    if any(len(set(count.split(" of "))) > 1 for count in rows.values()):
        sys.exit("scripts/bench exact: some answers differ")


if __name__ == "__main__":
    main()
