"""Beam search for one request at a time: transformers' own, and diverse beam search for several groups."""

import functools
from collections.abc import Callable
from typing import Any, cast

import torch
from transformers import GenerationConfig, LogitsProcessorList, Phi3ForCausalLM, StoppingCriteriaList
from transformers.generation.utils import GenerateBeamDecoderOnlyOutput

from app.compat.transformers import beam_search, update_model_kwargs
from app.engine.beam_search.diverse import Beam, beam_search_params, diverse_beam_search
from app.engine.exceptions import CancelledError
from app.engine.request import GenerationRequest
from app.engine.sampling.logprobs import check_logits, token_logprobs
from app.engine.sampling.processors import HISTORY_FIELDS, WARPER_FIELDS, config_fields
from app.engine.sampling.sampler import seed_of
from app.engine.stream import Event, Finished, Token


class BeamSearch:
    """Searches with `model.generate`, or with `diverse_beam_search` if there are several groups."""

    def __init__(self, model: Phi3ForCausalLM) -> None:
        self._model = model

    def __call__(
        self, request: GenerationRequest, emit: Callable[[Event], None], cancelled: Callable[[], bool]
    ) -> None:
        """Search for the sequences of `request` and emit them, best first; see `app.engine.beam_search.worker.Search`.

        Raises:
            CancelledError: before the step after `cancelled()` became true.
            InvalidLogitsError: the parameters leave no token to choose.
        """
        prompt = torch.tensor([request.prompt_token_ids], device=self._model.device)

        def check(_: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
            if cancelled():
                raise CancelledError
            return check_logits(logits)

        # Beams can be sampled, and nothing else uses torch's global generator.
        torch.manual_seed(seed_of(request.params))
        output = self._model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            generation_config=_generation_config(request),
            custom_generate=functools.partial(_search, request=request, check=check),
        )
        for rank, beam in enumerate(_beams(output, request)):
            _emit_beam(rank, beam, request, emit)


def _generation_config(request: GenerationRequest) -> GenerationConfig:
    params, search = request.params, beam_search_params(request)
    names = ("no_repeat_ngram_size", *HISTORY_FIELDS, *(() if params.greedy else WARPER_FIELDS))
    return GenerationConfig(
        **config_fields(params, *names),
        do_sample=not params.greedy,
        num_beams=search.num_beams,
        length_penalty=search.length_penalty,
        early_stopping=search.early_stopping,
        num_return_sequences=params.n,
        max_length=request.max_length,
        min_length=request.min_length,
        # -1 instead of None, which selects the model's own list.
        eos_token_id=list(params.eos_token_ids) or [-1],
        pad_token_id=params.pad_token_id,
        return_dict_in_generate=True,
        output_scores=params.logprobs is not None,
    )


def _search(
    model: Phi3ForCausalLM,
    input_ids: torch.Tensor,
    *,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    request: GenerationRequest,
    check: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    **model_kwargs: Any,
) -> Any:
    """Run the search inside `generate`, with `check` as the last processor: `generate` puts it before the warpers."""
    processors = LogitsProcessorList([*logits_processor, check])
    if beam_search_params(request).num_beam_groups > 1:
        return diverse_beam_search(input_ids[:1], _ModelLogits(model, model_kwargs), processors, request)
    return beam_search(
        model,
        input_ids,
        logits_processor=processors,
        stopping_criteria=stopping_criteria,
        generation_config=generation_config,
        **model_kwargs,
    )


class _ModelLogits:
    """Computes the logits of all beams with the model's own KV cache."""

    def __init__(self, model: Phi3ForCausalLM, model_kwargs: dict[str, Any]) -> None:
        self._model = model
        self._model_kwargs = model_kwargs
        self._first = True

    def __call__(self, token_ids: torch.Tensor, parents: torch.Tensor) -> torch.Tensor:
        """Return the logits of the next tokens; see `diverse_beam_search`."""
        if not self._first:
            self._model_kwargs["past_key_values"].reorder_cache(parents)
        inputs = self._model.prepare_inputs_for_generation(
            token_ids,
            next_sequence_length=None if self._first else 1,
            is_first_iteration=self._first,
            **self._model_kwargs,
        )
        outputs = self._model(**inputs, return_dict=True)
        self._model_kwargs = update_model_kwargs(self._model, outputs, self._model_kwargs)
        self._first = False
        return cast(torch.Tensor, outputs.logits[:, -1].float())


def _beams(output: GenerateBeamDecoderOnlyOutput | list[Beam], request: GenerationRequest) -> list[Beam]:
    """Convert the output of either search to beams, best first."""
    if isinstance(output, list):
        return output
    num_top = request.params.logprobs
    beams = []
    for sequence, indices in zip(output.sequences, output.beam_indices, strict=True):
        rows = [row for row in indices.tolist() if row >= 0]
        new = sequence[len(request.prompt_token_ids) :][: len(rows)].tolist()
        logprobs = (
            tuple(
                token_logprobs(step[row], token_id, num_top)
                for step, row, token_id in zip(output.scores, rows, new, strict=False)
            )
            if num_top is not None
            else ()
        )
        beams.append(Beam(tuple(new), logprobs))
    return beams


def _emit_beam(rank: int, beam: Beam, request: GenerationRequest, emit: Callable[[Event], None]) -> None:
    for step, token_id in enumerate(beam.token_ids):
        emit(Token(rank, token_id, beam.logprobs[step] if beam.logprobs else None))
    emit(Finished(rank, "stop" if beam.token_ids[-1] in request.params.eos_token_ids else "length"))
