"""Builds the engine from a loaded model."""

from dataclasses import asdict, dataclass

from transformers import Phi3ForCausalLM

from app.engine.batch import ModelRunner
from app.engine.beam_search.search import BeamSearch
from app.engine.beam_search.worker import BeamSearchWorker
from app.engine.config import EngineConfig
from app.engine.engine import AdmissionLimits, Engine
from app.engine.kv_cache.manager import KVCacheManager, kv_cache_for
from app.engine.loop import BatchWorker
from app.engine.model_runner.cuda_graphs import CudaGraphRunner, supports_cuda_graphs
from app.engine.model_runner.eager import EagerRunner
from app.engine.model_runner.packed_linear import RowLimits, find_row_limits, pack
from app.engine.retry_after import Capacity, RetryAfterEstimator
from app.engine.sampling.structured_output import GrammarCompiler
from app.engine.scheduler import Scheduler, SchedulerConfig
from app.engine.startup.batch_invariance import Probe
from app.engine.startup.load import LoadedModel
from app.engine.startup.memory import GIB, MemoryPlan, MemoryRequest, plan_memory
from app.engine.startup.step_time import benchmark_step
from app.logs import logger

log = logger(__name__)

# Default of max_queue_tokens, in multiples of the KV cache.
QUEUE_CACHES = 4
# Relative error allowed between the eager and the CUDA graph runner: bfloat16 rounding stays below it, a wrong mask or
# key does not.
MAX_RELATIVE_ERROR = 0.1


@dataclass(frozen=True, slots=True)
class EngineComponents:
    """A running engine and its parts.

    Attributes:
        engine: takes requests.
        cache: of the batch worker.
        memory: how the memory is used.
        grammars: compiles grammars for structured output.
        batch_invariant: whether outputs have the same bits in every batch.
    """

    engine: Engine
    cache: KVCacheManager
    memory: MemoryPlan
    grammars: GrammarCompiler
    batch_invariant: bool


def build_engine(loaded: LoadedModel, config: EngineConfig) -> EngineComponents:
    """Plan the memory, check the machine and start the workers.

    Raises:
        LoadError: the context that `config` requires does not fit.
    """
    model = loaded.model
    max_concurrency = config.concurrency_on(model.device.type)
    row_limits = _pack(model, max_concurrency, config.max_prefill_tokens) if model.device.type == "cpu" else None
    memory = plan_memory(
        model,
        MemoryRequest(
            context=loaded.context,
            context_required=config.max_context is not None,
            max_concurrency=max_concurrency,
            max_prefill_tokens=config.max_prefill_tokens,
            max_beam_tokens=config.max_beam_tokens,
            fraction=config.memory_fraction,
        ),
    )
    cache = kv_cache_for(model, memory.num_slots)
    runner = choose_runner(model, cache, max_concurrency, config.max_prefill_tokens, row_limits)
    probe = Probe(cache, loaded.vocab_size)
    is_invariant = probe.is_batch_invariant(runner, max_concurrency, config.max_prefill_tokens)
    scheduler_config = SchedulerConfig(
        max_concurrency, config.max_prefill_tokens, one_sequence_per_pass=config.deterministic and not is_invariant
    )
    batch_invariant = is_invariant or config.deterministic
    step_seconds = benchmark_step(runner, cache, max_concurrency)
    log.info(
        "engine ready",
        concurrency=max_concurrency,
        kv_cache_tokens=memory.num_slots,
        kv_cache_gib=round(memory.num_slots * memory.token_bytes / GIB, 3),
        max_context=memory.context,
        max_context_fits=round(memory.num_slots / memory.context, 1),
        max_beam_tokens=memory.beam_tokens,
        free_gib=round(memory.free / GIB, 3),
        cuda_graphs=isinstance(runner, CudaGraphRunner),
        step_seconds=round(step_seconds, 4),
        batch_invariant=batch_invariant,
        one_sequence_per_pass=scheduler_config.one_sequence_per_pass,
    )
    capacity = Capacity(
        max_concurrency=max_concurrency,
        num_slots=memory.num_slots,
        max_prefill_tokens=config.max_prefill_tokens,
        step_seconds=step_seconds,
    )
    max_queue_tokens = config.max_queue_tokens or QUEUE_CACHES * memory.num_slots
    engine = Engine(
        BatchWorker(Scheduler(model, cache, scheduler_config), runner),
        BeamSearchWorker(BeamSearch(model)),
        AdmissionLimits(max_concurrency, config.max_queue, memory.num_slots + max_queue_tokens),
        config.stall_seconds,
        RetryAfterEstimator(capacity),
    )
    grammars = GrammarCompiler(loaded.tokenizer.to_json(), loaded.vocab_size, loaded.eos_token_ids)
    return EngineComponents(engine, cache, memory, grammars, batch_invariant)


def choose_runner(
    model: Phi3ForCausalLM,
    cache: KVCacheManager,
    max_concurrency: int,
    max_prefill_tokens: int,
    row_limits: RowLimits | None = None,
) -> ModelRunner:
    """Return the fastest model runner that computes the eager runner's logits on this machine.

    Args:
        model: loaded; packed on a CPU.
        cache: nothing else uses it.
        max_concurrency: sequences of a step.
        max_prefill_tokens: prompt tokens of a step.
        row_limits: for the eager runner.
    """
    eager = EagerRunner(model, cache.storage, row_limits)
    if not supports_cuda_graphs(model):
        return eager
    try:
        captured = CudaGraphRunner(model, cache.storage, max_concurrency, max_prefill_tokens)
        error = Probe(cache, model.config.vocab_size).relative_error(eager, captured)
    except RuntimeError:
        log.exception("this GPU cannot run CUDA graphs; the eager runner is slower")
        return eager
    if not error < MAX_RELATIVE_ERROR:  # also if it is nan
        log.error("CUDA graphs give wrong logits on this GPU; the eager runner is slower", relative_error=error)
        return eager
    return captured


def _pack(model: Phi3ForCausalLM, max_concurrency: int, max_prefill_tokens: int) -> RowLimits | None:
    compute_dtype = pack(model)
    limits = find_row_limits(model, compute_dtype, max_concurrency, max_prefill_tokens + max_concurrency)
    dtype = str(compute_dtype).removeprefix("torch.")
    log.info("weights packed", compute_dtype=dtype, row_limits=asdict(limits) if limits else None)
    return limits
