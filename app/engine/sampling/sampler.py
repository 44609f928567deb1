"""Samples the next token of each sequence in a batch, by the sequence's own parameters and random numbers.

The parameters that transformers knows are applied by its own logits processors (generation/logits_process.py in
transformers 5.23). What a sequence gets does not depend on the rest of the batch.
"""

import hashlib
import secrets
import struct
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import Phi3ForCausalLM

from app.engine.exceptions import InvalidLogitsError
from app.engine.request import GenerationRequest
from app.engine.sampling.logprobs import invalid_logits_error, token_logprobs
from app.engine.sampling.ngrams import NgramBan
from app.engine.sampling.processors import WARPER_FIELDS, processors_of
from app.engine.sampling_params import SamplingParams
from app.engine.stream import TokenLogprobs


@dataclass(frozen=True, slots=True)
class SampledToken:
    """A sampled token, with its logprobs if the request asked for them."""

    token_id: int
    logprobs: TokenLogprobs | None


class Sampler:
    """Samples the tokens of one sequence, and holds the tokens so far.

    Args:
        model: its logits processors are used.
        request: the prompt and the parameters.
        index: of the sequence in the request.
        seed: of the request.
    """

    def __init__(self, model: Phi3ForCausalLM, request: GenerationRequest, index: int, seed: int) -> None:
        params = request.params
        self.params = params
        self.token_ids = list(request.prompt_token_ids)
        self._prompt_length = len(request.prompt_token_ids)
        self._index = index
        self._seed = seed
        self._processors, self.warpers = processors_of(model, request)
        # Sequences with equal values share one warper call.
        self.warper_key = None if params.greedy else tuple(getattr(params, name) for name in WARPER_FIELDS)
        # transformers' MinLengthLogitsProcessor compares the whole vocabulary with the EOS tokens at every step.
        self._eos = torch.tensor(params.eos_token_ids, dtype=torch.long, device=model.device)
        self._min_length = request.min_length if params.eos_token_ids else 0
        ngram_size = params.no_repeat_ngram_size
        self._ngrams = NgramBan(ngram_size, self.token_ids) if ngram_size else None
        self._bias = torch.tensor(list(params.logit_bias.values()), device=model.device)
        self._biased = torch.tensor(list(params.logit_bias), dtype=torch.long, device=model.device)
        self._grammar = params.grammar.fork() if params.grammar else None
        self._output_counts: Counter[int] = Counter()  # empty without presence or frequency penalty
        # The same tokens as a tensor, for processors that look back.
        self._history = torch.empty(0, dtype=torch.long)
        if self._processors:
            self._history = torch.zeros(request.max_length, dtype=torch.long, device=model.device)
            self._history[: self._prompt_length] = torch.tensor(self.token_ids)

    def process(self, logits: torch.Tensor) -> torch.Tensor:
        """Apply bias, penalties, bans and grammar to logits of shape (1, vocab size).

        Returns:
            `logits` itself if nothing applies, else a new tensor.

        Raises:
            InvalidLogitsError: no token is left.
        """
        if len(self._biased):
            logits = logits.index_add(1, self._biased, self._bias[None])
        if self._output_counts:
            tokens = torch.tensor(list(self._output_counts), device=logits.device)
            counts = torch.tensor(list(self._output_counts.values()), device=logits.device)
            penalties = self.params.presence_penalty + self.params.frequency_penalty * counts
            logits = logits.index_add(1, tokens, penalties[None], alpha=-1)
        if len(self.token_ids) < self._min_length:
            logits = logits.index_fill(1, self._eos, -torch.inf)
        if self._ngrams:
            logits = self._ngrams.mask_logits(logits)
        if self._processors:
            logits = self._processors(self._history[None, : len(self.token_ids)], logits)
        return self._grammar.mask_logits(logits) if self._grammar else logits

    def random_number(self) -> float:
        """Return the number in [0, 1) that samples the next token."""
        return random_number(self._seed, self._index, len(self.token_ids) - self._prompt_length)

    def append(self, token_id: int) -> None:
        """Extend the sequence by `token_id`."""
        if len(self._history) > len(self.token_ids):
            self._history[len(self.token_ids)] = token_id
        self.token_ids.append(token_id)
        if self.params.presence_penalty or self.params.frequency_penalty:
            self._output_counts[token_id] += 1
        if self._ngrams:
            self._ngrams.append(token_id)
        if self._grammar:
            self._grammar.accept(token_id)


def sample(logits: torch.Tensor, samplers: Sequence[Sampler]) -> list[SampledToken | InvalidLogitsError]:
    """Sample a token for each row of `logits`.

    Args:
        logits: the model's, shape (sequences, vocab size); they are overwritten.
        samplers: one for each row.

    Returns:
        for each row its token, or the error that ends its request.
    """
    raw = {
        row: logits[row].clone()
        for row, sampler in enumerate(samplers)
        if sampler.params.logprobs is not None and sampler.params.logprobs_mode == "raw"
    }
    results: dict[int, SampledToken | InvalidLogitsError] = {}
    groups: dict[tuple[float | None, ...] | None, list[int]] = defaultdict(list)
    for row, sampler in enumerate(samplers):
        given = logits[row : row + 1]
        try:
            processed = sampler.process(given)
        except InvalidLogitsError as error:
            results[row] = error
            continue
        if processed is not given:
            logits[row : row + 1] = processed
        groups[sampler.warper_key].append(row)
    for warper_key, rows in groups.items():
        warped = logits[rows] if len(rows) < len(logits) else logits
        warped = samplers[rows[0]].warpers(None, warped)
        if warper_key is None:
            token_ids = warped.argmax(-1).tolist()
        else:
            token_ids = sample_rows(warped, [samplers[row].random_number() for row in rows])
        finite = torch.isfinite(warped.amax(-1)).tolist()
        for row, token_id, valid, own in zip(rows, token_ids, finite, warped, strict=True):
            params = samplers[row].params
            distribution = raw.get(row, own)
            if not valid:
                results[row] = invalid_logits_error()
            elif params.logprobs is None:
                results[row] = SampledToken(token_id, None)
            else:
                results[row] = SampledToken(token_id, token_logprobs(distribution, token_id, params.logprobs))
    return [results[row] for row in range(len(samplers))]


def sample_rows(logits: torch.Tensor, random_numbers: Sequence[float]) -> list[int]:
    """Sample a token from each row by inverse transform sampling, in float64.

    Args:
        logits: shape (rows, vocab size).
        random_numbers: one in [0, 1) for each row.
    """
    cumulative = logits.softmax(-1).double().cumsum(-1)
    numbers = torch.tensor(random_numbers, dtype=torch.float64, device=logits.device)[:, None]
    # Scaled by the sum, which rounding keeps from being exactly 1.
    found = torch.searchsorted(cumulative, numbers * cumulative[:, -1:], right=True)
    token_ids: list[int] = found.clamp(max=logits.shape[-1] - 1)[:, 0].tolist()
    return token_ids


def random_number(seed: int, sequence: int, step: int) -> float:
    """Return a number in [0, 1), of 52 bits, that depends on nothing but the arguments."""
    digest = hashlib.blake2b(struct.pack("<QQQ", seed, sequence, step), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 12) / 2**52


def seed_of(params: SamplingParams) -> int:
    """Return the seed of a request, or a fresh one."""
    return params.seed if params.seed is not None else secrets.randbits(63)
