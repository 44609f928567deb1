"""Diverse beam search: groups of beams that are made to differ.

Vijayakumar et al., "Diverse Beam Search: Decoding Diverse Solutions from Neural Sequence Models", 2016,
https://arxiv.org/abs/1610.02424, with the Hamming diversity of its section 4. What the paper leaves open (length
penalty, several EOS tokens, when to stop) is as in transformers 4.41.2, the last line of releases that KAITO's server
ran on; transformers 5 has no diverse beam search.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from app.engine.request import GenerationRequest
from app.engine.sampling.logprobs import token_logprobs
from app.engine.sampling_params import BeamSearchParams, SamplingParams
from app.engine.stream import TokenLogprobs


@dataclass(frozen=True, slots=True)
class Beam:
    """A continuation of the prompt.

    Attributes:
        token_ids: its tokens.
        logprobs: one for each token; empty unless the request asks for logprobs.
        total: sum of the scores of its steps.
    """

    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] = ()
    total: float = 0.0

    def score(self, length_penalty: float) -> float:
        """Return the score that ranks finished beams."""
        return self.total / float(len(self.token_ids) ** length_penalty)


@dataclass(slots=True)
class _Group:
    params: SamplingParams
    search: BeamSearchParams
    size: int
    beams: list[Beam] = field(default_factory=lambda: [Beam()])
    finished: list[Beam] = field(default_factory=list)
    done: bool = False

    def finish(self, beam: Beam) -> None:
        """Keep `beam` if it is among the `size` best of this group."""
        self.finished.append(beam)
        self.finished.sort(key=lambda b: b.score(self.search.length_penalty), reverse=True)
        del self.finished[self.size :]

    def update_done(self, best_total: float, length: int) -> None:
        """Mark the group as done if its finished beams cannot, or are unlikely to, be improved.

        `early_stopping` True: as soon as `size` beams are finished. False: if the best running beam, ended now, does
        not beat the worst finished one. "never": if it does not at the most favorable length either.
        """
        if len(self.finished) < self.size:
            return
        if self.search.early_stopping is True:
            self.done = True
            return
        penalty = self.search.length_penalty
        favorable = self.params.max_tokens if self.search.early_stopping == "never" and penalty > 0 else length
        self.done = self.finished[-1].score(penalty) >= best_total / favorable**penalty


def beam_search_params(request: GenerationRequest) -> BeamSearchParams:
    """Return the parameters of the search that `request` asks for; raises ValueError if it asks for none."""
    if request.params.beam_search is None:
        raise ValueError("the request does not ask for beam search")
    return request.params.beam_search


def diverse_beam_search(
    prompt: torch.Tensor,
    logits: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    process: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    request: GenerationRequest,
) -> list[Beam]:
    """Search for the best continuations of `prompt`.

    Args:
        prompt: token ids, shape (1, prompt length).
        logits: maps the rows' token ids, shape (num_beams, length), and for each row its parent row in the last step,
            shape (num_beams,), to the logits of the next token, shape (num_beams, vocab size).
        process: the request's logits processors: maps token ids, shape (rows, length), and log probabilities, shape
            (rows, vocab size), to scores of the same shape.
        request: its `params.beam_search` is set.

    Returns:
        `params.n` beams, best first.
    """
    params, search = request.params, beam_search_params(request)
    size = search.num_beams // search.num_beam_groups
    groups = [_Group(params, search, size) for _ in range(search.num_beam_groups)]
    token_ids = prompt.expand(search.num_beams, -1)
    parents = torch.arange(search.num_beams, device=prompt.device)
    for length in range(1, params.max_tokens + 1):
        log_probs = logits(token_ids, parents).log_softmax(-1)
        chosen = torch.zeros(log_probs.shape[-1], device=log_probs.device)
        next_parents: list[int] = []
        next_ids: list[int] = []
        for index, group in enumerate(groups):
            first = index * size
            rows = slice(first, first + size)
            if group.done:
                # transformers counts the padding of a finished group as chosen.
                next_parents += range(first, first + size)
                next_ids += [params.pad_token_id] * size
                chosen[params.pad_token_id] += size
                continue
            scores = process(token_ids[rows], log_probs[rows] - search.diversity_penalty * chosen)
            parent_rows, tokens = _advance(group, scores, length)
            next_parents += [first + row for row in parent_rows]
            next_ids += tokens
            chosen += torch.bincount(torch.tensor(tokens, device=chosen.device), minlength=len(chosen))
        if all(group.done for group in groups):
            break
        parents = torch.tensor(next_parents, device=prompt.device)
        next_column = torch.tensor(next_ids, device=prompt.device)[:, None]
        token_ids = torch.cat([token_ids[parents], next_column], dim=-1)
    for group in groups:
        if not group.done:
            for beam in group.beams:
                group.finish(beam)
    best = [beam for group in groups for beam in group.finished]
    best.sort(key=lambda beam: beam.score(search.length_penalty), reverse=True)
    return best[: params.n]


def _advance(group: _Group, scores: torch.Tensor, length: int) -> tuple[list[int], list[int]]:
    """Advance `group` by one token.

    Args:
        group: its beams are replaced.
        scores: of the next tokens of its rows, shape (size, vocab size).
        length: new tokens so far, including this one.

    Returns:
        for each row after the step, its parent row in the group, and its new token.
    """
    params = group.params
    # All rows are equal at the first step, so only the first one counts.
    running = torch.tensor([beam.total for beam in group.beams], device=scores.device, dtype=scores.dtype)
    totals = scores[: len(group.beams)] + running[:, None]
    num_candidates = max(2, 1 + len(params.eos_token_ids)) * group.size
    top = totals.flatten().topk(min(num_candidates, totals.numel()))
    candidates = list(zip(top.values.tolist(), top.indices.tolist(), strict=True))
    beams: list[Beam] = []
    rows: list[int] = []
    for rank, (total, index) in enumerate(candidates):
        row, token_id = divmod(index, scores.shape[-1])
        if token_id in params.eos_token_ids and rank >= group.size:
            continue
        parent = group.beams[row]
        logprobs = parent.logprobs
        if params.logprobs is not None:
            logprobs = (*logprobs, token_logprobs(scores[row], token_id, params.logprobs))
        beam = Beam((*parent.token_ids, token_id), logprobs, total)
        if token_id in params.eos_token_ids:
            group.finish(beam)
            continue
        beams.append(beam)
        rows.append(row)
        if len(beams) == group.size:
            break
    group.beams = beams
    group.update_done(candidates[0][0], length)
    return rows, [beam.token_ids[-1] for beam in beams]
