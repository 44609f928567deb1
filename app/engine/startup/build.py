"""Puts the engine together from a loaded model and the settings."""

from dataclasses import asdict, dataclass

from transformers import Phi3ForCausalLM

from app.engine.beam_search.search import BeamSearch
from app.engine.beam_search.worker import SerialLane
from app.engine.engine import Engine
from app.engine.kv_cache import KeyValueCache, cache_for
from app.engine.model_runner.cuda_graphs import FixedDecoder, supported
from app.engine.model_runner.eager import Decoder
from app.engine.model_runner.packed_linear import Division, division, pack
from app.engine.retry_after import Forecast, seconds_per_step
from app.engine.sampling.structured_output import Grammars
from app.engine.scheduler import PROMPT_TOKENS, BatchedLane, Decode
from app.engine.startup.batch_invariance import difference, invariant
from app.engine.startup.load import LoadedModel
from app.engine.startup.memory import GIB, Budget, budget
from app.logs import logger
from app.settings import CPU_CONCURRENCY, GPU_CONCURRENCY, Settings

log = logger(__name__)

# What may wait unless CHAT_MAX_QUEUE_TOKENS says otherwise: as many tokens as the cache holds, so many times.
QUEUED_CACHES = 4
# Rounding in bfloat16 keeps scores this near, relative to their norm; a wrong key or mask does not.
TOLERANCE = 0.1


@dataclass(frozen=True, slots=True)
class Built:
    """An engine that runs, and what is known of it.

    Attributes:
        engine: takes requests.
        cache: of the batched lane.
        budget: how the memory was divided.
        grammars: makes forms of answers.
        invariant: whether answers are the same to the last bit in any company.
    """

    engine: Engine
    cache: KeyValueCache
    budget: Budget
    grammars: Grammars
    invariant: bool


def build(loaded: LoadedModel, settings: Settings) -> Built:
    """Divide the memory, check the machine and start the lanes.

    Raises:
        LoadError: the context that was asked for does not fit.
    """
    model = loaded.model
    on_cpu = model.device.type == "cpu"
    concurrency = settings.max_concurrency or (CPU_CONCURRENCY if on_cpu else GPU_CONCURRENCY)
    divided = None
    if on_cpu:
        computed = pack(model)
        divided = division(model, computed, concurrency, PROMPT_TOKENS + concurrency)
        log.info("weights packed", computed=str(computed).removeprefix("torch."), division=divided and asdict(divided))
    memory = budget(
        model,
        loaded.context,
        asked_for=settings.max_context is not None,
        concurrency=concurrency,
        share=settings.memory_share,
        max_beam_tokens=settings.max_beam_tokens,
    )
    cache = cache_for(model, memory.tokens)
    decode = decoder(model, cache, concurrency, divided)
    same = invariant(decode, cache, loaded.vocabulary, concurrency)
    step = seconds_per_step(decode, cache, concurrency)
    log.info(
        "engine ready",
        concurrency=concurrency,
        cache_tokens=memory.tokens,
        cache_gib=round(memory.tokens * memory.token_bytes / GIB, 3),
        context=memory.context,
        full_contexts=round(memory.tokens / memory.context, 1),
        beam_tokens=memory.beam_tokens,
        free_gib=round(memory.free / GIB, 3),
        fixed_passes=isinstance(decode, FixedDecoder),
        seconds_per_step=round(step, 4),
        answers_depend_on_company=not (same or settings.deterministic),
        one_sequence_a_pass=settings.deterministic and not same,
    )
    lane = BatchedLane(model, decode, cache, concurrency, together=same or not settings.deterministic)
    engine = Engine(
        lane,
        SerialLane(BeamSearch(model)),
        concurrency=concurrency,
        max_queue=settings.max_queue,
        max_tokens=memory.tokens + (settings.max_queue_tokens or QUEUED_CACHES * memory.tokens),
        stall_seconds=settings.stall_seconds,
        forecast=Forecast(concurrency, memory.tokens, step),
    )
    grammars = Grammars(loaded.tokenizer.to_json(), loaded.vocabulary, loaded.eos_token_ids)
    return Built(engine, cache, memory, grammars, same or settings.deterministic)


def decoder(model: Phi3ForCausalLM, cache: KeyValueCache, concurrency: int, divided: Division | None = None) -> Decode:
    """The fastest forward pass that computes on this machine what the plain one does, which takes `divided`."""
    plain = Decoder(model, cache, divided)
    if not supported(model):
        return plain
    try:
        fixed = FixedDecoder(model, cache, concurrency)
        apart = difference(plain, fixed, cache, model.config.vocab_size)
    except RuntimeError:
        log.exception("this GPU cannot run passes of fixed shapes; answers will come slower")
        return plain
    if not apart < TOLERANCE:  # nan is too far as well
        log.error("passes of fixed shapes are wrong on this GPU; answers will come slower", difference=apart)
        return plain
    return fixed
