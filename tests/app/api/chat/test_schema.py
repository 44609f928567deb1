"""Fields of `/chat`, their defaults and ranges."""

import math
from typing import Any

import pytest
from pydantic import ValidationError

from app.api.chat.schema import NOT_NULL, ChatRequest, GenerateKwargs


def test_defaults_match_the_documentation() -> None:
    assert ChatRequest(prompt="x").model_dump(exclude={"generate_kwargs"}) == {
        "prompt": "x",
        "messages": None,
        "return_full_text": True,
        "clean_up_tokenization_spaces": False,
        "prefix": None,
        "handle_long_generation": None,
    }
    assert GenerateKwargs().model_dump(exclude_none=True) == {
        "max_length": 200,
        "min_length": 0,
        "do_sample": True,
        "early_stopping": False,
        "num_beams": 1,
        "num_beam_groups": 1,
        "diversity_penalty": 0.0,
        "temperature": 1.0,
        "top_k": 10,
        "top_p": 1.0,
        "typical_p": 1.0,
        "repetition_penalty": 1.0,
        "length_penalty": 1.0,
        "no_repeat_ngram_size": 0,
        "encoder_no_repeat_ngram_size": 0,
        "num_return_sequences": 1,
        "output_scores": False,
        "return_dict_in_generate": False,
        "remove_invalid_values": False,
    }


def test_every_field_has_a_description() -> None:
    for model in (ChatRequest, GenerateKwargs):
        assert all(field.description for field in model.model_fields.values())


@pytest.mark.parametrize(
    "kwargs",
    [
        {"max_length": 0},
        {"min_length": -1},
        {"num_beams": 0},
        {"num_beam_groups": 0},
        {"diversity_penalty": -0.1},
        {"temperature": -1},
        {"temperature": math.nan},
        {"top_k": -1},
        {"top_p": 1.1},
        {"typical_p": 0},
        {"repetition_penalty": 0},
        {"length_penalty": 11},
        {"length_penalty": math.inf},
        {"no_repeat_ngram_size": 1001},
        {"encoder_no_repeat_ngram_size": -1},
        {"bad_words_ids": []},
        {"bad_words_ids": [[]]},
        {"num_return_sequences": 0},
        {"pad_token_id": -1},
        {"eos_token_id": []},
        {"early_stopping": "sometimes"},
        {"max_time": 3},
    ],
    ids=str,
)
def test_value_out_of_range_is_refused(kwargs: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        GenerateKwargs.model_validate(kwargs)


@pytest.mark.parametrize(
    ("kwargs", "sampled"), [({}, True), ({"do_sample": False}, False), ({"temperature": 0}, False)], ids=str
)
def test_temperature_zero_disables_sampling(kwargs: dict[str, Any], sampled: bool) -> None:
    assert GenerateKwargs(**kwargs).sampled is sampled


@pytest.mark.parametrize("name", sorted(set(GenerateKwargs.model_fields) - NOT_NULL))
def test_null_selects_the_default_as_in_kaito(name: str) -> None:
    assert GenerateKwargs.model_validate({name: None}) == GenerateKwargs()


@pytest.mark.parametrize("name", sorted(NOT_NULL))
def test_null_is_refused_as_in_kaito(name: str) -> None:
    with pytest.raises(ValidationError):
        GenerateKwargs.model_validate({name: None})


def test_json_schema_documents_nullable_fields() -> None:
    for name, field in GenerateKwargs.model_json_schema()["properties"].items():
        assert ({"type": "null"} in field.get("anyOf", [])) is (name not in NOT_NULL)
