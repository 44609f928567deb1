"""Builds the logits processors of a request from transformers' own, so that parameters mean what they mean there."""

from typing import Any

from transformers import GenerationConfig, LogitsProcessorList, Phi3ForCausalLM

from app.compat.transformers import logits_processors
from app.engine.request import GenerationRequest
from app.engine.sampling_params import SamplingParams

# Fields of SamplingParams that transformers' processors of token history read.
HISTORY_FIELDS = (
    "repetition_penalty",
    "encoder_repetition_penalty",
    "encoder_no_repeat_ngram_size",
    "bad_words_ids",
    "suppress_tokens",
    "begin_suppress_tokens",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "remove_invalid_values",
)
# Fields that transformers' warpers read: they shape the distribution that a token is sampled from.
WARPER_FIELDS = ("temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")


def config_fields(params: SamplingParams, *names: str) -> dict[str, Any]:
    """Return the fields `names` of `params` that are set, as keyword arguments of GenerationConfig."""
    return {name: value for name in names if (value := getattr(params, name)) is not None}


def processors_of(
    model: Phi3ForCausalLM, request: GenerationRequest
) -> tuple[LogitsProcessorList, LogitsProcessorList]:
    """Return the processors of token history and the warpers of `request`; the latter are empty if it is greedy."""
    params = request.params

    def build(*names: str, sample: bool) -> LogitsProcessorList:
        config = GenerationConfig(**config_fields(params, *names), do_sample=sample, max_length=request.max_length)
        return logits_processors(model, config, request.prompt_token_ids, params.eos_token_ids)

    history = build(*HISTORY_FIELDS, sample=False)
    if params.greedy:
        return history, LogitsProcessorList()
    return history, LogitsProcessorList(build(*HISTORY_FIELDS, *WARPER_FIELDS, sample=True)[len(history) :])
