"""Outputs that match a grammar, sampled from logits that prefer something else."""

import json
import random
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import torch
from transformers import AutoTokenizer, Phi3ForCausalLM

from app.engine.exceptions import InvalidLogitsError
from app.engine.sampling.sampler import SampledToken, Sampler, sample
from app.engine.sampling.structured_output import GrammarCompiler, SchemaError
from app.engine.sampling_params import Grammar
from app.tokenizer import Tokenizer
from tests.support import tiny
from tests.support.requests import request

# Choices of schemas, not secrets.
# ruff: noqa: S311
VOCAB_SIZE = 49152
ENDS = (0, 2)
MOST_TOKENS = 400
NONSENSE = torch.randn(64, VOCAB_SIZE, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def tokenizer(demo: Path) -> Tokenizer:
    return Tokenizer(AutoTokenizer.from_pretrained(demo))


@pytest.fixture(scope="module")
def grammars(tokenizer: Tokenizer) -> GrammarCompiler:
    return GrammarCompiler(tokenizer.to_json(), VOCAB_SIZE, ENDS)


@pytest.fixture(scope="module")
def model() -> Phi3ForCausalLM:
    return tiny.golden()


def schema(chance: random.Random, depth: int = 0) -> dict[str, Any]:
    """Return a random schema whose outputs have a bounded length."""
    kinds = ["string", "integer", "number", "boolean", "null", "enum", "const"]
    kind = chance.choice(kinds + (["object", "object", "array", "anyOf"] if depth < 2 else []))
    match kind:
        case "string":
            return chance.choice([{"type": "string", "maxLength": 6}, {"type": "string", "pattern": "^[a-f]{2,4}$"}])
        case "integer" | "number":
            low = chance.randrange(-50, 50)
            return {"type": kind, "minimum": low, "maximum": low + chance.randrange(100)}
        case "enum":
            return {"enum": chance.sample(["a", "é", 1, 2.5, None, True, [1], {"b": 2}], 3)}
        case "const":
            return {"const": chance.choice(["x y", 7, False])}
        case "array":
            return {"type": "array", "items": schema(chance, depth + 1), "minItems": 1, "maxItems": 3}
        case "anyOf":
            return {"anyOf": [schema(chance, depth + 1) for _ in range(2)]}
        case "object":
            names = chance.sample(["name", "größe", "a b", 'q"', "x", "y"], 3)
            return {
                "type": "object",
                "properties": {name: schema(chance, depth + 1) for name in names},
                "required": names[:2],
                "additionalProperties": False,
            }
    return {"type": kind}


def generate(model: Phi3ForCausalLM, grammar: Grammar, seed: int) -> tuple[list[int], bool]:
    """Sample from random logits, and return the tokens and whether an EOS token came."""
    wanted = request([1], MOST_TOKENS, ENDS, temperature=1.0, seed=seed, grammar=grammar)
    sampler = Sampler(model, wanted, 0, seed)
    output: list[int] = []
    while len(output) < MOST_TOKENS:
        (sampled,) = sample(NONSENSE[[(seed + len(output)) % len(NONSENSE)]], [sampler])
        assert isinstance(sampled, SampledToken)
        if sampled.token_id in ENDS:
            return output, True
        sampler.append(sampled.token_id)
        output.append(sampled.token_id)
    return output, False


def test_outputs_for_200_schemas_are_valid(
    model: Phi3ForCausalLM, grammars: GrammarCompiler, tokenizer: Tokenizer
) -> None:
    valid = 0
    for seed in range(200):
        wanted = schema(random.Random(seed))
        output, ended = generate(model, grammars.compile_json_schema(wanted), seed)
        assert ended, wanted
        jsonschema_rs.validate(wanted, json.loads(tokenizer.decode(output)))
        valid += 1
    assert valid == 200


def test_fork_restarts_the_grammar_for_each_sequence(model: Phi3ForCausalLM, grammars: GrammarCompiler) -> None:
    grammar = grammars.compile_json_schema({"type": "integer", "minimum": 10, "maximum": 99})
    assert [generate(model, grammar, seed)[1] for seed in (1, 2, 1)] == [True] * 3
    assert generate(model, grammar, 1) == generate(model, grammar, 1)


def test_grammar_of_any_object_starts_with_a_brace(grammars: GrammarCompiler, tokenizer: Tokenizer) -> None:
    grammar = grammars.compile_json_schema({"type": "object"}).fork()
    logits = torch.zeros(1, VOCAB_SIZE)
    (brace,) = tokenizer.encode("{")
    assert grammar.mask_logits(logits)[0, brace] == 0
    assert grammar.mask_logits(logits)[0, [*ENDS, *tokenizer.encode("a")]].tolist() == [-torch.inf] * 3
    assert logits.eq(0).all()


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"type": "strin"}, "Invalid type"),
        ({"$ref": "#/nowhere"}, "does not exist"),
        ({"type": "object", "unevaluatedProperties": False}, "unevaluatedProperties"),
        ({"unevaluatedProperties": False, "x-guidance": {"lenient": True}}, "unevaluatedProperties"),
        ({"type": "string", "pattern": "("}, "not supported"),
    ],
    ids=str,
)
def test_unsupported_schema_raises_with_the_reason(
    grammars: GrammarCompiler, wanted: dict[str, Any], said: str
) -> None:
    with pytest.raises(SchemaError, match=said):
        grammars.compile_json_schema(wanted)


def test_row_with_a_broken_grammar_does_not_affect_the_others(
    model: Phi3ForCausalLM, grammars: GrammarCompiler
) -> None:
    grammar = grammars.compile_json_schema({"type": "integer"})
    broken = Sampler(model, request([1], 8, grammar=grammar), 0, 0)
    broken.append(9999)
    others = [Sampler(model, request([1], 8), number, 0) for number in range(2)]
    logits = torch.randn(3, VOCAB_SIZE, generator=torch.Generator().manual_seed(0))
    first, error, last = sample(logits.clone(), [others[0], broken, others[1]])
    assert isinstance(error, InvalidLogitsError)
    assert isinstance(first, SampledToken)
    assert isinstance(last, SampledToken)
    assert [first.token_id, last.token_id] == logits[[0, 2]].argmax(-1).tolist()
