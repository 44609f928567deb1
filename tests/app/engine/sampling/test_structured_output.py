"""Answers of a given form, chosen from scores that want something else."""

import dataclasses
import json
import random
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import torch
from transformers import AutoTokenizer, Phi3ForCausalLM

from app.engine.request import Form, InvalidScoresError
from app.engine.sampling.sampler import Choice, Chooser, choose
from app.engine.sampling.structured_output import Grammars, SchemaError
from app.tokenizer import Tokenizer
from tests.support import tiny
from tests.support.requests import request

# Choices of schemas, not secrets.
# ruff: noqa: S311
VOCABULARY = 49152
ENDS = (0, 2)
MOST_TOKENS = 400
NONSENSE = torch.randn(64, VOCABULARY, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def tokenizer(demo: Path) -> Tokenizer:
    return Tokenizer(AutoTokenizer.from_pretrained(demo))


@pytest.fixture(scope="module")
def grammars(tokenizer: Tokenizer) -> Grammars:
    return Grammars(tokenizer.to_json(), VOCABULARY, ENDS)


@pytest.fixture(scope="module")
def model() -> Phi3ForCausalLM:
    return tiny.golden()


def schema(chance: random.Random, depth: int = 0) -> dict[str, Any]:
    """A schema of bounded answers."""
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


def answer(model: Phi3ForCausalLM, form: Form, seed: int) -> tuple[list[int], bool]:
    """Tokens drawn from scores without sense, and whether an end token came."""
    wanted = dataclasses.replace(request([1], MOST_TOKENS, ENDS, do_sample=True, top_k=0, seed=seed), form=form)
    chooser = Chooser(model, wanted, 0, seed)
    ids: list[int] = []
    while len(ids) < MOST_TOKENS:
        (choice,) = choose(NONSENSE[[(seed + len(ids)) % len(NONSENSE)]], [chooser])
        assert isinstance(choice, Choice)
        if choice.token in ENDS:
            return ids, True
        chooser.append(choice.token)
        ids.append(choice.token)
    return ids, False


def test_answers_to_200_schemas_are_valid(model: Phi3ForCausalLM, grammars: Grammars, tokenizer: Tokenizer) -> None:
    valid = 0
    for seed in range(200):
        wanted = schema(random.Random(seed))
        ids, ended = answer(model, grammars.json(wanted), seed)
        assert ended, wanted
        jsonschema_rs.validate(wanted, json.loads(tokenizer.decode(ids)))
        valid += 1
    assert valid == 200


def test_a_form_begins_anew_for_each_sequence(model: Phi3ForCausalLM, grammars: Grammars) -> None:
    form = grammars.json({"type": "integer", "minimum": 10, "maximum": 99})
    assert [answer(model, form, seed)[1] for seed in (1, 2, 1)] == [True] * 3
    assert answer(model, form, 1) == answer(model, form, 1)


def test_any_object_can_be_asked_for(grammars: Grammars, tokenizer: Tokenizer) -> None:
    form = grammars.json({"type": "object"}).begin()
    scores = torch.zeros(1, VOCABULARY)
    (brace,) = tokenizer.encode("{")
    assert form.exclude(scores)[0, brace] == 0
    assert form.exclude(scores)[0, [*ENDS, *tokenizer.encode("a")]].tolist() == [-torch.inf] * 3
    assert scores.eq(0).all()


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"type": "strin"}, "Invalid type"),
        ({"$ref": "#/nowhere"}, "does not exist"),
        ({"type": "object", "unevaluatedProperties": False}, "unevaluatedProperties"),
        ({"unevaluatedProperties": False, "x-guidance": {"lenient": True}}, "unevaluatedProperties"),
        ({"type": "string", "pattern": "("}, "cannot be served"),
    ],
    ids=str,
)
def test_a_schema_that_cannot_be_held_to_is_refused(grammars: Grammars, wanted: dict[str, Any], said: str) -> None:
    with pytest.raises(SchemaError, match=said):
        grammars.json(wanted)


def test_a_row_that_cannot_go_on_leaves_the_others_alone(model: Phi3ForCausalLM, grammars: Grammars) -> None:
    form = grammars.json({"type": "integer"})
    broken = Chooser(model, dataclasses.replace(request([1], 8), form=form), 0, 0)
    broken.append(9999)
    others = [Chooser(model, request([1], 8), number, 0) for number in range(2)]
    scores = torch.randn(3, VOCABULARY, generator=torch.Generator().manual_seed(0))
    first, error, last = choose(scores.clone(), [others[0], broken, others[1]])
    assert isinstance(error, InvalidScoresError)
    assert isinstance(first, Choice)
    assert isinstance(last, Choice)
    assert [first.token, last.token] == scores[[0, 2]].argmax(-1).tolist()
