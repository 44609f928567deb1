"""Beam search, for one request at a time, through transformers' `generate`."""

import functools
from collections.abc import Callable
from typing import Any, cast

import torch
from transformers import GenerationConfig, GenerationMixin, LogitsProcessorList, Phi3ForCausalLM, StoppingCriteriaList
from transformers.generation.utils import GenerateBeamDecoderOnlyOutput

from app.engine.beam_search.diverse import Beam, GroupBeamSettings, group_beam_search
from app.engine.request import CancelledError, Event, Finished, GenerationRequest, Token
from app.engine.sampling.logprobs import check_scores, token_scores
from app.engine.sampling.sampler import seed_of

# Handled here rather than by GenerationConfig.
_OWN = {
    "max_length",
    "max_new_tokens",
    "min_length",
    "min_new_tokens",
    "eos_token_id",
    "pad_token_id",
    "output_scores",
    "return_dict_in_generate",
    "num_beam_groups",
    "diversity_penalty",
    "do_sample",
    "seed",
}
_SAMPLING = {"temperature", "top_k", "top_p", "typical_p", "min_p", "epsilon_cutoff", "eta_cutoff"}


class BeamSearch:
    """Searches with `model.generate`, and with `group_beam_search` where there are groups."""

    def __init__(self, model: Phi3ForCausalLM) -> None:
        self._model = model

    def __call__(
        self, request: GenerationRequest, emit: Callable[[Event], None], cancelled: Callable[[], bool]
    ) -> None:
        """Search for the answers to `request`; see `app.engine.beam_search.worker.Generate`.

        Raises:
            CancelledError: soon after `cancelled()` became true.
            InvalidScoresError: see there.
        """
        prompt = torch.tensor([request.prompt_ids], device=self._model.device)

        def check(_: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            if cancelled():
                raise CancelledError
            return check_scores(scores)

        # Beams may be drawn, and nobody else draws from torch's own generator.
        torch.manual_seed(seed_of(request.kwargs))
        output = self._model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            generation_config=_generation_config(request),
            custom_generate=functools.partial(_decode, request=request, check=check),
        )
        for rank, beam in enumerate(_beams(output, request)):
            _emit_beam(rank, beam, request, emit)


def _generation_config(request: GenerationRequest) -> GenerationConfig:
    kwargs = request.kwargs
    left_out = _OWN if kwargs.sampled else _OWN | _SAMPLING
    given = {name: value for name, value in kwargs if name not in left_out and value is not None}
    return GenerationConfig(
        **given,
        do_sample=kwargs.sampled,
        max_length=request.max_length,
        min_length=request.min_length,
        # -1 and not None, which would mean the model's own list.
        eos_token_id=list(request.eos_token_ids) or [-1],
        pad_token_id=request.pad_token_id,
        return_dict_in_generate=True,
        output_scores=kwargs.output_scores,
    )


def _decode(
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
    """Choose the search, with `check` as the last processor: `generate` would put it before sampling's."""
    processors = LogitsProcessorList([*logits_processor, check])
    if request.kwargs.num_beam_groups > 1:
        return _group_beam_search(model, input_ids, processors, request, model_kwargs)
    return GenerationMixin._beam_search(
        model,
        input_ids,
        logits_processor=processors,
        stopping_criteria=stopping_criteria,
        generation_config=generation_config,
        **model_kwargs,
    )


def _group_beam_search(
    model: Phi3ForCausalLM,
    input_ids: torch.Tensor,
    processors: LogitsProcessorList,
    request: GenerationRequest,
    model_kwargs: dict[str, Any],
) -> list[Beam]:
    kwargs = request.kwargs
    first = True

    def logits(ids: torch.Tensor, parents: torch.Tensor) -> torch.Tensor:
        nonlocal first, model_kwargs
        if not first:
            model_kwargs["past_key_values"].reorder_cache(parents)
        inputs = model.prepare_inputs_for_generation(
            ids, next_sequence_length=None if first else 1, is_first_iteration=first, **model_kwargs
        )
        outputs = model(**inputs, return_dict=True)
        model_kwargs = model._update_model_kwargs_for_generation(outputs, model_kwargs)
        first = False
        return cast(torch.Tensor, outputs.logits[:, -1].float())

    return group_beam_search(
        input_ids[:1],
        logits,
        processors,
        GroupBeamSettings(
            num_beams=kwargs.num_beams,
            num_groups=kwargs.num_beam_groups,
            diversity_penalty=kwargs.diversity_penalty,
            num_return=kwargs.num_return_sequences,
            length_penalty=kwargs.length_penalty,
            early_stopping=kwargs.early_stopping,
            eos_token_ids=request.eos_token_ids,
            pad_token_id=request.pad_token_id,
            max_length=request.max_length,
            scored=kwargs.output_scores,
        ),
    )


def _beams(output: GenerateBeamDecoderOnlyOutput | list[Beam], request: GenerationRequest) -> list[Beam]:
    """The answers of either beam search in one form, best first."""
    if isinstance(output, list):
        return output
    beams = []
    for ids, indices in zip(output.sequences, output.beam_indices, strict=True):
        rows = [row for row in indices.tolist() if row >= 0]
        new = ids[len(request.prompt_ids) :][: len(rows)].tolist()
        scores = (
            tuple(token_scores(step[row], token) for step, row, token in zip(output.scores, rows, new, strict=False))
            if request.kwargs.output_scores
            else ()
        )
        beams.append(Beam(tuple(new), scores))
    return beams


def _emit_beam(rank: int, beam: Beam, request: GenerationRequest, emit: Callable[[Event], None]) -> None:
    for number, token in enumerate(beam.ids):
        emit(Token(rank, token, beam.scores[number] if beam.scores else None))
    emit(Finished(rank, "stop" if beam.ids[-1] in request.eos_token_ids else "length"))
