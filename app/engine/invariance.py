"""Finds out what this machine computes: the same as another way, and the same in any company."""

import itertools

import torch

from app.engine.batched import PROMPT_TOKENS, Decode
from app.engine.cache import BLOCK, KeyValueCache
from app.engine.decoder import Span


def invariant(decode: Decode, cache: KeyValueCache, vocabulary: int, concurrency: int) -> bool:
    """Whether the scores for a probe have the same bits alone and in several companies.

    The matrix products are what can differ: their kernels are chosen by the number of rows.
    """
    probe = _probe(cache, vocabulary)
    others = min(concurrency - 1, cache.tokens // 4)
    crowd = min(PROMPT_TOKENS - BLOCK, cache.tokens // 4)
    companies = [(before, others - before, 0) for before in sorted({0, 1, 2, others // 2, others}) if before <= others]
    companies += [(1, 0, 0), (0, 2, 0)]
    companies += [(0, 0, crowd), (min(1, others), 0, crowd)] if crowd > 1 else []
    alone = _scores(decode, cache, vocabulary, probe, 0, 0)
    together = (_scores(decode, cache, vocabulary, probe, *company) for company in companies)
    return all(torch.equal(alone, scores) for scores in together)


def difference(decode: Decode, other: Decode, cache: KeyValueCache, vocabulary: int) -> float:
    """How far two ways to compute a probe are apart: the norm of the difference of scores over the norm of scores."""
    probe = _probe(cache, vocabulary)
    scores, others = (_scores(each, cache, vocabulary, probe, 0, 0) for each in (decode, other))
    return float((scores - others).norm() / scores.norm())


def _probe(cache: KeyValueCache, vocabulary: int) -> list[int]:
    """Tokens of more than one block, where there is room for them."""
    generator = torch.Generator().manual_seed(0)
    size = min(BLOCK + 5, cache.tokens // 2)
    probe: list[int] = torch.randint(vocabulary, (size + 1,), generator=generator).tolist()
    return probe


def _scores(
    decode: Decode, cache: KeyValueCache, vocabulary: int, probe: list[int], before: int, after: int, crowd: int = 0
) -> torch.Tensor:
    """Scores after each block of the prompt and after one more token of `probe`, each in a pass of its own.

    Args:
        decode: computes.
        cache: unused.
        vocabulary: number of token ids.
        probe: tokens.
        before: tokens of as many others that come first, where there is room.
        after: likewise last.
        crowd: tokens of one more prompt, which come first of all.
    """
    beside, own = cache.reserve(crowd), cache.reserve(len(probe))
    if own is None or beside is None:
        raise RuntimeError("the cache is in use")
    extents = [extent for _ in range(before + after) if (extent := cache.reserve(1))]
    before = min(before, len(extents))
    others = [Span([number % vocabulary], 0, extent.start, False, True) for number, extent in enumerate(extents)]
    many = [
        Span([1] * (min(start + BLOCK, crowd) - start), start, beside.start, False, False)
        for start in range(0, crowd, BLOCK)
    ]
    cuts = [*range(0, len(probe) - 1, BLOCK), len(probe) - 1, len(probe)]
    spans = [Span(probe[start:end], start, own.start, False, True) for start, end in itertools.pairwise(cuts)]
    rows = [decode([*many, *others[:before], span, *others[before:]])[before].clone() for span in spans]
    for extent in [*extents, own, beside]:
        cache.release(extent)
    return torch.stack(rows)
