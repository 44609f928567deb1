"""Parameters of one request, as the engine takes them: independent of any API's schema."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    import torch


class Grammar(Protocol):
    """The grammar that an output has to match, and the state of the match."""

    def fork(self) -> "Grammar":
        """Return a copy in the initial state, for one sequence."""

    def mask_logits(self, logits: "torch.Tensor") -> "torch.Tensor":
        """Set the logits of tokens that do not match to -inf, shape (1, vocab size); raises InvalidLogitsError."""

    def accept(self, token_id: int) -> None:
        """Advance the match by `token_id`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BeamSearchParams:
    """Parameters of beam search, with the names and meanings of transformers' GenerationConfig.

    Attributes:
        num_beams: beams in all groups together, 2 or more.
        num_beam_groups: groups of diverse beam search; divides num_beams.
        diversity_penalty: subtracted from a token's log probability for each beam of an earlier group that chose the
            token at the same step.
        length_penalty: exponent of the length that divides a beam's score.
        early_stopping: when a search stops; see `app.engine.beam_search.diverse`.
    """

    num_beams: int
    num_beam_groups: int = 1
    diversity_penalty: float = 0.0
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How the engine chooses the tokens of a request's sequences.

    Names and meanings are vLLM's, and transformers' (GenerationConfig) if vLLM has none. The defaults switch a
    parameter off.

    Attributes:
        n: sequences to generate.
        max_tokens: maximum new tokens of a sequence.
        min_tokens: minimum new tokens of a sequence; EOS tokens are masked until then.
        eos_token_ids: tokens that end a sequence; may be empty.
        pad_token_id: fills finished beams during beam search.
        temperature: divides the logits; 0 is greedy.
        top_k: number of most likely tokens to sample from; 0 is all.
        logprobs: number of most likely tokens to return with each token; None returns no logprobs.
        logprobs_mode: distribution of the logprobs: the model's own, or the one that the token was sampled from.
        seed: seed of the request's random numbers; None draws a fresh one.
        logit_bias: added to the logits, by token id.
        presence_penalty: subtracted from the logit of each token that the output contains.
        frequency_penalty: subtracted from the logit of a token for each time that the output contains it.
        beam_search: None samples.
        grammar: that the output has to match; None allows any output.
    """

    n: int = 1
    max_tokens: int
    min_tokens: int = 0
    eos_token_ids: tuple[int, ...] = ()
    pad_token_id: int = 0

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    typical_p: float = 1.0
    min_p: float | None = None
    epsilon_cutoff: float | None = None
    eta_cutoff: float | None = None
    seed: int | None = None

    logit_bias: Mapping[int, float] = field(default_factory=dict)
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    encoder_repetition_penalty: float | None = None
    no_repeat_ngram_size: int = 0
    encoder_no_repeat_ngram_size: int = 0
    bad_words_ids: Sequence[Sequence[int]] | None = None
    suppress_tokens: Sequence[int] | None = None
    begin_suppress_tokens: Sequence[int] | None = None
    forced_bos_token_id: int | None = None
    forced_eos_token_id: int | Sequence[int] | None = None
    remove_invalid_values: bool = False

    logprobs: int | None = None
    logprobs_mode: Literal["raw", "processed"] = "raw"
    beam_search: BeamSearchParams | None = None
    grammar: Grammar | None = None

    @property
    def greedy(self) -> bool:
        """Whether each step takes the most likely token."""
        return self.temperature == 0

    @property
    def num_rows(self) -> int:
        """Sequences that one step computes for the request: beams, or returned sequences."""
        return max(self.n, self.beam_search.num_beams if self.beam_search else 1)
