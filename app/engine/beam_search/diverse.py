"""Diverse beam search: groups of beams that are made to differ.

Vijayakumar et al., "Diverse Beam Search: Decoding Diverse Solutions from Neural Sequence Models", 2016,
https://arxiv.org/abs/1610.02424, with the Hamming diversity of its section 4. What the paper leaves open (length
penalty, several end tokens, when to stop) is as in transformers 4.41.2, the last line of releases that KAITO's server
ran on; transformers 5 has no group beam search.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch

from app.engine.request import TokenScores
from app.engine.sampling.logprobs import token_scores


@dataclass(frozen=True, slots=True)
class GroupBeamSettings:
    """How to search.

    Attributes:
        num_beams: beams in all groups together.
        num_groups: divides num_beams.
        diversity_penalty: taken from a token's score for each beam of an earlier group that chose it at this step.
        num_return: answers wanted, at most num_beams.
        length_penalty: exponent of the length by which a score is divided.
        early_stopping: when a group stops, see `_Group.stop`.
        eos_token_ids: tokens that end a sequence.
        pad_token_id: what a group that is done counts as having chosen, as in transformers.
        max_length: tokens of prompt and answer together.
        scored: whether to record `TokenScores`.
    """

    num_beams: int
    num_groups: int
    diversity_penalty: float
    num_return: int
    length_penalty: float
    early_stopping: bool | Literal["never"]
    eos_token_ids: tuple[int, ...]
    pad_token_id: int
    max_length: int
    scored: bool


@dataclass(frozen=True, slots=True)
class Beam:
    """A continuation of the prompt: its tokens, their scores where recorded, and the sum of the step scores."""

    ids: tuple[int, ...] = ()
    scores: tuple[TokenScores, ...] = ()
    total: float = 0.0

    def value(self, length_penalty: float) -> float:
        """The score by which finished beams are compared."""
        return self.total / float(len(self.ids) ** length_penalty)


@dataclass(slots=True)
class _Group:
    settings: GroupBeamSettings
    size: int
    beams: list[Beam] = field(default_factory=lambda: [Beam()])
    finished: list[Beam] = field(default_factory=list)
    done: bool = False

    def finish(self, beam: Beam) -> None:
        """Keep `beam` if it is among the `size` best of this group."""
        self.finished.append(beam)
        self.finished.sort(key=lambda b: b.value(self.settings.length_penalty), reverse=True)
        del self.finished[self.size :]

    def stop(self, best_total: float, length: int, max_new_tokens: int) -> None:
        """Mark the group as done where its finished beams cannot, or are unlikely to, be improved.

        `early_stopping` True: as soon as there are enough of them. False: if the best running beam, ended now, would
        not beat the worst of them. "never": if it would not at the most favourable length either.
        """
        if len(self.finished) < self.size:
            return
        s = self.settings
        if s.early_stopping is True:
            self.done = True
            return
        favourable = max_new_tokens if s.early_stopping == "never" and s.length_penalty > 0 else length
        worst = self.finished[-1].value(s.length_penalty)
        self.done = worst >= best_total / favourable**s.length_penalty


def group_beam_search(
    prompt: torch.Tensor,
    logits: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    process: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    settings: GroupBeamSettings,
) -> list[Beam]:
    """Search for the best continuations of `prompt`, best first.

    Args:
        prompt: token ids, shape (1, prompt length).
        logits: from the rows' token ids, shape (num_beams, length), and for each row the row of the last step that it
            continues, shape (num_beams,), to the logits of the next token, shape (num_beams, vocabulary).
        process: the request's logits processors, from token ids (rows, length) and log probabilities
            (rows, vocabulary) to scores of the same shape.
        settings: how.
    """
    size = settings.num_beams // settings.num_groups
    groups = [_Group(settings, size) for _ in range(settings.num_groups)]
    ids = prompt.expand(settings.num_beams, -1)
    parents = torch.arange(settings.num_beams, device=prompt.device)
    max_new_tokens = settings.max_length - prompt.shape[1]
    for length in range(1, max_new_tokens + 1):
        log_probs = logits(ids, parents).log_softmax(-1)
        chosen = torch.zeros(log_probs.shape[-1], device=log_probs.device)
        next_parents: list[int] = []
        next_ids: list[int] = []
        for number, group in enumerate(groups):
            first = number * size
            rows = slice(first, first + size)
            if group.done:
                next_parents += range(first, first + size)
                next_ids += [settings.pad_token_id] * size
                chosen[settings.pad_token_id] += size
                continue
            diverse = log_probs[rows] - settings.diversity_penalty * chosen
            steps = process(ids[rows], diverse)
            parent_rows, tokens = _advance(group, steps, length, max_new_tokens)
            next_parents += [first + row for row in parent_rows]
            next_ids += tokens
            chosen += torch.bincount(torch.tensor(tokens, device=chosen.device), minlength=len(chosen))
        if all(group.done for group in groups):
            break
        parents = torch.tensor(next_parents, device=prompt.device)
        ids = torch.cat([ids[parents], torch.tensor(next_ids, device=prompt.device)[:, None]], dim=-1)
    for group in groups:
        if not group.done:
            for beam in group.beams:
                group.finish(beam)
    best = [beam for group in groups for beam in group.finished]
    best.sort(key=lambda beam: beam.value(settings.length_penalty), reverse=True)
    return best[: settings.num_return]


def _advance(group: _Group, steps: torch.Tensor, length: int, max_new_tokens: int) -> tuple[list[int], list[int]]:
    """Take one step in `group` from the scores of its rows' next tokens, shape (size, vocabulary).

    Returns, for each row after the step, the row of the group that it continues, and its new token.
    """
    settings = group.settings
    # At the first step all rows are the same; only the first one counts.
    running = torch.tensor([beam.total for beam in group.beams], device=steps.device, dtype=steps.dtype)
    totals = steps[: len(group.beams)] + running[:, None]
    wanted = max(2, 1 + len(settings.eos_token_ids)) * group.size
    top = totals.flatten().topk(min(wanted, totals.numel()))
    candidates = list(zip(top.values.tolist(), top.indices.tolist(), strict=True))
    beams: list[Beam] = []
    rows: list[int] = []
    for rank, (total, index) in enumerate(candidates):
        row, token = divmod(index, steps.shape[-1])
        if token in settings.eos_token_ids and rank >= group.size:
            continue
        parent = group.beams[row]
        scores = (*parent.scores, token_scores(steps[row], token)) if settings.scored else ()
        beam = Beam((*parent.ids, token), scores, total)
        if token in settings.eos_token_ids:
            group.finish(beam)
            continue
        beams.append(beam)
        rows.append(row)
        if len(beams) == group.size:
            break
    group.beams = beams
    group.stop(candidates[0][0], length, max_new_tokens)
    return rows, [beam.ids[-1] for beam in beams]
