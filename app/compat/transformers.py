"""Private APIs of transformers 5.23: the parts of `generate` that the engine calls one by one."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import GenerationConfig, GenerationMixin, LogitsProcessorList, Phi3ForCausalLM


def logits_processors(
    model: Phi3ForCausalLM, config: GenerationConfig, prompt_token_ids: Sequence[int], eos_token_ids: Sequence[int]
) -> LogitsProcessorList:
    """Return the processors that `generate` applies to a decoder's logits; those of sampling come last."""
    # `generate` sets this attribute in _prepare_special_tokens; forced_eos and others read it.
    config._eos_token_tensor = torch.tensor(eos_token_ids, device=model.device) if eos_token_ids else None
    prompt = torch.tensor([prompt_token_ids], device=model.device)
    processors: LogitsProcessorList = model._get_logits_processor(
        config, input_ids_seq_length=prompt.shape[1], encoder_input_ids=prompt, device=model.device
    )
    return processors


def beam_search(model: Phi3ForCausalLM, input_ids: torch.Tensor, **kwargs: Any) -> Any:
    """Run the beam search of `generate`, from inside a `custom_generate` function."""
    return GenerationMixin._beam_search(model, input_ids, **kwargs)


def update_model_kwargs(model: Phi3ForCausalLM, outputs: Any, model_kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the keyword arguments of the next forward pass, as `generate` does between steps."""
    updated: dict[str, Any] = model._update_model_kwargs_for_generation(outputs, model_kwargs)
    return updated
