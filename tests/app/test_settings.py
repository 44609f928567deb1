"""The server's settings."""

from pathlib import Path

import pytest

from app.settings import Settings, SettingsError, read


def test_a_flag_wins_over_the_environment() -> None:
    environment = {"CHAT_MODEL": "/weights", "CHAT_MAX_QUEUE": "7", "CHAT_PORT": "1"}
    settings = read(["--max-queue", "9"], environment)
    assert (settings.max_queue, settings.port, settings.model) == (9, 1, Path("/weights"))


def test_an_empty_variable_is_no_setting() -> None:
    assert read(["--model", "/weights"], {"CHAT_MAX_CONTEXT": ""}).max_context is None


def test_the_name_is_the_folders_where_none_is_given() -> None:
    assert read(["--model", "/models/demo"], {}).name == "demo"
    assert read(["--model", "/models/demo", "--name", "mini-4k"], {}).name == "mini-4k"


def test_weights_of_adapters_are_read_by_name() -> None:
    environment = {"CHAT_MODEL": "/weights", "CHAT_ADAPTER_WEIGHTS": "french=0.5, polite=-1"}
    assert read([], environment).adapter_weights == {"french": 0.5, "polite": -1.0}


def test_a_missing_model_is_named() -> None:
    with pytest.raises(SettingsError, match=r"--model \(CHAT_MODEL\): Field required"):
        read([], {})


@pytest.mark.parametrize(
    ("variable", "value", "allowed"),
    [
        ("CHAT_MAX_QUEUE", "-1", "greater than or equal to 0"),
        ("CHAT_PORT", "70000", "less than or equal to 65535"),
        ("CHAT_DTYPE", "float16", "'auto', 'float32' or 'bfloat16'"),
        ("CHAT_MAX_CONTEXT", "many", "valid integer"),
        ("CHAT_ADAPTER_WEIGHTS", "french", "write it like french=0.5,polite=1"),
        ("CHAT_ADAPTER_WEIGHTS", "french=1,french=2", "each adapter once"),
        ("CHAT_ADAPTER_WEIGHTS", "french=much", "valid number"),
        ("CHAT_ADAPTER_WEIGHTS", "french=nan", "finite number"),
    ],
)
def test_a_value_that_is_not_allowed_is_refused_with_what_is(variable: str, value: str, allowed: str) -> None:
    with pytest.raises(SettingsError, match=allowed) as refused:
        read(["--model", "/weights"], {variable: value})
    assert variable in str(refused.value)
    assert repr(value) in str(refused.value)


def test_help_tells_every_setting_with_its_variable(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        read(["--help"], {})
    assert left.value.code == 0
    text = capsys.readouterr().out
    for name in Settings.model_fields:
        assert f"--{name.replace('_', '-')}" in text
        assert f"CHAT_{name.upper()}" in text
