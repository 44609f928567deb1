"""The reference lane: one request at a time through transformers' `generate`."""

import contextlib
import functools
import threading
from collections.abc import Callable
from typing import Any, cast

import torch
from transformers import (
    GenerationConfig,
    GenerationMixin,
    LogitsProcessorList,
    Phi3ForCausalLM,
    StoppingCriteriaList,
)
from transformers.generation.utils import GenerateBeamDecoderOnlyOutput

from app.engine.engine import CancelledError
from app.engine.group_beam import Beam, GroupBeamSettings, group_beam_search
from app.engine.request import Event, Finished, FinishReason, GenerationRequest, Token, TokenScores
from app.engine.scores import check_scores, token_scores

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
}
_SAMPLING = {"temperature", "top_k", "top_p", "typical_p", "min_p", "epsilon_cutoff", "eta_cutoff"}


class ReferenceLane:
    """Generates with `model.generate`, and with `group_beam_search` where there are groups."""

    def __init__(self, model: Phi3ForCausalLM) -> None:
        self._model = model
        # LongRoPE keeps the factors of the sequence at hand in the model, so two sequences cannot be at hand at once.
        longrope = (model.config.rope_parameters or {}).get("rope_type") == "longrope"
        self._alone = threading.Lock() if longrope else contextlib.nullcontext()

    def run(self, request: GenerationRequest, emit: Callable[[Event], None], cancelled: Callable[[], bool]) -> None:
        """Generate the answer to `request`; see `app.engine.engine.Lane`."""
        kwargs = request.kwargs
        searched = kwargs.num_beams > 1
        observer = _Observer(request, emit if not searched else None, cancelled)
        prompt = torch.tensor([request.prompt_ids], device=self._model.device)
        with self._alone:
            output = self._model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                generation_config=_generation_config(request),
                custom_generate=functools.partial(_decode, request=request, observer=observer),
            )
        if searched:
            for rank, beam in enumerate(_beams(output, request)):
                _emit_beam(rank, beam, request, emit)


class _Observer:
    """Sees every step: leaves a cancelled generation, refuses invalid scores, hands on tokens as they are chosen.

    It is the last logits processor and a stopping criterion, since `generate` asks both once a step.
    """

    def __init__(
        self, request: GenerationRequest, emit: Callable[[Event], None] | None, cancelled: Callable[[], bool]
    ) -> None:
        self._request = request
        self._emit = emit
        self._cancelled = cancelled
        self._scores: torch.Tensor | None = None
        self._finished: set[int] = set()

    def process(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """Check the final scores of a step, shape (rows, vocabulary), and keep them for `step`."""
        if self._cancelled():
            raise CancelledError
        self._scores = check_scores(scores)
        return scores

    def step(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:  # noqa: ARG002
        """Emit each unfinished row's newest token; never stops a row by itself."""
        if self._emit:
            newest = input_ids[:, -1].tolist()
            for row, token in enumerate(newest):
                if row in self._finished:
                    continue
                self._emit(Token(row, token, self._token_scores(row, token)))
                reason = _finish_reason(token, input_ids.shape[1], self._request)
                if reason:
                    self._finished.add(row)
                    self._emit(Finished(row, reason))
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)

    def _token_scores(self, row: int, token: int) -> TokenScores | None:
        if not self._request.kwargs.output_scores or self._scores is None:
            return None
        return token_scores(self._scores[row], token)


def _finish_reason(token: int, length: int, request: GenerationRequest) -> FinishReason | None:
    if token in request.eos_token_ids:
        return "stop"
    return "length" if length >= request.max_length else None


def _generation_config(request: GenerationRequest) -> GenerationConfig:
    kwargs = request.kwargs
    left_out = _OWN if kwargs.sampled else _OWN | _SAMPLING
    given = {name: value for name, value in kwargs if name not in left_out and value is not None}
    scored = kwargs.output_scores and kwargs.num_beams > 1
    return GenerationConfig(
        **given,
        do_sample=kwargs.sampled,
        max_length=request.max_length,
        min_length=request.min_length,
        # -1 and not None, which would mean the model's own list.
        eos_token_id=list(request.eos_token_ids) or [-1],
        pad_token_id=request.pad_token_id,
        return_dict_in_generate=kwargs.num_beams > 1,
        output_scores=scored,
    )


def _decode(
    model: Phi3ForCausalLM,
    input_ids: torch.Tensor,
    *,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    request: GenerationRequest,
    observer: _Observer,
    **model_kwargs: Any,
) -> Any:
    """Choose the decoding method, with `observer` as the last processor: `generate` would put it before sampling's."""
    processors = LogitsProcessorList([*logits_processor, observer.process])
    if request.kwargs.num_beam_groups > 1:
        return _group_beam_search(model, input_ids, processors, request, model_kwargs)
    method = GenerationMixin._beam_search if request.kwargs.num_beams > 1 else GenerationMixin._sample
    return method(
        model,
        input_ids,
        logits_processor=processors,
        stopping_criteria=StoppingCriteriaList([*stopping_criteria, observer.step]),
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
    length = len(request.prompt_ids) + len(beam.ids)
    emit(Finished(rank, _finish_reason(beam.ids[-1], length, request) or "length"))
