"""Measure the engine on a GPU and compare it with transformers' `generate`, without HTTP.

The weights are random bfloat16 numbers in the dimensions of the real models. A step must read the weights and the KV
cache, so these bytes divided by the memory bandwidth, which the same run measures, are a lower bound for its duration.
"""

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.profiler import ProfilerActivity, profile
from transformers import GenerationConfig, Phi3Config, Phi3ForCausalLM

from app.engine.config import GPU_CONCURRENCY
from app.engine.kv_cache.manager import kv_cache_for
from app.engine.loop import BatchWorker
from app.engine.request import GenerationRequest
from app.engine.sampling_params import SamplingParams
from app.engine.scheduler import Scheduler, SchedulerConfig
from app.engine.startup.batch_invariance import Probe
from app.engine.startup.build import choose_runner
from app.engine.startup.memory import MemoryRequest, plan_memory
from app.engine.stream import RequestStream
from benchmarks.machine import describe_run
from benchmarks.page import write_section
from benchmarks.progress import log_progress
from tools.harness.dimensions import SIZES

PROMPT = 128
CONTEXT = 4096
MAX_PREFILL_TOKENS = 256
POLL_SECONDS = 0.0005
PROFILED = 12


@dataclass(frozen=True)
class Result:
    """A measurement of one implementation.

    Attributes:
        model: the model whose dimensions the weights have.
        name: name of the implementation.
        clients: concurrent requests.
        speed: tokens per second of all clients, after the first token of each.
        step: seconds per step, which generates one token for each client.
        bytes: bytes that a step must read.
    """

    model: str
    name: str
    clients: int
    speed: float
    step: float
    bytes: float


def measure_bandwidth(device: torch.device, size: int = 2**31) -> float:
    """Return the memory bandwidth in bytes per second, reads plus writes: the best of ten copies of `size` bytes."""
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    best = float("inf")
    for _ in range(10):
        best = min(best, timed(lambda: target.copy_(source), device))
    return 2 * size / best


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Return the duration of work on the device in seconds."""
    synchronize(device)
    started = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - started


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished all work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def random_model(sizes: dict[str, int], device: torch.device) -> Phi3ForCausalLM:
    """Return a model with random bfloat16 weights."""
    config = Phi3Config(**sizes, max_position_embeddings=CONTEXT, original_max_position_embeddings=CONTEXT)
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with device:
            return Phi3ForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(before)


@dataclass(frozen=True)
class Workload:
    """The model to measure, and the bytes that each step must read.

    Attributes:
        name: name of the model whose dimensions the weights have.
        model: the model with random weights.
        weight_bytes: bytes of the weights that a step reads.
        token_bytes: bytes of the KV cache of one token.
    """

    name: str
    model: Phi3ForCausalLM
    weight_bytes: int
    token_bytes: int

    def step_bytes(self, clients: int, tokens: int) -> float:
        """Return the mean bytes that a step reads, for responses of `tokens` tokens."""
        return self.weight_bytes + clients * (PROMPT + tokens / 2) * self.token_bytes


def measure_generate(workload: Workload, tokens: int) -> Result:
    """Measure decoding with `generate` for one prompt."""
    model = workload.model
    row = torch.randint(model.config.vocab_size, (1, PROMPT), device=model.device)

    def generate(new: int) -> None:
        config = GenerationConfig(
            max_new_tokens=new, min_new_tokens=new, do_sample=False, eos_token_id=[0], pad_token_id=0
        )
        with torch.inference_mode():
            model.generate(row, attention_mask=torch.ones_like(row), generation_config=config)

    generate(2)
    seconds = timed(lambda: generate(tokens), model.device) - timed(lambda: generate(1), model.device)
    step = seconds / (tokens - 1)
    return Result(workload.name, "`generate`", 1, 1 / step, step, workload.step_bytes(1, tokens))


def measure_engine(worker: BatchWorker, workload: Workload, clients: int, tokens: int) -> Result:
    """Measure decoding with the engine for `clients` concurrent prompts."""
    generator = torch.Generator().manual_seed(clients)
    params = SamplingParams(max_tokens=tokens, temperature=0)
    streams = []
    for _ in range(clients):
        prompt = torch.randint(workload.model.config.vocab_size, (PROMPT,), generator=generator).tolist()
        request = GenerationRequest("", tuple(prompt), params)
        streams.append(RequestStream(request, "batch", on_close=lambda _: None))
    for stream in streams:
        worker.submit(stream)
    while any(not stream.num_tokens for stream in streams):
        time.sleep(POLL_SECONDS)
    started, done = time.perf_counter(), [stream.num_tokens for stream in streams]
    for stream in streams:
        for _ in stream.events():
            pass
    seconds = time.perf_counter() - started
    speed = (clients * tokens - sum(done)) / seconds
    step = seconds / (tokens - min(done))
    return Result(workload.name, "phi3", clients, speed, step, workload.step_bytes(clients, tokens))


def measure(name: str, model: Phi3ForCausalLM, clients: list[int], tokens: int) -> tuple[list[Result], bool, str]:
    """Return results of `generate` and of the engine, whether the engine is batch-invariant, and a profile."""
    vocab_size, concurrency = model.config.vocab_size, max(clients)
    plan = plan_memory(
        model,
        MemoryRequest(
            context=CONTEXT,
            context_required=False,
            max_concurrency=concurrency,
            max_prefill_tokens=MAX_PREFILL_TOKENS,
            max_beam_tokens=0,
            fraction=None,
        ),
    )
    cache = kv_cache_for(model, plan.num_slots)
    # A step reads only one row of the embeddings for each token.
    weights = sum(p.numel() * p.itemsize for p in model.parameters()) - model.model.embed_tokens.weight.nbytes
    workload = Workload(name, model, weights, plan.token_bytes)
    results = [measure_generate(workload, tokens)]
    log_progress(f"{name}: {results[0]}")
    runner = choose_runner(model, cache, concurrency, MAX_PREFILL_TOKENS)
    batch_invariant = Probe(cache, vocab_size).is_batch_invariant(runner, concurrency, MAX_PREFILL_TOKENS)
    worker = BatchWorker(Scheduler(model, cache, SchedulerConfig(concurrency, MAX_PREFILL_TOKENS)), runner)
    for number in clients:
        measure_engine(worker, workload, number, 4)
        results.append(measure_engine(worker, workload, number, tokens))
        log_progress(f"{name}: {results[-1]}")
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if model.device.type == "cuda" else [])
    with profile(activities=activities) as profiled:
        measure_engine(worker, workload, concurrency, 16)
    order = "self_cuda_time_total" if model.device.type == "cuda" else "self_cpu_time_total"
    table = profiled.key_averages().table(sort_by=order, row_limit=PROFILED, max_name_column_width=60)
    return results, batch_invariant, table


def results_table(results: list[Result], bandwidth: float) -> str:
    """Return the results in Markdown; `bandwidth` is in bytes per second."""
    lines = [
        "| dimensions | implementation | clients | tokens/s | ms per step | GB read per step | of memory bandwidth |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for one in results:
        fraction = one.bytes / bandwidth / one.step
        lines.append(
            f"| {one.model} | {one.name} | {one.clients} | {one.speed:,.1f} | {1000 * one.step:.2f} "
            f"| {one.bytes / 1e9:.2f} | {fraction:.0%} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure each model, and write the results."""
    parser = argparse.ArgumentParser("scripts/bench gpu", description=__doc__)
    parser.add_argument(
        "--models", nargs="+", choices=SIZES, default=list(SIZES), help="models whose dimensions to use"
    )
    parser.add_argument("--tokens", type=int, default=256, help="tokens of each response (default 256)")
    flags = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("scripts/bench gpu: no CUDA GPU is available on this machine")
    device = torch.device("cuda")
    description = describe_run("gpu")
    peak = measure_bandwidth(device)
    log_progress(f"{peak / 1e9:,.0f} GB/s")
    results, notes = [], []
    for name in flags.models:
        model = random_model(SIZES[name], device)
        found, batch_invariant, profiled = measure(name, model, [1, GPU_CONCURRENCY], flags.tokens)
        results += found
        notes.append(f"{name}: {'' if batch_invariant else 'not '}batch-invariant.")
        print(profiled)
        del model
        torch.cuda.empty_cache()
    text = (
        f"{torch.cuda.get_device_name(device)}, {peak / 1e9:,.0f} GB/s measured by copying. Prompts of "
        f"{PROMPT} tokens, responses of {flags.tokens} tokens, random weights in bfloat16."
    )
    write_section("gpu", f"{description}\n\n{text}\n\n{results_table(results, peak)}\n\n" + " ".join(notes))
    print(results_table(results, peak))


if __name__ == "__main__":
    main()
