"""What the engine generates for: a prompt and its parameters."""

from dataclasses import dataclass

from app.engine.sampling_params import SamplingParams


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One validated request. The output depends on nothing else.

    Attributes:
        id: for logs and metrics only.
        prompt_token_ids: the prompt, at least one token.
        params: how to generate.
    """

    id: str
    prompt_token_ids: tuple[int, ...]
    params: SamplingParams

    @property
    def max_length(self) -> int:
        """Maximum tokens of prompt and output together, for one sequence."""
        return len(self.prompt_token_ids) + self.params.max_tokens

    @property
    def min_length(self) -> int:
        """Minimum tokens of prompt and output together, for one sequence."""
        return len(self.prompt_token_ids) + self.params.min_tokens

    @property
    def num_tokens(self) -> int:
        """Maximum tokens of all sequences, each with the prompt."""
        return self.max_length * self.params.num_rows
