"""Finds out what this machine computes: the same as another way, and the same in any company."""

import itertools
from dataclasses import dataclass

import torch

from app.engine.kv_cache import BLOCK, KeyValueCache
from app.engine.model_runner.eager import Span
from app.engine.scheduler import PROMPT_TOKENS, Decode


def invariant(decode: Decode, cache: KeyValueCache, vocabulary: int, concurrency: int) -> bool:
    """Whether the scores for a probe have the same bits alone and in several companies.

    The matrix products are what can differ: their kernels are chosen by the number of rows.
    """
    probe = _probe(cache, vocabulary)
    others = concurrency - 1
    crowd = min(PROMPT_TOKENS - BLOCK, cache.tokens // BLOCK // 4 * BLOCK)
    companies = [_Company(before, others - before) for before in {0, 1, 2, others // 2, others} if before <= others]
    companies += [_Company(1), _Company(after=2), _Company(crowd=crowd), _Company(1, crowd=crowd)]
    # Those whose attention is computed together with the probe's.
    companies += [_Company(others // 2, others - others // 2, tokens=len(probe))]
    alone = _scores(decode, cache, vocabulary, probe, _Company())
    together = (_scores(decode, cache, vocabulary, probe, company) for company in companies)
    return all(torch.equal(alone, scores) for scores in together)


def difference(decode: Decode, other: Decode, cache: KeyValueCache, vocabulary: int) -> float:
    """How far two ways to compute a probe are apart: the norm of the difference of scores over the norm of scores."""
    probe = _probe(cache, vocabulary)
    scores, others = (_scores(each, cache, vocabulary, probe, _Company()) for each in (decode, other))
    return float((scores - others).norm() / scores.norm())


def _probe(cache: KeyValueCache, vocabulary: int) -> list[int]:
    """Tokens of more than one block, where there is room for them."""
    generator = torch.Generator().manual_seed(0)
    size = min(BLOCK + 5, cache.tokens - 1)
    probe: list[int] = torch.randint(vocabulary, (size + 1,), generator=generator).tolist()
    return probe


@dataclass(frozen=True, slots=True)
class _Company:
    """What is computed beside a probe, as far as there is room.

    Attributes:
        before: newest tokens of as many sequences, which come before the probe's.
        after: likewise, after it.
        tokens: how many each of those sequences has.
        crowd: tokens of one more prompt, which come first of all.
    """

    before: int = 0
    after: int = 0
    tokens: int = 1
    crowd: int = 0


def _scores(decode: Decode, cache: KeyValueCache, vocabulary: int, probe: list[int], company: _Company) -> torch.Tensor:
    """Scores after each block of the prompt and after one more token of `probe`, each in a pass of its own.

    Args:
        decode: computes.
        cache: unused.
        vocabulary: number of token ids.
        probe: tokens.
        company: in each of the passes.
    """
    beside, own = cache.reserve(company.crowd), cache.reserve(len(probe))
    if own is None or beside is None:
        raise RuntimeError("the cache is in use")
    newest = range(company.before + company.after)
    extents = [extent for _ in newest if (extent := cache.reserve(company.tokens))]
    before = min(company.before, len(extents))
    others = [
        Span([number % vocabulary], company.tokens - 1, extent.start, False, True)
        for number, extent in enumerate(extents)
    ]
    many = [
        Span([1] * (min(start + BLOCK, company.crowd) - start), start, beside.start, False, False)
        for start in range(0, company.crowd, BLOCK)
    ]
    cuts = [*range(0, len(probe) - 1, BLOCK), len(probe) - 1, len(probe)]
    spans = [Span(probe[start:end], start, own.start, False, True) for start, end in itertools.pairwise(cuts)]
    rows = [decode([*many, *others[:before], span, *others[before:]])[before].clone() for span in spans]
    for extent in [*extents, own, beside]:
        cache.release(extent)
    return torch.stack(rows)
