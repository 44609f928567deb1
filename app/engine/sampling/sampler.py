"""How each sequence of a step chooses its next token: its own settings, its own seed, whoever else is in the step."""

import hashlib
import secrets
import struct
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import GenerationConfig, LogitsProcessorList, Phi3ForCausalLM

from app.api.chat.schema import GenerateKwargs
from app.engine.request import GenerationRequest, InvalidScoresError, TokenScores
from app.engine.sampling.logprobs import check_scores, token_scores

# The settings of a draw; sequences that share them are computed together.
DRAW = ("temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")
HISTORY = (
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


@dataclass(frozen=True, slots=True)
class Choice:
    """A chosen token, with its scores where the request asked for them."""

    token: int
    scores: TokenScores | None


class Chooser:
    """Chooses the tokens of one sequence.

    Args:
        model: whose logits processors are used.
        request: the settings.
        number: of the sequence within the request.
        seed: of all draws for the request.
    """

    def __init__(self, model: Phi3ForCausalLM, request: GenerationRequest, number: int, seed: int) -> None:
        kwargs = request.kwargs
        self.ids = list(request.prompt_ids)
        self.scored = kwargs.output_scores
        self.logprobs = request.logprobs
        self._prompt_length = len(request.prompt_ids)
        self._number = number
        self._seed = seed
        plain = _processors(model, request, sampled=False)
        drawn = _processors(model, request, sampled=True)[len(plain) :] if kwargs.sampled else []
        self.warpers = LogitsProcessorList(drawn)
        self.draw = tuple(getattr(kwargs, name) for name in DRAW) if kwargs.sampled else None
        self._processors = plain
        # transformers' own looks for the ends among all tokens at each step.
        self._ends = torch.tensor(request.eos_token_ids, dtype=torch.long, device=model.device)
        self._min_length = request.min_length if request.eos_token_ids else 0
        self._ngrams = _Ngrams(kwargs.no_repeat_ngram_size, self.ids) if kwargs.no_repeat_ngram_size else None
        self._bias = torch.tensor(list(request.logit_bias.values()), device=model.device)
        self._biased = torch.tensor(list(request.logit_bias), dtype=torch.long, device=model.device)
        self._penalties = (request.presence_penalty, request.frequency_penalty)
        self._form = request.form.begin() if request.form else None
        self._counts: Counter[int] = Counter()  # of the answer's tokens, where a penalty needs them
        # Filled as the sequence grows, for processors that look back.
        self._history = torch.empty(0, dtype=torch.long)
        if plain:
            self._history = torch.zeros(request.max_length, dtype=torch.long, device=model.device)
            self._history[: self._prompt_length] = torch.tensor(self.ids)

    def process(self, scores: torch.Tensor) -> torch.Tensor:
        """Apply what is the sequence's own to scores of shape (1, vocabulary); raises InvalidScoresError."""
        if len(self._biased):
            scores = scores.index_add(1, self._biased, self._bias[None])
        if self._counts:
            presence, frequency = self._penalties
            tokens = torch.tensor(list(self._counts), device=scores.device)
            taken = presence + frequency * torch.tensor(list(self._counts.values()), device=scores.device)
            scores = scores.index_add(1, tokens, taken[None], alpha=-1)
        if len(self.ids) < self._min_length:
            scores = scores.index_fill(1, self._ends, -torch.inf)
        if self._ngrams:
            scores = self._ngrams.ban(scores)
        if self._processors:
            scores = self._processors(self._history[None, : len(self.ids)], scores)
        return self._form.exclude(scores) if self._form else scores

    def uniform(self) -> float:
        """The number in [0, 1) that decides the next draw."""
        return uniform(self._seed, self._number, len(self.ids) - self._prompt_length)

    def append(self, token: int) -> None:
        """Go on with `token`."""
        if len(self._history) > len(self.ids):
            self._history[len(self.ids)] = token
        self.ids.append(token)
        if any(self._penalties):
            self._counts[token] += 1
        if self._ngrams:
            self._ngrams.append(token)
        if self._form:
            self._form.append(token)


def choose(logits: torch.Tensor, choosers: Sequence[Chooser]) -> list[Choice | InvalidScoresError]:
    """Choose a token for each row of `logits`, shape (sequences, vocabulary), which may be changed."""
    groups: dict[tuple[float | None, ...] | None, list[int]] = defaultdict(list)
    choices: dict[int, Choice | InvalidScoresError] = {}
    told = {row: logits[row].clone() for row, chooser in enumerate(choosers) if chooser.logprobs is not None}
    for row, chooser in enumerate(choosers):
        given = logits[row : row + 1]
        try:
            processed = chooser.process(given)
        except InvalidScoresError as error:
            choices[row] = error
            continue
        if processed is not given:
            logits[row : row + 1] = processed
        groups[chooser.draw].append(row)
    for draw, rows in groups.items():
        scores = logits[rows] if len(rows) < len(logits) else logits
        scores = choosers[rows[0]].warpers(None, scores)
        if draw is None:
            tokens = scores.argmax(-1).tolist()
        else:
            tokens = draw_tokens(scores, [choosers[row].uniform() for row in rows])
        finite = torch.isfinite(scores.amax(-1)).tolist()
        for row, token, valid, own in zip(rows, tokens, finite, scores, strict=True):
            if not valid:
                choices[row] = _invalid(own)
            elif row in told:
                choices[row] = Choice(token, token_scores(told[row], token, choosers[row].logprobs or 0))
            else:
                choices[row] = Choice(token, token_scores(own, token) if choosers[row].scored else None)
    return [choices[row] for row in range(len(choosers))]


def draw_tokens(scores: torch.Tensor, uniforms: Sequence[float]) -> list[int]:
    """Draw a token from each row of scores, shape (rows, vocabulary), by its number in [0, 1).

    The token is the one in whose share of the whole the number falls (inverse transform sampling), in float64.
    """
    shares = scores.softmax(-1).double().cumsum(-1)
    wanted = torch.tensor(uniforms, dtype=torch.float64, device=scores.device)[:, None] * shares[:, -1:]
    tokens: list[int] = torch.searchsorted(shares, wanted, right=True).clamp(max=scores.shape[-1] - 1)[:, 0].tolist()
    return tokens


def uniform(seed: int, sequence: int, step: int) -> float:
    """A number in [0, 1), of 52 bits, that depends on its arguments alone."""
    digest = hashlib.blake2b(struct.pack("<QQQ", seed, sequence, step), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 12) / 2**52


def seed_of(kwargs: GenerateKwargs) -> int:
    """The seed that was asked for, or a fresh one."""
    return kwargs.seed if kwargs.seed is not None else secrets.randbits(63)


def _invalid(scores: torch.Tensor) -> InvalidScoresError:
    try:
        check_scores(scores[None])
    except InvalidScoresError as error:
        return error
    raise AssertionError("the scores are valid")


def _processors(model: Phi3ForCausalLM, request: GenerationRequest, *, sampled: bool) -> LogitsProcessorList:
    """The logits processors that transformers' `generate` would use, those of a draw last."""
    kwargs = request.kwargs
    names = HISTORY + DRAW if sampled else HISTORY
    config = GenerationConfig(
        **{name: getattr(kwargs, name) for name in names if getattr(kwargs, name) is not None},
        do_sample=sampled,
        max_length=request.max_length,
    )
    device = model.device
    ends = request.eos_token_ids
    config._eos_token_tensor = torch.tensor(ends, device=device) if ends else None
    prompt = torch.tensor([request.prompt_ids], device=device)
    processors: LogitsProcessorList = model._get_logits_processor(
        config, input_ids_seq_length=prompt.shape[1], encoder_input_ids=prompt, device=device
    )
    return processors


class _Ngrams:
    """Runs of `size` tokens that occurred, so that none occurs twice; transformers' own looks through all each step."""

    def __init__(self, size: int, ids: Sequence[int]) -> None:
        self._size = size
        self._followers: dict[tuple[int, ...], list[int]] = defaultdict(list)
        self._recent: list[int] = []
        for token in ids:
            self.append(token)

    def append(self, token: int) -> None:
        """Note the run that ends with `token`."""
        if len(self._recent) == self._size - 1:
            self._followers[tuple(self._recent)].append(token)
        if self._size > 1:
            self._recent = [*self._recent, token][1 - self._size :]

    def ban(self, scores: torch.Tensor) -> torch.Tensor:
        """Exclude tokens, from scores of shape (1, vocabulary), that would end a run a second time."""
        banned = self._followers.get(tuple(self._recent)) if len(self._recent) == self._size - 1 else None
        if banned:
            scores = scores.clone()
            scores[:, banned] = -torch.inf
        return scores
