"""Finds out what this machine computes: the same as another way, and the same in any company."""

import itertools

import torch

from app.engine.batched import Decode
from app.engine.cache import BLOCK, KeyValueCache
from app.engine.decoder import Span


def invariant(decode: Decode, cache: KeyValueCache, vocabulary: int, concurrency: int) -> bool:
    """Whether the scores for a probe have the same bits alone and in several companies.

    The matrix products are what can differ: their kernels are chosen by the number of rows.
    """
    probe = _probe(cache, vocabulary)
    others = min(concurrency - 1, cache.tokens // 4)
    companies = [(before, others - before) for before in sorted({0, 1, 2, others // 2, others}) if before <= others]
    companies += [(1, 0), (0, 2)]
    alone = _scores(decode, cache, vocabulary, probe, 0, 0)
    together = (_scores(decode, cache, vocabulary, probe, before, after) for before, after in companies)
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
    decode: Decode, cache: KeyValueCache, vocabulary: int, probe: list[int], before: int, after: int
) -> torch.Tensor:
    """Scores after the prompt and after one more token of `probe`, with so many rows of others around it."""
    extents = [extent for _ in range(before + after) if (extent := cache.reserve(1))]
    own = cache.reserve(len(probe))
    if own is None:
        raise RuntimeError("the cache is in use")
    others = [Span([number % vocabulary], 0, extent.start, False, True) for number, extent in enumerate(extents)]
    cuts = [*range(0, len(probe) - 1, BLOCK), len(probe) - 1]
    prompt = [
        Span(probe[start:end], start, own.start, False, end == len(probe) - 1)
        for start, end in itertools.pairwise(cuts)
    ]
    newest = [Span(probe[-1:], len(probe) - 1, own.start, False, True)]
    rows = [decode([*others[:before], *spans, *others[before:]])[before].clone() for spans in (prompt, newest)]
    for extent in [*extents, own]:
        cache.release(extent)
    return torch.stack(rows)
